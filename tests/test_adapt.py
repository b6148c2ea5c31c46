"""launch/adapt.sh: from a folder of micrographs to a report, stopped and gone on with, and what it decides."""

import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, annotated, domains_toml, run

from data.store import Store
from evaluation.laboratory import Outcome, steps_of, warnings_of
from launch.steps import Step, record, run_all

SHORT = ("--batch-size", 4, "--workers", 0, "--log-every", 5, "--wandb", "disabled")


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Path:
    """Bright blobs on a dark ground, annotated; `negative` in the other polarity without a mask; and a domains.toml."""
    folder = tmp_path_factory.mktemp("laboratory")
    for domain, seed in (("source", 0), ("negative", 1)):
        for kind in ("images", "masks"):
            (folder / domain / kind).mkdir(parents=True)
        for k in range(6):
            rng = np.random.default_rng([seed, k])
            mask = cv2.GaussianBlur(rng.standard_normal((100, 90)), (0, 0), 6) > 0.02
            image = np.clip(80 + 70 * mask + 12 * rng.standard_normal(mask.shape), 0, 255).astype(np.uint8)
            image = image if domain == "source" else 255 - image
            cv2.imwrite(str(folder / domain / "images" / f"m{k}.png"), image)
            cv2.imwrite(str(folder / domain / "masks" / f"m{k}.png"), 255 * mask.astype(np.uint8))
    negative = {"images": "negative/images/*.png", "micrographs": "sizes.csv", "invert": "auto"}
    (folder / "sizes.csv").write_text("name,pixel_size_nm\n" + "".join(f"m{k},50\n" for k in range(6)))
    text = domains_toml(source=annotated("source", folds=3), negative=negative)
    (folder / "domains.toml").write_text(text)
    return folder


def adapt(laboratory, out, *more, rest=("--steps", 120), ok=True):
    line = ["-m", "launch.adapt", laboratory / "domains.toml", "--source", "source", "--target", "negative"]
    line += ["--out", out, "--folds", 1, "--experiments", "demo.supervised", "demo.uda", *more, "--", *SHORT, *rest]
    return run(*line, ok=ok)


def test_a_remedy_that_suffices_ends_it_after_a_stop_and_a_second_call(laboratory, tmp_path):
    out = tmp_path / "out"
    stopped(laboratory, out)
    said = adapt(laboratory, out).stdout
    assert "goes on from step" in said, "the training that was stopped"
    assert "`invert = true`" in said and not (out / "uda").exists(), "no training where a remedy suffices"
    found = {path.stem: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in (out / "segmented/masks").iterdir()}
    for name, mask in found.items():
        label = cv2.imread(str(laboratory / "negative" / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 0
        assert (mask == label).mean() > 0.8
    page = (out / "report.html").read_text()
    for words in ("`invert = true`", "95 % confidence", "What to check", "evaluate.py", "m0.png", "inverted"):
        assert words in page, words
    assert "measured" not in page.split("<h2>What was expected")[1].split("What was done")[0].replace(
        "not measured", ""
    )

    before = {step["step"]: step["finished"] for step in steps_of(out)}
    again = adapt(laboratory, out).stdout
    assert "up to date" in again and "calibration" not in again
    after = {step["step"]: step["finished"] for step in steps_of(out)}
    assert before.keys() == after.keys()
    assert {step for step in before if before[step] != after[step]} <= {"prepare", "report"}, "what was done is done"
    names = [step["step"] for step in steps_of(out)]
    assert names == ["prepare", "supervised 0", "gap", "segment", "report"], "in their order, whatever was done again"
    assert "another configuration" in adapt(laboratory, out, rest=("--steps", 81), ok=False).stdout


def stopped(laboratory, out):
    """Start it, and stop it with SIGTERM while it trains."""
    line = ["-m", "launch.adapt", laboratory / "domains.toml", "--source", "source", "--target", "negative"]
    line += ["--out", out, "--folds", 1, "--experiments", "demo.supervised", "demo.uda", "--", *SHORT, "--steps", 120]
    process = subprocess.Popen(
        [os.sys.executable, *map(str, line)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = out / "supervised" / "fold0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and lines.read_text().count("\n") > 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 75 and "The same command goes on" in error
    assert "stopped by SIGTERM" in said and (out / "supervised" / "fold0" / "last.pt").exists()


def test_a_training_that_is_refused_is_not_done_the_next_time(laboratory, tmp_path):
    def call(steps, *names, ok=True):
        return adapt(laboratory, tmp_path, "--folds", 2, "--only", *names, rest=("--steps", steps), ok=ok)

    call(2, "prepare", "supervised 0", "supervised 1")
    runs = [tmp_path / "supervised" / f"fold{fold}" for fold in (0, 1)]
    first = [(run_folder / "last.pt").read_bytes() for run_folder in runs]
    for _ in range(2):
        refused = call(4, "supervised 0", ok=False)
        assert refused.returncode == 2 and "another configuration" in refused.stdout + refused.stderr
    call(2, "supervised 0")
    assert [(run_folder / "last.pt").read_bytes() for run_folder in runs] == first


@pytest.fixture(scope="module")
def adapted(laboratory, tmp_path_factory) -> tuple[Path, Path]:
    """A laboratory's folder of its own, and what came of its adaptation."""
    folder = tmp_path_factory.mktemp("adapted")
    shutil.copytree(laboratory, folder / "lab")
    adapt(folder / "lab", folder / "out", "--always-adapt", rest=("--steps", 60))
    return folder / "lab", folder / "out"


def test_an_adaptation_starts_from_what_the_judge_recommends(adapted, tmp_path):
    laboratory, out = adapted
    remedied = Store(out / "remedied" / "negative.h5")
    decided = remedied.metadata["parameters"]
    assert decided["invert"] is True and decided["gap"] == {"invert": True, "match": decided["gap"]["match"]}
    config = json.loads((out / "uda" / "fold0" / "config.json").read_text())
    assert config["data"] == str(out / "remedied") and config["reference"] == str(out / "supervised" / "fold0")
    choice = json.loads((out / "choice" / "choice.json").read_text())
    assert {one["remedy"] for one in choice["ranked"]} == {"as it is", "halfway", "statistics of the target"}
    assert sum(one["adapted"] and not one["parts"] for one in choice["ranked"]) == 1
    mask = cv2.imread(str(out / "segmented" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE) > 0
    label = cv2.imread(str(laboratory / "negative" / "masks" / "m0.png"), cv2.IMREAD_GRAYSCALE) > 0
    assert (mask == label).mean() > 0.8

    # What was decided stays so for `invert = "auto"`, with new micrographs too.
    command = ("-m", "data.prepare", laboratory / "domains.toml", "--out", out / "remedied", "--domain", "negative")
    assert "up to date" in run(*command, "--gap", out / "gap" / "gap.json").stdout
    if not decided["gap"]["match"]:
        assert "up to date" in run(*command).stdout
    # Once adaptation is not asked for, the remedy segments, and the report says so.
    assert Outcome(out).choice
    adapt(laboratory, out, rest=("--steps", 60))
    decided = json.loads((out / "gap" / "gap.json").read_text())
    made = json.loads((out / "segmented" / "segmentation.json").read_text())
    if decided["advice"] == "remedy":
        assert made["models"] == [str(out / "gap" / "fold0.pt")] and Outcome(out).choice is None
        assert html.escape(decided["sentence"][8:60]) in (out / "report.html").read_text()
    assert "not decided yet" in run(*command[:4], tmp_path / "anew", *command[5:]).stdout
    assert Store(tmp_path / "anew" / "negative.h5").metadata["parameters"]["invert"] is False


def test_a_target_that_has_changed_is_done_anew_and_its_source_is_not(adapted):
    laboratory, out = adapted

    def call(*more, ok=True):
        done = adapt(laboratory, out, *more, rest=("--steps", 60), ok=ok)
        return done.stdout + done.stderr

    for made in (out / "gap" / "gap.json", out / "remedied" / "negative.h5"):
        made.unlink()
    call("--always-adapt", "--only", "gap", "remedied")
    assert (out / "remedied" / "negative.h5").exists(), "a job of both: the first decides about the second"

    first = {name: (out / name / "fold0" / "last.pt").read_bytes() for name in ("supervised", "uda")}
    image = laboratory / "negative/images/m0.png"
    cv2.imwrite(str(image), cv2.imread(str(image), cv2.IMREAD_GRAYSCALE)[:-2])
    refused = call(ok=False)
    assert "differs in the image or mask files" in refused and "add --again" in refused
    assert (out / "uda/fold0/last.pt").read_bytes() == first["uda"], "nothing was lost"

    assert "set aside" in call("--again", "--always-adapt")
    (kept,) = (out / "before").glob("*/uda-fold0")
    assert (kept / "last.pt").read_bytes() == first["uda"] != (out / "uda/fold0/last.pt").read_bytes()
    assert (out / "supervised/fold0/last.pt").read_bytes() == first["supervised"]
    made = (out / "choice/choice.json").stat().st_mtime
    assert made > (out / "gap/gap.json").stat().st_mtime > (out / "stores/negative.h5").stat().st_mtime
    begun = (out / "uda/fold0/config.json").stat().st_mtime
    assert "set aside" not in call("--again", "--always-adapt")
    assert (out / "uda/fold0/config.json").stat().st_mtime == begun and len(list((out / "before").iterdir())) == 1

    gap = json.loads((out / "gap/gap.json").read_text())
    (out / "gap/gap.json").write_text(json.dumps(gap | {"advice": "train", "sentence": "Nothing was learnt."}))
    failed = adapt(laboratory, out, rest=("--steps", 60), ok=False)
    assert failed.returncode == 2 and "Nothing was learnt." in failed.stderr and "--always-adapt" in failed.stderr


def test_a_dry_run_says_everything_and_does_nothing(laboratory, tmp_path):
    said = adapt(laboratory, tmp_path / "out", "--dry-run", "--folds", 3).stdout
    assert not (tmp_path / "out").exists()
    lines = [shlex.split(line) for line in said.splitlines() if not line.startswith("#")]
    scripts = [line[2] if line[1] == "-m" else line[1] for line in lines]
    trained = ["train_supervised.py"] * 3, ["train_uda.py"] * 3
    before = ["data.prepare", "data.verify", *trained[0], "evaluation.gap"]
    assert scripts == [*before, *trained[1], "evaluation.choose", "evaluate.py", "evaluation.laboratory"]
    assert all((ROOT / line[1]).exists() for line in lines if line[1] != "-m")
    assert "unless" in said


def test_more_adaptations_start_each_from_the_one_before_and_are_candidates(laboratory, tmp_path):
    names = ("demo.supervised", "demo.uda", "small.AdaptSegNet-DACS-t3", "small.MIC-t3")
    said = adapt(laboratory, tmp_path, "--dry-run", "--experiments", *names).stdout
    lines = [line for line in said.splitlines() if not line.startswith("#")]
    runs = [tmp_path / name / "fold0" for name in ("supervised", "uda", *names[2:])]
    trainings = [line for line in lines if "python train_" in line]
    for training, script, name, run_folder in zip(
        trainings, ("supervised", "uda", "selftraining", "selftraining"), names, runs, strict=True
    ):
        assert f"train_{script}.py --experiment {name} " in training and f"--run-dir {run_folder} " in training
    for training, before in zip(trainings[1:], runs, strict=False):
        assert f"--pretraining {before} " in training
    line = ["-m", "launch.adapt", laboratory / "domains.toml", "--source", "source", "--target", "negative"]
    usual = run(*line, "--out", tmp_path, "--folds", 1, "--dry-run").stdout
    assert "train_uda.py --experiment demo.half-histogram " in usual, "where there is no GPU"
    assert "train_selftraining.py --experiment small.AdaptSegNet-DACS-t3" in usual
    (choice,) = (line for line in lines if "evaluation.choose" in line)
    assert " ".join(map(str, runs)) in choice


@pytest.mark.parametrize(
    ("advice", "trains"), [("adapt", True), ("label", True), ("remedy", False), ("as it is", False)]
)
def test_the_advice_decides_what_is_trained(laboratory, tmp_path, advice, trains):
    (tmp_path / "gap").mkdir()
    for match, prepared in ((False, False), (0.5, False), (1.0, True)):  # of half of the grey levels there is no store
        found = {"advice": advice, "recommended": {"invert": False, "match": match}}
        (tmp_path / "gap" / "gap.json").write_text(json.dumps(found))
        said = adapt(laboratory, tmp_path, "--dry-run").stdout
        assert ("train_uda.py" in said, "remedied" in said) == (trains, trains and prepared)
    assert "train_uda.py" in adapt(laboratory, tmp_path, "--dry-run", "--always-adapt").stdout


@pytest.mark.parametrize(
    ("more", "rest", "words"),
    [
        (("--target", "lom"), (), ["no domain lom", "source, negative"]),
        (("--target", "source"), (), ["it is the source too"]),
        (("--only", "prepare", "segments"), (), ["--only segments", "'supervised 0', 'uda 0', choose, segment"]),
        (("--folds", 4), (), ["source has 3 folds, 4 are to be trained"]),
        (("--experiments", "demo.supervised"), (), ["at least one adaptation"]),
        (("--experiments", "demo.uda", "demo.uda"), (), ["demo.uda", "train_supervised", "S.10"]),
        (("--experiments", "S.10", "T3.2", "T4"), (), ["T4", "train_selftraining", "AdaptSegNet-DACS-t3"]),
        ((), ("--no-such-option", 1), ["status 2", "log.txt", "The same command goes on"]),
    ],
)
def test_what_cannot_be_is_said(laboratory, tmp_path, more, rest, words):
    failed = adapt(laboratory, tmp_path / "out", *more, rest=rest, ok=False)
    assert failed.returncode == 2
    assert all(word in failed.stderr for word in words), failed.stderr


def test_a_target_of_fewer_folds_is_refused_before_anything_is_trained(laboratory, tmp_path):
    text = domains_toml(source=annotated("source", folds=3), negative=annotated("negative", folds=2))
    (laboratory / "two.toml").write_text(text)
    line = ["-m", "launch.adapt", laboratory / "two.toml", "--source", "source", "--target", "negative"]
    said = run(*line, "--out", tmp_path, "--folds", 3, "--dry-run", ok=False).stderr
    assert "negative has 2 folds, 3 are to be trained" in said
    assert run(*line, "--out", tmp_path, "--folds", 2, "--dry-run").stdout.count("train_uda.py") == 2


def test_a_step_is_done_where_its_outcome_is_newer_than_its_needs(tmp_path):
    made, need = tmp_path / "made", tmp_path / "need"
    step = Step("name", "title", [], made, [need])
    assert not step.done
    for path, moment in ((need, 1), (made, 2)):
        path.touch()
        os.utime(path, (moment, moment))
    assert step.done
    os.utime(need, (3, 3))
    assert not step.done
    assert not Step("name", "title", []).done, "a step without an outcome is always run"


def test_a_step_of_other_commands_is_not_done(tmp_path):
    made = tmp_path / "made"
    made.touch()
    step, other = (Step("name", "t", [["python", word]], made, noted=tmp_path / "steps/name.json") for word in "ab")
    assert step.done and other.done, "nothing is noted yet"
    record(tmp_path, step, ["name", "gone"])
    assert step.done and not other.done
    record(tmp_path, Step("gone", "t", []), ["name", "gone"])
    record(tmp_path, other, ["name"])
    assert [path.stem for path in (tmp_path / "steps").iterdir()] == ["name"], "what is not in the plan goes"


def test_what_a_training_had_behind_it_does_not_count_for_the_time_left(tmp_path, capsys):
    """The first step goes on from 80 %: its last fifth takes half a second, so a whole one takes two and a half."""
    bars = "import sys, time; print(' 80%|', flush=True); time.sleep(0.5); print('100%|')"
    first = Step("first", "t", [["python", "-c", bars]])
    run_all(lambda: [first, Step("second", "t", [["python", "-c", "pass"]], weight=120.0)], tmp_path)
    (minutes,) = re.findall(r"about (\d+) min left", capsys.readouterr().out)
    assert 5 <= int(minutes) <= 10, "120 times two and a half seconds, not 120 times half a second"


def test_the_report_has_what_the_steps_have_warned_of(tmp_path):
    assert warnings_of(tmp_path) == [], "a folder without a log"
    (tmp_path / "log.txt").write_bytes(
        b"12%|##  \rwarning: blind\nno warning: this\n\r            \rwarning: b\xb5\nwarning: blind\n"
    )
    assert warnings_of(tmp_path) == ["blind", "b\ufffd"]


def test_steps_run_one_by_one_note_the_same_as_all_together(tmp_path):
    """As jobs of SLURM do: each leaves what the others have noted."""
    steps = [Step(name, "t", [["python", "-c", "pass"]]) for name in ("first", "second")]
    run_all(lambda: steps, tmp_path / "together")
    for name in ("second", "first"):
        run_all(lambda: steps, tmp_path / "single", [name])
    found = [
        [(note["step"], note["position"], note["commands"]) for note in steps_of(tmp_path / folder)]
        for folder in ("together", "single")
    ]
    assert found[0] == found[1] and [name for name, *_ in found[0]] == ["first", "second"]
