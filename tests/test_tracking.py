"""The records that Weights & Biases gets, read back from the files of offline runs (docs/tracking.md has the names)."""

import json
import struct

import pytest
from conftest import run
from short_runs import metrics, supervised_arguments, uda_arguments
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path):
    """Yield the records of a .wandb file: 7 bytes of its own, then a LevelDB log (blocks of 32 KiB, with fragments)."""
    content = path.read_bytes()
    position, parts = HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # no room for a header: the rest of a block is padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        parts += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or last fragment
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def contents(folder):
    """Return (run, history, summary) of the only offline run in a folder."""
    (path,) = folder.rglob("*.wandb")
    meta, history, summary = None, [], {}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            meta = record.run
        elif kind == "history":
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            history.append({key: json.loads(value) for key, value in items.items()})
        elif kind == "summary":
            updates = record.summary.update
            summary |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in updates}
    return meta, history, summary


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    wandb = ("--wandb", "offline", "--wandb-project", "lath")
    short = ("--steps", 6, "--log-every", 2, *wandb)
    run("train_supervised.py", *supervised_arguments(stores, folder / "s", *short))
    run("train_uda.py", *uda_arguments(stores, folder / "t", *short, "--reference", folder / "s"))
    for name, domains in (("s", ("source", "labelled")), ("t", ("labelled",))):
        run("evaluate.py", folder / name, "--data", stores, "--domain", *domains, *wandb)
    return folder


def test_a_training_run_has_its_group_tags_and_curves(trained):
    meta, history, summary = contents(trained / "t" / "wandb")
    assert (meta.project, meta.run_group, meta.job_type) == ("lath", "demo.uda", "train_uda")
    assert set(meta.tags) == {"fold0", "target:labelled"}
    config = {item.key: json.loads(item.value_json) for item in meta.config.update}
    assert config["lambda_adv_main"] == 0.05 and config["experiment"] == "demo.uda"
    lines = metrics(trained / "t")
    logged = {line["_step"]: line["loss_D_main"] for line in history if "loss_D_main" in line}
    assert logged == {line["step"]: line["loss_D_main"] for line in lines if "loss_D_main" in line}
    assert set(logged) == {2, 4, 6} and "miou_source_validation_best" in summary


def test_scores_of_generalization_and_adaptation_stand_side_by_side(trained):
    for name, domain, method in (
        ("s", "source", "supervised"), ("s", "labelled", "generalization"), ("t", "labelled", "uda"),
    ):  # fmt: skip
        folder = trained / name / "evaluation" / domain
        meta, _, summary = contents(folder / "wandb")
        score = json.loads((folder / "score.json").read_text())
        config = {item.key: json.loads(item.value_json) for item in meta.config.update}
        assert meta.project == "lath" and meta.job_type == "evaluation" and meta.run_group == score["experiment"]
        assert (config["domain"], config["method"], config["fold"]) == (domain, method, 0)
        assert f"method:{method}" in meta.tags and f"domain:{domain}" in meta.tags
        for key in ("miou", "rdt", "phase_fraction_predicted", "phase_fraction_label"):
            assert summary[key] == pytest.approx(score[key])


def test_disabled_writes_nothing(stores, trained, tmp_path):
    run("evaluate.py", trained / "s" / "last.pt", "--data", stores, "--domain", "labelled", "--wandb", "disabled")
    assert len(list((trained / "s" / "evaluation").rglob("*.wandb"))) == 2
