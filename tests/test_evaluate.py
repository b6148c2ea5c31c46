"""evaluate.py on real stores: scores, ensembles, unlabelled folders, and what it refuses."""

import copy
import csv
import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import annotated, domains_toml, draw, draw_domains, run, unannotated
from short_runs import selftraining_arguments, supervised_arguments, uda

import evaluate
import models
from common.arguments import first_contradiction
from data.store import Store, store_path
from evaluation import tables
from evaluation.floors import otsu_floor
from evaluation.inference import by_symmetries, predict, window_batches
from evaluation.metrics import Confusion, rdt
from evaluation.segment_folder import DONE, SPECIMEN
from training import checkpoint
from training.tracking import method_of

NATIVE = {"pixel_size_nm": 50, "invert": False, "information_bar": 0}


def make_run(folder, stores, seed=0, **config):
    """A run folder with a randomly initialised checkpoint, after adaptation if `target` is given."""
    torch.manual_seed(seed)
    model = models.build("deeplabv2_small")
    if "target" in config:
        models.domain_batch_norm(model)
    # A random head is nearly constant: with its median moved to zero it cuts the images in two.
    source = Store(store_path(stores, "source"))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(source.tile_image(0))[None, None])["main"]
        model.main_head.branches[0].bias -= logits.median()
    known = {"script": "train_supervised", "experiment": "S.x", "source": "source", "fold": 0, "iterations": 7}
    config = known | config
    folder.mkdir(parents=True)
    state = {
        "config": {**config, "model": "deeplabv2_small", "seed": seed},
        "preparation": {**source.preparation, "native": NATIVE},
        "step": 7,
        "best": {"step": 7, "miou": 0.5},
        "model": model.state_dict(),
    }
    (folder / "config.json").write_text(json.dumps(state["config"]))
    checkpoint.save(folder / "last.pt", state)
    return folder


def call(monkeypatch, *arguments):
    """evaluate.py in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments), "--device", "cpu"])
    try:
        evaluate.main()
    except SystemExit as end:
        return end.code
    return 0


def test_inference_is_in_float32(monkeypatch, stores, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's own choice: 10 bits of a factor
    folder = make_run(tmp_path / "run", stores)
    assert call(monkeypatch, folder, "--data", stores, "--domain", "labelled", "--otsu") == 0
    assert not torch.backends.cudnn.allow_tf32


def score_of(folder):
    return json.loads((folder / "score.json").read_text())


def probability(run, image):
    model, state = checkpoint.load_model(run)
    return predict(model, image, state["preparation"]["tile"], state["preparation"]["overlap"])


def counts(predictor, store, fold=0):
    total = Confusion.none(2)
    for m in store.evaluation_micrographs(fold):
        total += Confusion.of(models.classes(predictor(store.image(m))), store.mask(m))
    return total


def test_a_score_is_that_of_the_whole_test_micrographs(tmp_path, stores, monkeypatch):
    supervised = make_run(tmp_path / "supervised", stores)
    data = ("--data", stores)
    printed = run("evaluate.py", supervised, *data, "--domain", "labelled")
    assert "evaluate" in printed.stderr and score_of(supervised / "evaluation/labelled")["rdt"] is None
    for domain in ("source", "labelled"):
        assert call(monkeypatch, supervised, *data, "--domain", domain) == 0
    source, target = (score_of(supervised / "evaluation" / name) for name in ("source", "labelled"))
    store = Store(store_path(stores, "labelled"))
    expected = counts(lambda image: probability(supervised, image), store)
    assert (target["tp"], target["fp"], target["fn"], target["tn"]) == (
        expected.counts[1, 1], expected.counts[0, 1], expected.counts[1, 0], expected.counts[0, 0],
    )  # fmt: skip
    assert 0 < expected.predicted[1] < 1
    assert expected.pixels == 2 * 100 * 90, "scored on m4 and m5, without padding"
    assert target["miou"] == expected.miou and list(target["iou"].values()) == expected.iou()
    assert target["rdt"] == rdt(target["miou"], source["miou"]) and source["rdt"] == 0
    facts = ("domain", "variant", "checkpoint", "step", "images", "seed", "fold", "store_fingerprint")
    assert [target[key] for key in facts] == ["labelled", "plain", "last", 7, 2, 0, 0, store.fingerprint]
    with (supervised / "evaluation/labelled/images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["m4", "m5"]
    assert sum(int(row["tp"]) for row in rows) == target["tp"]
    assert cv2.imread(str(supervised / "evaluation/labelled/panels/m4.png")) is not None


def test_an_adapted_model_uses_the_target_statistics_on_its_target_only(tmp_path, stores, monkeypatch, capsys):
    adapted = make_run(tmp_path / "uda", stores, script="train_uda", target="labelled", reference=None)
    state = checkpoint.load(adapted)
    for name, value in state["model"].items():
        if "norms.target.running_mean" in name:
            value += 0.3
    checkpoint.save(adapted / "last.pt", state)

    def with_statistics(domain, name):
        model, _ = checkpoint.load_model(adapted)
        models.set_domain(model, domain)
        return counts(lambda image: predict(model, image, 48, 8), Store(store_path(stores, name)))

    out = tmp_path / "out"
    for name, domain in (("labelled", "target"), ("source", "source")):
        assert call(monkeypatch, adapted, "--data", stores, "--domain", name) == 0
        assert score_of(adapted / "evaluation" / name)["tp"] == with_statistics(domain, name).counts[1, 1]
        line = (adapted, "--images", stores.parent / "domains.toml", "--images-of", name, "--out", out / name)
        assert call(monkeypatch, *line) == 0 and f"statistics of the {domain}" in capsys.readouterr().out
        for scored in (adapted / "evaluation" / name / "predictions").iterdir():
            images = [cv2.imread(str(folder / scored.name), cv2.IMREAD_UNCHANGED)
                      for folder in (scored.parent, out / name / "masks")]  # fmt: skip
            assert np.array_equal(*images), scored
    assert with_statistics("source", "labelled") != with_statistics("target", "labelled")
    assert call(monkeypatch, adapted, "--images", stores.parent / "source" / "images", "--out", out) == 0
    assert "statistics of the target" in capsys.readouterr().out, "a folder has no name: it is of the target's kind"


def test_symmetries_and_statistics_of_a_micrograph_are_scores_of_their_own(tmp_path, stores, monkeypatch):
    """Alone and together, of an ensemble too, and for a folder of micrographs without labels."""
    run = make_run(tmp_path / "run", stores)
    store, score, found = Store(store_path(stores, "labelled")), (run, "--data", stores, "--domain", "labelled"), {}
    model, _ = checkpoint.load_model(run)
    both = ("--tta", "--adabn-by-image", 0.5)

    def predictor(image, share=None, tta=False):
        network = copy.deepcopy(model)
        if share:
            models.mix_statistics(network, window_batches(image, 48, 8, "cpu"), share)
        return predict(by_symmetries(network) if tta else network, image, 48, 8)

    cases = (
        ("tta", both[:1], {"tta": True}),
        ("adabn-image-0.5", both[1:], {"share": 0.5}),
        ("adabn-image-0.5.tta", both, {"share": 0.5, "tta": True}),
    )
    for variant, options, settings in cases:
        assert call(monkeypatch, *score, *options) == 0
        found[variant] = score_of(run / f"evaluation/labelled.{variant}")
        expected = counts(lambda image, settings=settings: predictor(image, **settings), store)
        assert (found[variant]["variant"], found[variant]["tp"]) == (variant, expected.counts[1, 1])
    assert len({one["tp"] for one in found.values()} | {counts(predictor, store).counts[1, 1]}) == 4
    assert call(monkeypatch, *score, "--ensemble", "--out", tmp_path / "ensemble", *both) == 0
    assert score_of(tmp_path / "ensemble")["variant"] == "ensemble.adabn-image-0.5.tta"
    assert score_of(tmp_path / "ensemble")["tp"] == found["adabn-image-0.5.tta"]["tp"]

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), store.image(4))
    assert call(monkeypatch, run, "--images", tmp_path / "images", "--out", tmp_path / "out", *both) == 0
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "a.png"), cv2.IMREAD_GRAYSCALE)
    assert np.mean((mask > 0) == models.classes(predictor(store.image(4), 0.5, True))) > 0.999, "but for 255 steps"


def test_what_excludes_symmetries_and_statistics_of_a_micrograph_is_said(tmp_path, stores, monkeypatch, capsys):
    run = make_run(tmp_path / "run", stores)
    score = (run, "--data", stores, "--domain", "labelled")
    for one in (("--tta",), ("--adabn-by-image", 0.5)):
        for other in (("--otsu",), ("--gradcam",), ("--selection", "x.json")):
            assert call(monkeypatch, *score, *one, *other) == 2
            assert one[0] in capsys.readouterr().err
    assert call(monkeypatch, *score, "--adabn", "--adabn-by-image", 0.5) == 2
    assert "give one of them" in capsys.readouterr().err
    monkeypatch.setattr(models, "build", lambda name, phases: WithoutNorm())
    torch.save({**checkpoint.load(run), "model": WithoutNorm().state_dict()}, run / "last.pt")
    assert call(monkeypatch, *score, "--adabn-by-image", 0.5) == 2
    assert "has no batch norm, --adabn-by-image changes nothing" in capsys.readouterr().err


class WithoutNorm(torch.nn.Module):
    levels = ("main",)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, images):
        return {"main": self.layer(images.float())}


def test_adabn_and_otsu_are_scores_of_their_own(tmp_path, stores, monkeypatch):
    supervised = make_run(tmp_path / "supervised", stores)
    options = (supervised, "--data", stores, "--domain", "labelled")
    for extra in ((), ("--adabn",), ("--otsu",)):
        assert call(monkeypatch, *options, *extra) == 0
    store = Store(store_path(stores, "labelled"))
    scores = {name: score_of(supervised / f"evaluation/labelled{name}") for name in ("", ".adabn", ".otsu")}
    floor = otsu_floor(store, store.evaluation_micrographs(0))
    assert scores[".otsu"]["tp"] == counts(floor, store).counts[1, 1]
    assert scores[".otsu"]["miou"] >= counts(lambda image: 1 - floor(image), store).miou
    assert scores[".adabn"]["variant"] == "adabn" and scores[".adabn"]["tp"] != scores[""]["tp"]
    model, _ = checkpoint.load_model(supervised)
    tiles = store.training_tiles(0, labelled=False)
    batches = np.array_split(tiles, -(-len(tiles) // 16))
    images = (torch.from_numpy(np.stack([store.tile_image(i) for i in batch])[:, None]) for batch in batches)
    models.reestimate_statistics(model, images)
    assert scores[".adabn"]["tp"] == counts(lambda image: predict(model, image, 48, 8), store).counts[1, 1]


def test_an_ensemble_averages_probabilities(tmp_path, stores, monkeypatch):
    runs = [make_run(tmp_path / str(seed), stores, seed) for seed in (1, 2)]
    out = tmp_path / "bagged"
    options = ("--data", stores, "--domain", "labelled", "--ensemble")
    assert call(monkeypatch, *runs, *options) == 2, "--out is needed"
    assert call(monkeypatch, *runs, *options, "--out", out) == 0
    store = Store(store_path(stores, "labelled"))
    expected = counts(lambda image: np.mean([probability(run, image) for run in runs], axis=0), store)
    score = score_of(out)
    assert (score["variant"], score["tp"], score["tn"]) == ("ensemble", expected.counts[1, 1], expected.counts[0, 0])


def test_runs_of_different_folds_are_no_ensemble_on_the_source(tmp_path, stores, monkeypatch, capsys):
    runs = [make_run(tmp_path / str(fold), stores, fold=fold) for fold in (0, 1)]
    options = ("--data", stores, "--domain", "source", "--ensemble", "--out", tmp_path / "out")
    assert call(monkeypatch, *runs, *options) == 2
    assert "folds" in capsys.readouterr().err


def test_several_runs_are_scored_in_turn(tmp_path, stores, monkeypatch, capsys):
    runs = [make_run(tmp_path / str(seed), stores, seed) for seed in (1, 2)]
    assert call(monkeypatch, *runs, "--data", stores, "--domain", "labelled") == 0
    mious = [100 * score_of(run / "evaluation/labelled")["miou"] for run in runs]
    assert f"mIoU {np.mean(mious):.1f} ± {np.std(mious, ddof=1):.1f} %" in capsys.readouterr().out


def test_a_generalization_row_is_its_supervised_runs_score(tmp_path, stores, monkeypatch, capsys):
    file = tmp_path / "rows.toml"
    file.write_text(
        f'runs = "{tmp_path}/runs"\n["T9.1"]\nscript = "evaluate"\nrun = "S.x"\ndomain = "labelled"\n["S.x"]\n'
        'script = "train_supervised"\nsource = "source"\nmodel = "deeplabv2_small"\nepochs = 200\n'
    )
    folder = make_run(tmp_path / "runs/S.x/fold1", stores, fold=1)
    shutil.copy(folder / "last.pt", folder / "epoch100.pt")
    options = ("--experiments", file, "--fold", 1, "--data", stores)
    row = ("--experiment", "T9.1", *options)
    assert call(monkeypatch, *row, "--checkpoint", "epoch100", "--dry-run") == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["run"], values["domain"], values["epochs"]) == ("S.x", "labelled", 100)
    assert values["model"] == "deeplabv2_small" and not (folder / "evaluation").exists()
    for checkpoint_name in ("last", "epoch100"):
        assert call(monkeypatch, *row, "--checkpoint", checkpoint_name) == 0
    scores = [score_of(folder / "evaluation" / name) for name in ("labelled", "labelled.epoch100")]
    assert [score["checkpoint"] for score in scores] == ["last", "epoch100"] and scores[0]["tp"] == scores[1]["tp"]
    assert call(monkeypatch, *row, "--checkpoint", "epoch7") == 2 and "epoch7.pt" in capsys.readouterr().err
    assert call(monkeypatch, "--experiment", "S.x", *options) == 2
    assert "train_supervised.py" in capsys.readouterr().err
    assert call(monkeypatch, folder, *row) == 2, "a run and an experiment"
    assert call(monkeypatch, "--experiment", "T8", *options) == 2 and "T9.1" in capsys.readouterr().err


def test_a_selection_is_scored_beside_the_whole_test_set(tmp_path, stores, monkeypatch, capsys):
    supervised = make_run(tmp_path / "supervised", stores)
    store = Store(store_path(stores, "labelled"))
    entries = {"version": 1, "domain": "labelled", "fingerprint": store.fingerprint, "made_by": {}}
    entries |= {"tiles": [0], "tile_phase_fraction": {"0": 0.5}, "micrographs": ["m5"]}
    file = tmp_path / "common.json"
    file.write_text(json.dumps(entries))
    options = (supervised, "--data", stores, "--domain", "labelled")
    assert call(monkeypatch, *options, "--selection", file) == 0
    score = score_of(supervised / "evaluation/labelled.selected-common")
    expected = Confusion.of(models.classes(probability(supervised, store.image(5))), store.mask(5))
    assert (score["variant"], score["images"], score["tp"]) == ("selected-common", 1, expected.counts[1, 1])
    assert call(monkeypatch, *options, "--selection", file, "--adabn") == 2
    file.write_text(json.dumps(entries | {"micrographs": []}))
    assert call(monkeypatch, *options, "--selection", file) == 2
    assert "common" in capsys.readouterr().err


def test_unlabelled_micrographs_get_masks_of_their_own_size(tmp_path, stores):
    supervised = make_run(tmp_path / "supervised", stores)
    draw(tmp_path / "lab", 2, seed=5, contrast=1.0, size=(64, 81))
    images, out = tmp_path / "lab/images", tmp_path / "out"
    shutil.copy(images / "m0.png", images / "m0.bmp")
    (images / "broken.tif").write_bytes((images / "m0.png").read_bytes()[:100])
    before = {file.name: file.read_bytes() for file in images.iterdir()}
    options = ("--images", images, "--out", out, "--pixel-size", 100, "--invert", "--information-bar", 10)
    result = run("evaluate.py", supervised, *options, ok=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "broken.tif" in result.stderr and "m0.png" in result.stderr, "both m0 would be one mask"
    assert {file.name: file.read_bytes() for file in images.iterdir()} == before
    mask = cv2.imread(str(out / "masks/m1.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (64, 81) and set(np.unique(mask)) == {0, 255} and not mask[54:].any()
    grey = 255 - cv2.imread(str(images / "m1.png"), cv2.IMREAD_GRAYSCALE)[:54]
    working = cv2.resize(grey, (162, 108), interpolation=cv2.INTER_CUBIC)
    expected = cv2.resize(probability(supervised, working)[1], (81, 54), interpolation=cv2.INTER_AREA) >= 0.5
    assert np.mean(expected == (mask[:54] > 0)) > 0.99
    with (out / "phase_fractions.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"m0.bmp", "m1.png", SPECIMEN}
    assert float(rows["m1.png"]["phase_fraction"]) == pytest.approx((mask[:54] > 0).mean())
    assert (out / "overlays/m1.png").is_file() and not (out / "masks/broken.png").exists()
    assert not (out / DONE).exists(), "two images are missing"
    for name in ("m0.bmp", "broken.tif"):
        (images / name).unlink()
    (out / "masks" / "before.png").write_bytes(b"")
    assert "1 masks of earlier calls too, such as before" in run("evaluate.py", supervised, *options).stderr
    done = json.loads((out / DONE).read_text())
    assert done == {"images": 2, "models": [str(supervised / "last.pt")]}


def test_a_domain_of_a_file_is_not_read_against_what_the_file_says(tmp_path, stores, monkeypatch, capsys):
    supervised = make_run(tmp_path / "supervised", stores)
    for name in ("source", "lom"):
        draw(tmp_path / name, 2, seed=5, contrast=1.0)
    for key, words in (({"invert": True}, "Give --invert or --no-invert"), ({"match": "source"}, "lom.match")):
        text = domains_toml(source=annotated("source", folds=2), lom=annotated("lom", **key))
        (tmp_path / "domains.toml").write_text(text)
        line = (supervised, "--images", tmp_path / "domains.toml", "--images-of", "lom", "--out", tmp_path / "out")
        assert call(monkeypatch, *line) == 2
        assert words in capsys.readouterr().err
        assert (call(monkeypatch, *line, "--no-invert") == 0) == ("invert" in key)


def test_micrographs_of_one_name_in_several_folders_are_all_segmented(tmp_path, stores, monkeypatch, capsys):
    run = make_run(tmp_path / "run", stores)
    for specimen, seed in (("A", 5), ("B", 6)):
        draw(tmp_path / "lom" / specimen, 2, seed=seed, contrast=1.0)
    lom = unannotated("lom") | {"images": "lom/*/images/*"}
    (tmp_path / "domains.toml").write_text(domains_toml(source=annotated("lom/A"), lom=lom))
    out, names = tmp_path / "out", {"A_m0", "A_m1", "B_m0", "B_m1"}
    line = ("--images", tmp_path / "domains.toml", "--images-of", "lom", "--out", out)
    assert call(monkeypatch, run, *line) == 0
    for kind in ("masks", "overlays", "confidence"):
        assert {file.stem for file in (out / kind).iterdir()} == names
    with (out / "phase_fractions.csv").open() as file:
        assert {row["file"] for row in csv.DictReader(file)} == {f"{name}.png" for name in names} | {SPECIMEN}
    capsys.readouterr()
    assert call(monkeypatch, run, "--images", tmp_path / "lom", "--out", out) == 2
    assert "only 2 folders with images" not in (said := capsys.readouterr().err) and "give the folder" in said
    assert call(monkeypatch, run, "--images", tmp_path / "lom" / "A", "--out", out) == 2
    assert "no image (" in (said := capsys.readouterr().err) and "only 2 folders with images" in said


def change(run, native=(), remedy=None):
    """Rewrite what a run's checkpoint says of its domain's micrographs, and of its remedy."""
    state = torch.load(run / "last.pt", weights_only=True)
    state["preparation"]["native"] = NATIVE | dict(native)
    checkpoint.save(run / "last.pt", state | ({"remedy": remedy} if remedy else {}))


def test_models_that_read_micrographs_otherwise_are_no_ensemble(tmp_path, stores, monkeypatch, capsys):
    """Whatever their order. What an option says of the micrographs, the runs need not agree on."""
    runs = [make_run(tmp_path / name, stores, seed) for seed, name in enumerate("ab")]
    draw(tmp_path / "lab", 1, seed=5, contrast=1.0)
    lab = tmp_path / "lab" / "images"
    lines = [(*order, "--ensemble", "--out", tmp_path / "out") for order in (runs, runs[::-1])]

    def refused(words, *more):
        found = [(call(monkeypatch, *line, *(more or ("--images", lab))), capsys.readouterr().err) for line in lines]
        assert len({status for status, _ in found}) == 1, found
        return all(status == 2 and all(word in said for word in words) for status, said in found)

    change(runs[1], {"invert": True})
    assert refused(["made for other micrographs"])
    for option, key, value in (("--pixel-size", "pixel_size_nm", 70), ("--information-bar", "information_bar", 10),
                               ("--page", "page", "largest")):  # fmt: skip
        change(runs[1], {key: value})
        assert refused([*map(str, runs), key, f" {value}", f"Give {option}"])
        assert not refused([], "--images", lab, option, value)
    change(runs[1], {"pixel_size_nm": 70, "information_bar": 10})
    (tmp_path / "domains.toml").write_text(domains_toml(source=annotated("lab")))
    assert not refused([], "--images", tmp_path / "domains.toml", "--images-of", "source")

    for number, run_folder in enumerate(runs):
        levels = np.linspace(0, 255 + number, 256).tolist()
        change(run_folder, (), {"changes": {"match": True}, "levels": levels})
    assert refused(["made for other micrographs"])
    for run_folder, bits in zip(runs, (10, 16), strict=True):
        change(run_folder, {"depth": bits}, {"changes": {}, "levels": []})
    assert not refused([]), "8-bit files have no depth to be read at"
    grey = cv2.imread(str(lab / "m0.png"), cv2.IMREAD_GRAYSCALE)
    (lab / "m0.png").unlink()
    cv2.imwrite(str(lab / "m0.tif"), grey.astype(np.uint16) * 8)
    assert refused(["m0.tif", "10 bits", "16 bits"])
    cv2.imwrite(str(lab / "m0.tif"), grey.astype(np.uint16) * 257)
    assert not refused([]), "16 bits are there, whatever a run knows"


def test_a_score_of_before_the_end_is_no_reference(tmp_path, stores, monkeypatch, capsys):
    supervised = make_run(tmp_path / "supervised", stores)
    options = (supervised, "--data", stores, "--domain")
    assert call(monkeypatch, *options, "source") == 0
    for step, known in ((7, True), (60, False)):
        (supervised / "finished.json").write_text(json.dumps({"step": step}))
        assert call(monkeypatch, *options, "labelled") == 0
        assert (score_of(supervised / "evaluation/labelled")["rdt"] is not None) == known
    assert "of before" in capsys.readouterr().err


def test_the_input_folder_is_never_written_to(tmp_path, stores, monkeypatch, capsys):
    supervised = make_run(tmp_path / "supervised", stores)
    draw(tmp_path / "lab", 1, seed=5, contrast=1.0)
    for out in ("lab", "lab/masks"):
        assert call(monkeypatch, supervised, "--images", tmp_path / "lab/masks", "--out", tmp_path / out) == 2
        assert "--out" in capsys.readouterr().err


def table_rows(table):
    return [pytest.param((option, other), message, id=f"{option}-{other}")
            for (option, *others), message in table.items() for other in others]  # fmt: skip


def words(parser, name):
    """What is typed to give an option."""
    action = next(action for action in parser._actions if action.dest == name)
    value = [] if action.nargs == 0 else [action.choices[-1] if action.choices else "1"]
    return [*action.option_strings[:1], *value]


def test_the_tables_name_options():
    named = {name for table in (evaluate.NEEDS, evaluate.EXCLUDES) for row in table for name in row}
    assert named <= vars(evaluate.build_parser().parse_args([])).keys()


@pytest.mark.parametrize(("names", "message"), table_rows(evaluate.EXCLUDES))
def test_options_that_exclude_each_other_are_refused(names, message, monkeypatch, capsys):
    parser = evaluate.build_parser()
    assert call(monkeypatch, *(word for name in names for word in words(parser, name))) == 2
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


@pytest.mark.parametrize(("names", "message"), table_rows(evaluate.NEEDS))
def test_an_option_without_what_it_needs_is_refused(names, message, monkeypatch, capsys):
    option, _ = names
    assert call(monkeypatch, *words(evaluate.build_parser(), option)) == 2
    assert capsys.readouterr().err.endswith(f"error: {message}\n")
    row = {key: text for key, text in evaluate.NEEDS.items() if key[0] == option}
    assert first_contradiction({option}, row, {}) == message and first_contradiction({*names}, row, {}) is None


def test_what_does_not_fit_is_refused(tmp_path, stores, monkeypatch, capsys):
    supervised = make_run(tmp_path / "supervised", stores)
    state = checkpoint.load(supervised)
    state["preparation"]["tile"] = 64
    checkpoint.save(supervised / "other.pt", state)
    refusals = {
        ("other.pt", "--domain", "labelled"): "tile 64 in the checkpoint, 48 in the store",
        ("last.pt", "--domain", "unlabelled"): "no labelled micrographs",
        ("last.pt", "--domain", "nowhere"): "nowhere.h5",
        ("missing.pt", "--domain", "labelled"): "missing.pt",
        ("last.pt", "--images", tmp_path / "nothing", "--out", tmp_path / "out"): "nothing",
        ("last.pt", "--domain", "labelled", "--invert"): "--images",
    }
    for (name, *options), message in refusals.items():
        assert call(monkeypatch, supervised / name, "--data", stores, *options) == 2
        assert message in capsys.readouterr().err


def test_a_micrograph_that_was_trained_on_is_not_scored(tmp_path, monkeypatch, capsys):
    """Also when domains.toml calls it a test micrograph since; but for a transductive run, which is called so."""
    stores = draw_domains(tmp_path)
    uda(stores, tmp_path / "uda", "--steps", 1)
    uda(stores, tmp_path / "transductive", "--steps", 1, "--transductive")
    domains = tmp_path / "domains.toml"
    domains.write_text(domains.read_text().replace('test = ["m4", "m5"]', 'test = ["m0", "m5"]'))
    run("-m", "data.prepare", domains, "--out", stores, "--force")
    score = ("--data", stores, "--wandb", "disabled", "--domain", "labelled")
    assert call(monkeypatch, tmp_path / "uda", *score) == 2
    assert "'m0' is to be scored, but" in (said := capsys.readouterr().err) and "was trained on it" in said
    assert not (tmp_path / "uda" / "evaluation").exists()
    assert call(monkeypatch, tmp_path / "transductive", *score) == 0
    assert method_of(score_of(tmp_path / "transductive/evaluation/labelled")) == "transductive"
    domains.write_text(domains.read_text().replace('test = ["m0", "m5"]', 'test = ["m5"]'))
    run("-m", "data.prepare", domains, "--out", stores, "--force")
    assert call(monkeypatch, tmp_path / "uda", *score) == 0
    assert "has changed since" in capsys.readouterr().err
    domains.write_text(domains.read_text().replace("[domains.labelled]", "[domains.labelled]\ninvert = true"))
    run("-m", "data.prepare", domains, "--out", stores, "--force")
    assert call(monkeypatch, tmp_path / "uda", *score) == 0
    assert "read otherwise than when" in (said := capsys.readouterr().err) and "invert False then, True now" in said


def test_starting_weights_bring_what_they_were_trained_on(stores, tmp_path, monkeypatch, capsys):
    """A model of fold 0 goes on in fold 1: what fold 1 holds out, it has seen."""
    first = ("--pretraining", tmp_path / "first" / "last.pt")
    for name, more in (("first", ()), ("same", first), ("other", (*first, "--fold", 1))):
        run("train_supervised.py", *supervised_arguments(stores, tmp_path / name, "--steps", 1, *more))
    score = ("--data", stores, "--domain", "source")
    assert call(monkeypatch, tmp_path / "same", *score) == 0
    assert call(monkeypatch, tmp_path / "other", *score) == 2
    assert "is to be scored, but" in capsys.readouterr().err


def test_a_score_is_transductive_by_what_the_model_has_seen(stores, tmp_path, monkeypatch):
    """Also where a run began from such a model, as a teacher, in an ensemble, and by an older version's checkpoint."""
    first, second, old, teacher = (tmp_path / name for name in ("first", "second", "old", "teacher"))
    uda(stores, first, "--steps", 1, "--transductive")
    uda(stores, second, "--steps", 1, "--pretraining", first)
    state = checkpoint.load(first)
    del state["preparation"]["transductive"]
    old.mkdir()
    checkpoint.save(old / "last.pt", state)
    run("train_selftraining.py", *selftraining_arguments(stores, teacher, "--steps", 1, "--pretraining", old))
    honest = make_run(tmp_path / "honest", stores, target="labelled")
    score = ("--data", stores, "--wandb", "disabled", "--domain")
    assert call(monkeypatch, first, second, old, honest, *score, "labelled", "source") == 0
    assert call(monkeypatch, teacher, *score, "labelled", "--network", "teacher") == 0
    assert call(monkeypatch, second, *score, "labelled", "--otsu") == 0
    for name, runs in (("mixed", [honest, second]), ("plain", [honest])):
        assert call(monkeypatch, *runs, *score, "labelled", "--ensemble", "--out", tmp_path / name) == 0
    places = ("first/{}labelled", "first/{}source", "second/{}labelled", "second/{}labelled.otsu", "old/{}labelled",
              "honest/{}labelled", "teacher/{}labelled.teacher", "mixed", "plain")  # fmt: skip
    assert [method_of(score_of(tmp_path / place.format("evaluation/"))) for place in places] == [
        "transductive", "uda", "transductive", "otsu", "transductive",
        "uda", "transductive.teacher", "transductive.ensemble", "ensemble",
    ]  # fmt: skip


def test_tables_of_the_demonstration(tmp_path, stores, monkeypatch):
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}"
        supervised = make_run(folder / "supervised/fold0", stores, seed, experiment="<i>demo", data=str(stores))
        facts = {"script": "train_uda", "target": "labelled", "reference": str(supervised), "data": str(stores)}
        adapted = make_run(folder / "uda/fold0", stores, seed + 5, **facts)
        (adapted / "metrics.jsonl").write_text('{"step": 1, "loss_seg_main": 0.7}\n{"step": 2, "los')
        (folder / "seconds.json").write_text(json.dumps({"data": 10.0 + seed, "uda": 5.0}))
        for name, *options in (("source",), ("labelled",), ("labelled", "--adabn")):
            assert call(monkeypatch, supervised, "--data", stores, "--domain", name, *options) == 0
        if seed == 0:
            assert call(monkeypatch, adapted, "--data", stores, "--domain", "labelled") == 0

    stopped = tmp_path / "seed1/supervised/fold0/evaluation/labelled.adabn"
    (stopped / "score.json").write_text(json.dumps(score_of(stopped) | {"step": 2, "steps": [2]}))
    said = run("-m", "evaluation.tables", tmp_path, "--out", tmp_path, "--demo")
    printed, remark = said.stdout, f"{stopped} is left out: it is of step 2, and"
    assert f"remark: {remark}" in said.stderr and remark in (tmp_path / "report.html").read_text()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"source", "targets", "seconds"} and set(summary["source"]) == {"miou"}
    assert summary["seconds"] == {"data": 10.5, "uda": 5.0}
    target = summary["targets"].pop("labelled")
    assert not summary["targets"]
    assert set(target) == {"label_phase_fraction", "generalization", "adabn", "uda"}
    assert set(target["adabn"]) == {"miou", "rdt", "phase_fraction"}
    assert target["adabn"]["miou"] == score_of(tmp_path / "seed0/supervised/fold0/evaluation/labelled.adabn")["miou"]
    scores = [score_of(tmp_path / f"seed{seed}/supervised/fold0/evaluation/labelled") for seed in (0, 1)]
    assert target["generalization"]["miou"] == pytest.approx((scores[0]["miou"] + scores[1]["miou"]) / 2)
    assert target["uda"]["rdt"] == score_of(tmp_path / "seed0/uda/fold0/evaluation/labelled")["rdt"] is not None
    assert "generalization" in printed and "±" in printed
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img src='data:image/jpeg;base64,") == page.count("<img") == 4, "stands alone in one file"

    run("-m", "evaluation.tables", tmp_path, "--out", tmp_path / "report")
    assert all((tmp_path / "report" / f"scores.{ending}").stat().st_size for ending in ("md", "csv", "tex"))
    page = (tmp_path / "report/report.html").read_text()
    assert "&lt;i&gt;demo" in page and "<i>" not in page
    with (tmp_path / "report/scores.csv").open() as file:
        rows = {(row["experiment"], row["variant"], row["domain"]): row for row in csv.DictReader(file)}
    assert float(rows["<i>demo", "plain", "labelled"]["miou_std"]) == pytest.approx(
        np.std([score["miou"] for score in scores], ddof=1)
    )
    assert rows["S.x", "plain", "labelled"]["miou_std"] == "", "one run has no deviation"


def test_an_adapted_model_on_another_target_is_not_a_result_of_the_demonstration(tmp_path, stores, monkeypatch):
    supervised = make_run(tmp_path / "seed0/supervised/fold0", stores, data=str(stores))
    adapted = make_run(tmp_path / "seed0/uda/fold0", stores, target="t9", reference=str(supervised))
    for folder, name in ((supervised, "source"), (supervised, "labelled"), (adapted, "labelled")):
        assert call(monkeypatch, folder, "--data", stores, "--domain", name) == 0
    target = tables.demo_summary(tmp_path)["targets"]["labelled"]
    assert set(target) == {"label_phase_fraction", "generalization"}
