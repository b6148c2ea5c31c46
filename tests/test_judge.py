"""The judge as commands: what they find, that others take it up, and that no label of a target reaches any of it."""

import csv
import io
import json
import re
import shutil
from contextlib import redirect_stdout
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import annotated, domains_toml, run
from short_runs import supervised_arguments, uda_arguments

import models
from common.errors import InputError
from data.decision import read_decision
from data.store import Store
from evaluation import choose as choosing
from evaluation import gap, scoring
from evaluation.choose import remaining
from evaluation.judge import choice
from evaluation.judge import judge as judging
from evaluation.judge.calibration import Expected
from evaluation.judge.choice import Candidate, grouped
from evaluation.judge.criteria import CRITERIA
from evaluation.judge.export import export
from evaluation.judge.judge import Judge, Look
from evaluation.judge.remedies import HALF, Remedy
from evaluation.judge.truth import true_miou
from evaluation.judge.watch import TargetWatch
from evaluation.judge.windows import labelled_part
from evaluation.members import chosen_runs, load_member
from training import checkpoint
from training.checkpoint import load_model


@pytest.fixture(scope="module")
def micrographs(tmp_path_factory):
    """Bright blobs on a dark ground; `negative` has the same in the other polarity, `wrong` with masks inverted."""
    folder = tmp_path_factory.mktemp("judge")
    rng = np.random.default_rng(0)
    for domain in ("source", "negative", "wrong"):
        for kind in ("images", "masks"):
            (folder / domain / kind).mkdir(parents=True)
        for k in range(6):
            shared = np.random.default_rng([1, k]) if domain != "source" else rng
            mask = cv2.GaussianBlur(shared.standard_normal((100, 90)), (0, 0), 6) > 0.02
            image = np.clip(80 + 70 * mask + 12 * shared.standard_normal(mask.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / domain / "images" / f"m{k}.png"), image if domain == "source" else 255 - image)
            cv2.imwrite(
                str(folder / domain / "masks" / f"m{k}.png"), 255 * (mask ^ (domain == "wrong")).astype(np.uint8)
            )
    text = domains_toml(
        source=annotated("source", folds=3),
        negative=annotated("negative", test=["m4", "m5"]),
    )
    (folder / "domains.toml").write_text(text)
    (folder / "wrong.toml").write_text(text.replace("negative/masks", "wrong/masks"))
    for name in ("domains", "wrong"):
        run("-m", "data.prepare", folder / f"{name}.toml", "--out", folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(micrographs, tmp_path_factory):
    """Runs of two folds that have learnt the source well."""
    folder = tmp_path_factory.mktemp("trained")
    for fold in (0, 1):
        options = ("--steps", 80, "--validate-every", 500, "--fold", fold)
        run("train_supervised.py", *supervised_arguments(micrographs / "domains", folder / f"fold{fold}", *options))
    return [folder / f"fold{fold}" for fold in (0, 1)]


def judged(stores, runs, out, monkeypatch, *more):
    """Run the command here, with few disturbances; return the content of gap.json.

    What is learnt of the source's models is kept for all tests: most of the time goes there.
    """
    monkeypatch.setattr(judging, "DISTURBANCES", 6)
    words = ["--domain", "negative", "--data", stores, "--out", out, "--device", "cpu"]
    words += ["--calibration", stores.parent / f"learnt-{len(runs)}.json", *more]
    gap.main(list(map(str, (*runs, *words))))
    return json.loads((out / "gap.json").read_text())


@pytest.fixture(scope="module")
def of_two(micrographs, trained, tmp_path_factory):
    """Folder of the report of two models, with scores, and what was printed."""
    folder, printed = tmp_path_factory.mktemp("of_two"), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(printed):
        judged(micrographs / "domains", trained, folder, patched, "--score")
    return folder, printed.getvalue()


def test_the_other_polarity_is_found_and_said(of_two):
    folder, said = of_two
    found = json.loads((folder / "gap.json").read_text())
    assert found["recommended"]["invert"] and "`invert = true`" in found["sentence"]
    assert found["as_it_is"]["expected"]["miou"] < found["recommended"]["expected"]["miou"]
    assert found["source_miou"] > 0.8
    assert found["sentence"] in said
    expected = [each["expected"]["miou"] for each in found["tried"]]
    assert expected == sorted(expected, reverse=True)
    for each in found["tried"]:
        assert len(each["expected"]["by_micrograph"]) == 4, "of the training micrographs"
        assert each["expected"]["low"] <= each["expected"]["miou"] <= each["expected"]["high"]
        assert set(each["criteria"]) == set(CRITERIA), "two models disagree too"
    page = (folder / "gap.html").read_text()
    assert "recommended" in page and page.count("data:image/jpeg") == 1


def test_the_remedy_is_a_checkpoint_that_every_command_takes(micrographs, trained, of_two, tmp_path):
    out, _ = of_two
    found = json.loads((out / "gap.json").read_text())
    stores, files = ("--data", micrographs / "domains"), [out / f"fold{fold}.pt" for fold in (0, 1)]
    before = run("evaluate.py", trained[0], *stores, "--domain", "source", "negative").stdout
    after = run("evaluate.py", files[0], *stores, "--domain", "negative").stdout
    run("evaluate.py", *files, *stores, "--domain", "negative", "--ensemble", "--out", tmp_path / "scored")
    scores, page = json.loads((out / "scores.json").read_text()), (out / "gap.html").read_text()
    assert list(scores) == ["as it is", found["recommended"]["remedy"]], "measured afterwards, by --score"
    assert scores[found["recommended"]["remedy"]] == json.loads((tmp_path / "scored/score.json").read_text())["miou"]
    assert all(f"{100 * score:.1f}" in page for score in scores.values())
    miou = [float(value) for value in re.findall(r"mIoU ([\d.]+)", before + after)]
    assert miou[1] < 50 < 80 < miou[2] and miou[2] == pytest.approx(miou[0], abs=10)
    assert found["recommended"]["expected"]["miou"] == pytest.approx(miou[2] / 100, abs=0.2)  # by six disturbances

    options = ("--images", micrographs / "negative" / "images", "--out", tmp_path / "masks")
    run("evaluate.py", *files, "--ensemble", *options)
    for number in range(4):
        mask, label = (
            cv2.imread(str(folder / f"m{number}.png"), cv2.IMREAD_GRAYSCALE) > 0
            for folder in (tmp_path / "masks" / "masks", micrographs / "negative" / "masks")
        )
        assert (mask == label).mean() > 0.8
    for more, words in ((["--adabn"], "carries a remedy"), ([], "changes micrographs")):
        if not more:  # the remedy stands in domains.toml now: applied twice, it would undo itself
            text = (micrographs / "domains.toml").read_text()
            text = text.replace("[domains.negative]", "[domains.negative]\ninvert = true")
            (micrographs / "inverted.toml").write_text(text)
            run("-m", "data.prepare", micrographs / "inverted.toml", "--out", tmp_path / "inverted")
            stores = ("--data", tmp_path / "inverted")
        assert words in run("evaluate.py", files[0], *stores, "--domain", "negative", *more, ok=False).stderr
    refused = run("-m", "evaluation.gap", files[0], "--domain", "negative", "--data", stores[1], ok=False).stderr
    assert "trained on the source" in refused
    said = run("train_supervised.py", *supervised_arguments(
        micrographs / "domains", tmp_path / "on", "--pretraining", files[0]), ok=False).stderr  # fmt: skip
    assert "changed micrographs" in said and "domains.toml" in said


def test_statistics_of_the_target_are_in_the_file(micrographs, trained, tmp_path):
    member = load_member(trained[0], "last", "cpu")
    judge = judging.Judge([member], Store(micrographs / "domains" / "source.h5"))
    target = Store(micrographs / "domains" / "negative.h5", labels=False)
    images, remedy = judge.images_of(target), Remedy(adabn=True, scale=1.5)
    (path,) = export(judge, [member], target, remedy, tmp_path)
    written = load_member(path, "last", "cpu")
    expected = judging.with_statistics_of(judge.networks[0], judge.windows(images, remedy), judge.cut, "cpu")
    for name, value in written.model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=0, atol=0)
    image = images[0]
    assert written.remedy == remedy and written.seen(image).shape == (150, 135)
    found = written.predictor("cpu")(image)
    assert found.shape == (2, *image.shape) and found.sum(0) == pytest.approx(np.ones(image.shape), abs=1e-5)


def test_halfway_has_the_mean_of_both_statistics(micrographs, trained):
    member = load_member(trained[0], "last", "cpu")
    judge = judging.Judge([member], Store(micrographs / "domains" / "source.h5"))
    seen = judge.windows(judge.images_of(Store(micrographs / "domains" / "negative.h5", labels=False)), Remedy())
    of_target, halfway = (
        judging.with_statistics_of(member.model, seen, judge.cut, "cpu", share).state_dict() for share in (1.0, HALF)
    )
    changed = 0
    for name, own in member.model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(halfway[name], (own + of_target[name]) / 2)
            changed += not torch.equal(halfway[name], own)
        elif "num_batches" not in name:
            assert torch.equal(halfway[name], own)
    assert changed > 10


def test_each_model_gets_statistics_of_its_own_fold(micrographs, trained, tmp_path):
    """The target has folds here: it is the source itself."""
    members = [load_member(run_folder, "last", "cpu") for run_folder in trained]
    store = Store(micrographs / "domains" / "source.h5")
    judge, remedy = judging.Judge(members, store), Remedy(adabn=True)
    assert len(judge.images_of(store)) == 6, "to judge by, without their labels"
    for member, path in zip(members, export(judge, members, store, remedy, tmp_path), strict=True):
        fold = member.config["fold"]
        own = [store.image(index) for index in range(6) if index not in store.evaluation_micrographs(fold)]
        assert len(own) == 4
        network = judging.with_statistics_of(member.model, judge.windows(own, remedy), judge.cut, "cpu")
        written = load_member(path, "last", "cpu").model.state_dict()
        assert all(torch.equal(value, written[name]) for name, value in network.state_dict().items())


def test_the_sources_own_score_is_that_of_all_models_on_whole_micrographs(micrographs, trained):
    members = [load_member(run_folder, "last", "cpu") for run_folder in trained]
    store, found = Store(micrographs / "domains" / "source.h5"), []
    for member in members:
        pooled, _ = scoring.score(member.predictor("cpu"), store, store.evaluation_micrographs(member.config["fold"]))
        found.append(pooled.miou)
    assert found[0] != found[1]
    assert judging.Judge(members, store).source_miou == pytest.approx(np.mean(found))


def test_models_of_one_test_set_are_scored_as_the_ensemble_that_they_are(micrographs, trained):
    members = [load_member(run_folder, "last", "cpu") for run_folder in trained]
    target, source = (Store(micrographs / "domains" / f"{name}.h5") for name in ("negative", "source"))
    together = scoring.ensemble([member.predictor("cpu") for member in members])
    of_test = target.evaluation_micrographs(0)
    assert [target.micrographs[index].name for index in of_test] == ["m4", "m5"]
    candidate = Candidate("both", tuple(members))
    assert true_miou(candidate, target, "cpu") == scoring.score(together, target, of_test)[0].miou
    # On the source each model has a fold of its own to be scored on.
    assert true_miou(candidate, source, "cpu") == pytest.approx(judging.Judge(members, source).source_miou)


def test_no_label_of_the_target_is_read(micrographs, trained, tmp_path, monkeypatch):
    """All masks of the target are inverted in the second stores."""
    for stores, out in (("domains", "right"), ("wrong", "wrong")):
        judged(micrographs / stores, trained[:1], tmp_path / out, monkeypatch)
    for name in ("gap.json", "gap.html"):
        assert (tmp_path / "right" / name).read_bytes() == (tmp_path / "wrong" / name).read_bytes()


@pytest.fixture(scope="module")
def adapted(micrographs, trained, tmp_path_factory):
    """A short adaptation to the other polarity, which keeps two checkpoints on its way."""
    folder = tmp_path_factory.mktemp("adapted") / "fold0"
    options = ("--steps", 12, "--keep-every", 5, "--pretraining", trained[0] / "last.pt")
    run("train_uda.py", *uda_arguments(micrographs / "domains", folder, *options, target="negative"))
    return folder


def chosen(stores, candidates, out, monkeypatch, *more):
    """Run the command here, with few disturbances; return the content of choice.json."""
    monkeypatch.setattr(judging, "DISTURBANCES", 6)
    options = ("--domain", "negative", "--data", stores, "--out", out, "--device", "cpu")
    options += ("--calibration", stores.parent / "learnt-1.json", *more)
    choosing.main(list(map(str, (*candidates, *options))))
    return json.loads((out / "choice.json").read_text())


def test_the_choice_is_made_without_labels_and_taken_by_evaluate(
    micrographs, trained, adapted, tmp_path, monkeypatch, capsys
):
    judged(micrographs / "domains", trained[:1], tmp_path / "gap", monkeypatch)
    candidates = [trained[0], adapted, "--gap", tmp_path / "gap" / "gap.json"]
    found = chosen(micrographs / "domains", candidates, tmp_path / "right", monkeypatch)
    names = [one["name"] for one in found["ranked"]]
    known = "the run, its statistics, halfway, the remedy, the adaptation and two checkpoints that it kept"
    assert len(names) == 7, known
    assert sum("step0000" in name for name in names) == 2
    assert found["runs"] == ["remedy/fold0.pt"], "from its folder, which may move"
    assert found["chosen"] == f"{trained[0]}, {remaining(tmp_path / 'gap' / 'gap.json', taken(micrographs))}"
    chosen(micrographs / "wrong", candidates, tmp_path / "wrong", monkeypatch)
    for name in ("choice.json", "choice.html"):
        right, wrong = ((tmp_path / folder / name).read_text() for folder in ("right", "wrong"))
        assert right == wrong.replace(str(tmp_path / "wrong"), str(tmp_path / "right"))

    capsys.readouterr()
    scored = chosen(micrographs / "domains", candidates, tmp_path / "scored", monkeypatch, "--score")
    assert scored["sentence"] == found["sentence"], "scores do not steer"
    truth = [float(value) for value in re.findall(r"scored ([\d.]+)", capsys.readouterr().out)]
    assert len(truth) == 7 and max(truth) == truth[names.index(found["chosen"])]
    assert "measured" in (tmp_path / "scored" / "choice.html").read_text()

    options = ("--images", micrographs / "negative" / "images", "--out", tmp_path / "masks")
    run("evaluate.py", tmp_path / "right" / "choice.json", *options)
    mask = cv2.imread(str(tmp_path / "masks" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE) > 0
    label = cv2.imread(str(micrographs / "negative" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE) > 0
    assert (mask == label).mean() > 0.8


def test_both_vote_where_the_judge_cannot_tell(micrographs, trained, adapted, tmp_path, monkeypatch):
    """By the mean of their probabilities, which is what is scored and what evaluate.py segments by."""
    monkeypatch.setattr(Expected, "gain_over", lambda self, other: 0.0)
    monkeypatch.setattr(choice, "unlike", lambda fractions, labelled: [])
    monkeypatch.setattr(choice, "implausible", lambda *of: False)
    found = chosen(micrographs / "domains", [trained[0], adapted], tmp_path / "choice", monkeypatch, "--score")
    names = [one["name"] for one in found["ranked"] if one["parts"]]
    assert names == [found["chosen"]] and "so they vote" in found["sentence"]
    assert "By itself, each that votes finds: " in found["remarks"][-1]
    files = [tmp_path / "choice" / path for path in found["runs"]]
    assert [path.resolve() for path in files] == [adapted, tmp_path / "choice" / "halfway" / "fold0.pt"]
    members, target = [load_member(path, "last", "cpu") for path in files], Store(micrographs / "domains/negative.h5")
    models.set_domain(members[0].model, "target")
    together = scoring.ensemble([member.predictor("cpu") for member in members])
    scored = scoring.score(together, target, target.evaluation_micrographs(0))[0].miou
    assert json.loads((tmp_path / "choice" / "scores.json").read_text())[found["chosen"]] == scored

    options = ("--images", micrographs / "negative" / "images", "--out", tmp_path / "masks")
    run("evaluate.py", tmp_path / "choice" / "choice.json", *options)
    mask = cv2.imread(str(tmp_path / "masks" / "masks" / "m4.png"), cv2.IMREAD_GRAYSCALE) > 0
    image = target.image(next(one.index for one in target.micrographs if one.name == "m4"))
    of_vote, *of_each = (
        float((mask == (found(image)[1] > 0.5)).mean())
        for found in (together, *(member.predictor("cpu") for member in members))
    )
    assert of_vote > 0.999 and max(of_each) < of_vote - 0.005
    rows = list(csv.DictReader((tmp_path / "masks" / "phase_fractions.csv").read_text().splitlines()))
    assert all(row["std_models"] == "" for row in rows), "two kinds differ for a reason: they are no repeats"
    said = run("evaluate.py", tmp_path / "choice" / "choice.json", "--domain", "negative", ok=False).stderr
    assert "several kinds of models vote" in said

    # One may have statistics of the target, which change no micrograph.
    both = (tmp_path / "choice" / "statistics" / "fold0.pt", adapted, "--ensemble")
    run("evaluate.py", *both, *options[:2], "--out", tmp_path / "statistics")


def test_what_is_chosen_is_what_is_written(micrographs, trained, tmp_path, monkeypatch):
    """Of a training whose end is worse than a checkpoint on its way, that one: here it has the right polarity."""
    source = tmp_path / "source" / "fold0"
    shutil.copytree(trained[0], source)
    state = torch.load(source / "last.pt", weights_only=True)
    turned = {name: -value if "main_head" in name else value for name, value in state["model"].items()}
    checkpoint.save(source / "step000040.pt", state | {"step": 40, "model": turned})
    found = chosen(micrographs / "domains", [source], tmp_path / "choice", monkeypatch)
    assert found["chosen"].endswith("step000040"), found["ranked"]
    written = load_member(tmp_path / "choice" / found["runs"][0], "last", "cpu").model.state_dict()
    assert all(torch.equal(value, written[name]) for name, value in turned.items())


def test_an_adapted_model_is_not_judged_on_a_store_read_otherwise(micrographs, trained, adapted, tmp_path, monkeypatch):
    text = domains_toml(source=annotated("source", folds=3), negative=annotated("negative", invert=True))
    (micrographs / "inverted.toml").write_text(text)
    run("-m", "data.prepare", micrographs / "inverted.toml", "--out", tmp_path / "stores")
    with pytest.raises(SystemExit):
        chosen(tmp_path / "stores", [trained[0], adapted], tmp_path / "choice", monkeypatch)
    assert not (tmp_path / "choice").exists()


def test_a_run_counts_once_and_for_its_own_target(micrographs, trained, adapted, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other" / "fold0"
    shutil.copytree(adapted, other, ignore=shutil.ignore_patterns("step*.pt"))
    state = torch.load(other / "last.pt", weights_only=True)
    checkpoint.save(other / "last.pt", state | {"config": state["config"] | {"target": "elsewhere"}})
    for extra, said in ((other, "was adapted to elsewhere, not to negative"), (f"{trained[0]}/.", "is given twice")):
        with pytest.raises(SystemExit):
            chosen(micrographs / "domains", [trained[0], extra], tmp_path / "choice", monkeypatch)
        assert said in capsys.readouterr().err
    beside = other.with_name("fold1")
    shutil.copytree(adapted, beside)
    members = [load_member(run, "last", "cpu") for run in (beside, other)]
    assert [len(one.members) for one in grouped(members)] == [1, 1], "of other targets"


def test_the_report_is_there_when_all_of_it_is(micrographs, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "DISTURBANCES", 6)
    for module, out in ((gap, tmp_path / "gap"), (choosing, tmp_path / "choice")):
        page = "gap_page" if module is gap else "choice_page"
        monkeypatch.setattr(module, page, lambda *_: {}["stopped"])
        line = [trained[0], "--domain", "negative", "--data", micrographs / "domains", "--out", out]
        with pytest.raises(KeyError, match="stopped"):
            module.main(list(map(str, (*line, "--calibration", micrographs / "learnt-1.json"))))
        assert out.is_dir() and not list(out.glob("*.json")), "gap.json and choice.json come last"


def test_the_judge_looks_where_something_is_labelled(micrographs, trained, monkeypatch):
    mask = np.zeros((600, 700), np.uint8)
    assert labelled_part(mask, 256) == (slice(0, 600), slice(0, 700))
    mask[280:] = 255
    assert labelled_part(mask, 256) == (slice(0, 280), slice(0, 700))
    mask[:, 10:] = 255
    assert labelled_part(mask, 256) == (slice(0, 280), slice(0, 256)), "of a window at least"
    mask[:] = 255
    mask[590:, 690:] = 1
    assert labelled_part(mask, 256) == (slice(344, 600), slice(444, 700))
    assert labelled_part(np.full((5, 6), 255, np.uint8), 256) == (slice(0, 5), slice(0, 6))

    monkeypatch.setattr(judging, "DISTURBANCES", 2)
    store, blank = Store(micrographs / "domains" / "source.h5"), np.full((100, 90), 255, np.uint8)
    judge = Judge([load_member(trained[0], "last", "cpu")], store)
    monkeypatch.setattr(store, "mask", lambda index: blank)
    with pytest.raises(InputError, match="no window of a held-out micrograph with a labelled pixel"):
        judge.calibrate()


def taken(micrographs, out="domains", *more):
    """The store of `negative`."""
    if more:
        run("-m", "data.prepare", micrographs / "domains.toml", "--domain", "negative", "--out", out, *more)
    return Store(micrographs / out / "negative.h5", labels=False)


def test_the_choice_has_what_is_left_of_the_remedy(micrographs, tmp_path):
    """Polarity and grey levels may be in the target's store already, on the judge's advice."""
    recommended = {"invert": True, "match": True, "scale": 0.5, "adabn": True}
    gap = {"target": "negative", "source": "source", "prepared": {"invert": False, "match": None}}
    file = tmp_path / "gap.json"
    file.write_text(json.dumps(gap | {"recommended": recommended}))
    assert remaining(file, taken(micrographs)) == Remedy(**recommended)
    prepared = taken(micrographs, tmp_path / "prepared", "--gap", file)
    assert remaining(file, prepared) == Remedy(scale=0.5, adabn=True)
    file.write_text(json.dumps(gap | {"recommended": recommended | {"match": False}}))
    assert remaining(file, prepared) == Remedy(scale=0.5, adabn=True), "it is inverted, by whatever advice"
    by_hand = SimpleNamespace(domain="negative", metadata={"parameters": {"invert": True}})
    assert remaining(file, by_hand) == Remedy(scale=0.5, adabn=True)
    file.write_text(json.dumps(gap | {"recommended": recommended}))
    assert remaining(file, by_hand) == Remedy(match=True, scale=0.5, adabn=True)
    file.write_text(json.dumps(gap | {"recommended": {"invert": False, "match": 0.5, "scale": 1.0, "adabn": 0.5}}))
    plain = SimpleNamespace(domain="negative", metadata={"parameters": {"invert": False}})
    assert remaining(file, plain) == Remedy(match=HALF, adabn=HALF)
    assert read_decision(file).match is None, "no store has half of the grey levels"
    file.write_text(json.dumps(gap | {"recommended": recommended}))
    levels = SimpleNamespace(domain="negative", metadata={"parameters": {"invert": False, "match": "source"}})
    assert remaining(file, levels) == Remedy(**recommended), "inverting takes the grey levels away"
    file.write_text(json.dumps(gap | {"recommended": recommended, "target": "lom"}))
    with pytest.raises(InputError, match="is about lom, not negative"):
        remaining(file, prepared)
    corrected = {"prepared": gap["prepared"] | {"pixel_size_nm": 25}}
    file.write_text(json.dumps(gap | {"recommended": recommended} | corrected))
    with pytest.raises(InputError, match=r"pixel_size_nm = 25 then, and has \S+ in .*negative.h5. Run evaluation.gap"):
        remaining(file, prepared)
    file.write_text(json.dumps(gap | {"recommended": {"invert": True, "match": True}}))
    with pytest.raises(InputError, match="recommends has no 'scale'"):
        remaining(file, prepared)


def test_the_model_as_it_is_segments_micrographs_of_the_target(micrographs, trained, tmp_path, monkeypatch):
    """Where the source's model is kept, its file knows polarity and pixel size of the target's micrographs."""
    text = domains_toml(source=annotated("source", folds=3), negative=annotated("negative", invert=True))
    (micrographs / "inverted.toml").write_text(text)
    run("-m", "data.prepare", micrographs / "inverted.toml", "--out", tmp_path / "stores")
    monkeypatch.setattr(choosing, "free", lambda *of: {})  # which are expected to be a little better
    found = chosen(tmp_path / "stores", trained[:1], tmp_path / "choice", monkeypatch)
    assert found["runs"] == ["as_it_is/fold0.pt"]
    options = ("--images", micrographs / "negative" / "images", "--out", tmp_path / "masks")
    assert "inverted" in run("evaluate.py", tmp_path / "choice" / "choice.json", *options).stdout
    mask = cv2.imread(str(tmp_path / "masks" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE) > 0
    label = cv2.imread(str(micrographs / "negative" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE) > 0
    assert (mask == label).mean() > 0.8


def test_runs_of_one_name_have_checkpoints_of_their_own(micrographs, trained, tmp_path):
    twins = [tmp_path / name / "run" for name in ("a", "b")]
    for twin, run_folder in zip(twins, trained, strict=True):
        shutil.copytree(run_folder, twin)
    members = [load_member(twin, "last", "cpu") for twin in twins]
    judge = Judge(members, Store(micrographs / "domains" / "source.h5"))
    target = Store(micrographs / "domains" / "negative.h5", labels=False)
    first, second = export(judge, members, target, Remedy(), tmp_path)
    found = [load_member(path, "last", "cpu").config["fold"] for path in (first, second)]
    assert found == [0, 1]


def test_what_was_learnt_is_kept_for_the_same_models_alone(micrographs, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "DISTURBANCES", 4)
    source, kept = Store(micrographs / "domains" / "source.h5"), tmp_path / "of" / "calibration.json"
    judges = [Judge([load_member(trained[fold], "last", "cpu")], source) for fold in (0, 0, 1)]
    judges[0].calibrate(kept)
    before = kept.read_bytes()
    monkeypatch.setattr(Judge, "_learn", lambda self: pytest.fail("learnt again"))
    judges[1].calibrate(kept)
    looks = [Look([{name: 0.0 for name in ("entropy", "views", "shape")}], [], [], [])]
    first, again = (judge.calibration(looks) for judge in judges[:2])
    assert first.trusted_gain == again.trusted_gain and first.weights == again.weights
    assert judges[1].source_miou == judges[0].source_miou
    monkeypatch.undo()
    monkeypatch.setattr(judging, "DISTURBANCES", 4)
    judges[2].calibrate(kept)
    assert "of other models" in capsys.readouterr().err
    assert kept.read_bytes() != before, "another model learns for itself"


def test_a_training_logs_the_criteria_and_warns_where_the_target_gets_worse(micrographs, tmp_path):
    for every in (2, 3):
        more = ("--steps", 4, "--judge-every", every)
        run("train_uda.py", *uda_arguments(micrographs / "domains", tmp_path / str(every), *more, target="negative"))
    lines = [json.loads(line) for line in (tmp_path / "2" / "metrics.jsonl").read_text().splitlines()]
    looks = [line for line in lines if "judge_entropy" in line]
    assert [line["step"] for line in looks] == [2, 4]
    assert {f"judge_{name}".replace(" ", "_") for name in CRITERIA} - {"judge_models", "judge_vote"} <= set(looks[0])
    with_2, with_3 = (load_model(tmp_path / name, "last")[0].state_dict() for name in ("2", "3"))
    assert all(torch.equal(value, with_3[name]) for name, value in with_2.items()), "a look changes nothing"

    stores = [Store(micrographs / "domains" / f"{name}.h5", labels=name == "source") for name in ("source", "negative")]
    watch = TargetWatch(*stores, 0, SimpleNamespace(is_main=True, device="cpu"))
    warned = []
    for away in (3.0, 1.0, 2.5, 1.5, 2.5, 2.5, 2.5, 2.5):
        watch.away = away
        warned.append(bool(watch.worse()))
    assert warned == [False] * 6 + [True, False], "three looks in a row, said once"


def test_a_damaged_choice_is_refused(tmp_path):
    for text in ("", "{}", '{"runs": []}', '{"runs": [1]}', "[]"):
        (tmp_path / "choice.json").write_text(text)
        with pytest.raises(InputError, match="not a readable choice"):
            chosen_runs(tmp_path / "choice.json")
    (tmp_path / "choice.json").write_text('{"runs": ["moved/fold0.pt"]}')
    said = run("evaluate.py", tmp_path / "choice.json", "--domain", "t", ok=False).stderr
    assert "choice.json: names the model moved/fold0.pt, which is not there" in said


def test_a_source_without_held_out_micrographs_is_refused(micrographs, trained, tmp_path, monkeypatch, capsys):
    text = (micrographs / "domains.toml").read_text().replace("folds = 3\n", "")
    (micrographs / "nofolds.toml").write_text(text)
    run("-m", "data.prepare", micrographs / "nofolds.toml", "--out", tmp_path / "stores")
    with pytest.raises(SystemExit) as ended:
        judged(tmp_path / "stores", trained[:1], tmp_path / "out", monkeypatch)
    assert ended.value.code == 2 and "Prepare the source with folds" in capsys.readouterr().err


def test_the_judge_refuses_what_it_was_trained_on(micrographs, trained):
    member = load_member(trained[0], "last", "cpu")
    member.config["fold"] = 1
    with pytest.raises(InputError, match="was trained on it"):
        judging.Judge([member], Store(micrographs / "domains" / "source.h5"))
