"""Every option changes something, values come from where they should, and the adversarial game is watched."""

import argparse
import contextlib
import csv
import io
import json
import math
import sys
from unittest import mock

import pytest
import torch
from conftest import ROOT, run
from short_runs import metrics, uda_here

import evaluate
from common import arguments
from common.errors import InputError
from training import checkpoint
from training.configuration import parse
from training.device import choose_algorithms
from training.experiments import METHODS, read_experiments
from training.health import Health
from training.options import SCRIPTS, defaults_of, parser_of
from training.precision import PRECISIONS
from training.schedule import factor


def resolve(*arguments, script="train_uda"):
    return parse(script, "", [*map(str, arguments)])


def dry_run(script, *arguments):
    """Return what a script prints with --dry-run."""
    printed, arguments = io.StringIO(), ["--dry-run", *map(str, arguments)]
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
        if script == "evaluate":
            with mock.patch.object(sys, "argv", ["evaluate.py", *arguments]):
                evaluate.parse()
        else:
            parse(script, "", arguments)
    assert stopped.value.code == 0
    return json.loads(printed.getvalue())


def adapted(stores, folder, *arguments):
    """Weights after two steps of the demonstration's adaptation with these options."""
    uda_here(stores, folder, "--steps", 2, "--batch-size", 2, *arguments)
    return checkpoint.load(folder)["model"]


def test_adaptation_asks_for_its_target(capsys):
    with pytest.raises(SystemExit) as stopped:
        resolve("--source", "sem", "--steps", 5)
    assert stopped.value.code == 2 and "give --target DOMAIN" in capsys.readouterr().err
    assert resolve("--experiment", "T3.2", "--steps", 5)["target"] == "t3"


@pytest.fixture(scope="module")
def plain(stores, tmp_path_factory):
    return adapted(stores, tmp_path_factory.mktemp("plain") / "run")


# Another value of every option that decides what a run of train_uda.py computes. A list: the value, then options that
# it needs to have an effect. An option of another script is in ELSEWHERE.
ARITHMETIC = {
    "seed": 1, "fold": 1, "augmentation": "none", "model": "deeplabv2_resnet18", "batch_norm": "frozen", "steps": 1,
    "batch_size": 4, "micro_batch": 1, "learning_rate": 1e-3, "schedule": "constant", "power": 2, "amp": "bf16",
    "optimizer": "sgd", "backbone_factor": 0.1, "weight_decay": 0.1, "lambda_aux": 0.5, "gan": "least_squares",
    "lambda_adv_main": 0.5, "lambda_adv_aux": 0.5, "lambda_adv_feature": 0.5,
    "discriminator_learning_rate": 0.01, "discriminator_width": 8,
    "discriminator_patch": 40, "discriminators_see": "self-information", "lambda_entropy_main": 0.5,
    "lambda_entropy_aux": 0.5, "entropy_power": [2, "--lambda-entropy-main", 0.5], "looks": "fourier",
    "looks_share": [0.5, "--looks", "curves"], "looks_by_region": [None, "--looks", "convolutions"],
    "looks_beta": [0.2, "--looks", "fourier"], "transductive": None, "target": "unlabelled",
    "class_weights": "balanced", "rare_class_sampling": None,
}  # fmt: skip
# The other options, each with the test that shows what it changes.
ELSEWHERE = {
    "experiment": "test_explicit_options_win_over_the_experiment_and_it_over_the_defaults",
    "experiments": "test_methods_stand_in_a_file_of_their_own_and_the_study_stays_the_study",
    "dry_run": "test_the_command_of_the_study_resolves_to_the_study",
    "device": "test_no_program_computes_on_the_cpu_in_place_of_a_gpu_that_is_asked_for",
    "run_dir": "test_supervised_training_leaves_its_record_and_feeds_uda",
    "data": "test_wrong_options_are_named",
    "source": "test_explicit_options_win_over_the_experiment_and_it_over_the_defaults",
    "workers": "test_damage_that_a_loader_process_meets_is_one_message",
    "reference": "test_tables_of_the_demonstration",
    "selection": "test_training_reads_the_selected_tiles_only",
    "pretraining": "test_supervised_training_leaves_its_record_and_feeds_uda",
    "epochs": "test_epochs_without_store_or_study_are_refused",
    "compile": "test_compiled_equals_eager",
    "deterministic": "test_deterministic_algorithms_are_asked_for",
    "log_every": "test_looking_at_the_values_rarely_changes_nothing",
    "validate_every": "test_killed_and_resumed_equals_uninterrupted",
    "checkpoint_every": "test_killed_and_resumed_equals_uninterrupted",
    "judge_every": "test_a_training_logs_the_criteria_and_warns_where_the_target_gets_worse",
    "keep_every": "test_the_choice_is_made_without_labels_and_taken_by_evaluate",
    "milestones": "test_every_network_of_a_run_is_in_its_best_checkpoint_and_its_milestones",
    "wandb": "test_tracking_is_offline_without_a_key",
    "wandb_project": "test_a_training_run_has_its_group_tags_and_curves",
    "panels_every": "test_supervised_training_leaves_its_record_and_feeds_uda",
    **dict.fromkeys(
        (
            "teacher_decay",
            "teacher_statistics",
            "sure",
            "surest",
            "pseudo_weight",
            "lambda_mixed",
            "lambda_masked",
            "masked_share",
            "masked_block",
        ),
        "test_every_option_of_a_self_training_changes_the_weights",
    ),
    **dict.fromkeys(
        ("generator_width", "generator_blocks", "lambda_cycle", "lambda_identity", "lambda_semantic"),
        "test_every_option_of_a_translation_changes_the_weights",
    ),
    "dropout": "test_every_option_of_the_arithmetic_changes_the_loss",
}


def options_of(script):
    """Names of the options of a training script, from its parser."""
    return {action.dest for action in parser_of(script)._actions} - {"help"}


@pytest.mark.parametrize("option", sorted(ARITHMETIC))
def test_every_option_of_the_arithmetic_changes_the_weights(stores, plain, tmp_path, option):
    value, *needed = ARITHMETIC[option] if isinstance(ARITHMETIC[option], list) else [ARITHMETIC[option]]
    if needed:
        plain = adapted(stores, tmp_path / "plain", *needed)
    words = [f"--{option.replace('_', '-')}", *([] if value is None else [value])]
    changed = adapted(stores, tmp_path / "run", *words, *needed)
    assert plain.keys() != changed.keys() or any(not torch.equal(plain[key], changed[key]) for key in plain)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_no_option_is_without_a_test_that_shows_what_it_changes(script):
    assert options_of(script) - ARITHMETIC.keys() - ELSEWHERE.keys() == set()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert [name for name in ELSEWHERE.values() if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_help_shows_the_value_of_every_option_in_the_experiment(script, capsys):
    name = {"train_uda": "demo.uda", "train_supervised": "demo.supervised"}.get(script, SCRIPTS[script].base)
    with pytest.raises(SystemExit) as stopped:
        parse(script, "", ["--experiment", name, "--help"])
    said = capsys.readouterr().out
    texts = {text.split()[0]: " ".join(text.split()) for text in said.split("\n  --")[1:]}
    assert stopped.value.code == 0
    values = read_experiments(METHODS)[name]
    for option in options_of(script):
        text = texts[option.replace("_", "-")]
        if option in values and option not in ("reference", "script"):
            value = values[option]
            value = ("on" if value else "off") if isinstance(value, bool) else value
            assert f"(default: {value})" in text, option
        else:
            assert "(default: " in text and "(default: )" not in text, option
    place = f"{name}/fold0" if "fold" in options_of(script) else name
    assert f"(default: runs/{place})" in texts["run-dir"]


def test_deterministic_runs_are_equal_without_filling_memory_first(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # torch's own choice
    one, other = (adapted(stores, tmp_path / name, "--deterministic") for name in ("one", "other"))
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_algorithms_are_asked_for(stores, tmp_path, wanted):
    """On the CPU there are no others, so the weights say nothing here."""
    adapted(stores, tmp_path / "run", *(["--deterministic"] if wanted else []))
    assert torch.are_deterministic_algorithms_enabled() == wanted != torch.backends.cudnn.benchmark


@pytest.mark.parametrize("amp", PRECISIONS)
def test_float32_means_float32(monkeypatch, amp):
    """TF32 keeps 10 bits of a convolution's factors."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", amp == "off")
    choose_algorithms(deterministic=False, amp=amp)
    assert torch.backends.cudnn.allow_tf32 == (amp != "off")


def test_without_adversary_the_discriminators_do_not_touch_the_model(stores, tmp_path):
    off = ("--lambda-adv-main", 0, "--lambda-adv-aux", 0)
    one = adapted(stores, tmp_path / "one", *off)
    other = adapted(stores, tmp_path / "other", *off, "--discriminator-learning-rate", 0.1)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_at_a_head_that_the_model_lacks_are_no_control_run(stores, tmp_path):
    unet = ("--model", "unet_small", "--lambda-adv-main", 0, "--lambda-adv-aux")
    for more in ((0.01,), (0, "--lambda-entropy-aux", 0.01)):
        with pytest.raises(InputError, match=r"-aux 0\.01: adapts nothing, as --model unet_small"):
            adapted(stores, tmp_path / "run", *unet, *more)
        assert not (tmp_path / "run").exists()
    for name, more in {"control": (0,), "entropy": (0.01, "--lambda-entropy-main", 0.1)}.items():
        adapted(stores, tmp_path / name, *unet, *more)
        assert any("loss_entropy_main" in values for values in metrics(tmp_path / name)) == (name == "entropy")


def test_explicit_options_win_over_the_experiment_and_it_over_the_defaults():
    assert resolve("--target", "t3")["epochs"] == 3000
    config = resolve("--target", "t3", "--experiment", "demo.uda", "--learning-rate", 0.5)
    assert (config["learning_rate"], config["model"], config["power"]) == (0.5, "deeplabv2_small", 0.9)
    assert resolve("--target", "t3", "--steps", 7)["iterations"] == 7
    assert resolve("--target", "t1")["experiment"] == "T1.11"
    assert resolve("--source", "mine", "--target", "other", "--steps", 1)["experiment"] == "mine-other"


def rows_of_the_study():
    with (ROOT / "evaluation" / "study" / "study.csv").open() as file:
        return [pytest.param(row, id=f"{row['experiment']} of Table {row['table']}") for row in csv.DictReader(file)]


@pytest.mark.parametrize("row", rows_of_the_study())
def test_every_row_of_the_study_resolves_to_its_values(row, tmp_path):
    """--dry-run on the script that owns a row prints the study's values, field by field."""
    name, epochs = row["experiment"], int(row["epochs"])
    script = {"supervised": "train_supervised", "generalization": "evaluate", "uda": "train_uda"}[row["kind"]]
    assert read_experiments()[name]["script"] == script
    if script == "evaluate":
        checkpoint = ["--checkpoint", f"epoch{epochs}"] if row["table"] == "6" else []
        config = dry_run("evaluate", "--experiment", name, "--fold", 3, *checkpoint)
        assert config["run_dir"] == f"runs/{read_experiments()[name]['run']}/fold3"
        domain = config["domain"]
    else:
        config = dry_run(script, "--experiment", name, "--data", tmp_path)
        domain = config["target"] if script == "train_uda" else config["source"]
        uda, unet = script == "train_uda", row["model"] == "unet_vgg16"
        assert config["batch_size"] == (8 if uda else 12)
        assert config["learning_rate"] == (5e-3 if unet else 1e-3)
        assert config["schedule"] == ("constant" if unet else "polynomial") and config["power"] == 0.9
        assert config["backbone_factor"] == 0.1 and config["optimizer"] == "adam"
        assert config["iterations"] == epochs * 112 // config["batch_size"]
        assert config["milestones"] == ([100, 200] if unet else [])
    expected = {key: row[key] for key in ("model", "pretraining", "augmentation", "domain")} | {"epochs": epochs}
    assert {**{key: config[key] for key in expected if key != "domain"}, "domain": domain} == expected


def test_the_pre_training_and_the_shifted_set_resolve(tmp_path):
    nanosem = dry_run("pretrain_nanosem", "--data", tmp_path / "nanosem")
    expected = {"pretraining": "imagenet", "epochs": 100, "schedule": "constant", "model": "unet_vgg16", "dropout": 0.5}
    assert {key: nanosem[key] for key in expected} == expected
    shifted, t3 = (dry_run("train_uda", "--experiment", name, "--data", tmp_path) for name in ("T3v", "T3.2"))
    differing = {key for key in t3 if t3[key] != shifted[key]}
    assert differing == {"experiment", "run_dir", "selection"}


def test_epochs_without_store_or_study_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"demo\.supervised|no such store"):
        resolve("--experiment", "demo.uda", "--epochs", 3, "--data", tmp_path)


def test_schedules():
    assert [factor("polynomial", step, 10, 0.9) for step in (0, 10)] == [1.0, 0.0]
    assert factor("polynomial", 5, 10, 0.9) == pytest.approx(0.5**0.9)
    assert {factor("constant", step, 10, 0.9) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    ("gan", "values", "word"),
    [
        ("vanilla", {"loss_D_main": math.log(2)}, "blind"),
        ("least_squares", {"loss_D_main": 0.25}, "blind"),
        ("vanilla", {"loss_D_aux": 0.02}, "wins"),
        ("vanilla", {"target_phase_fraction": 0.001}, "collapses"),
        ("vanilla", {"target_phase_fraction": 0.999}, "collapses"),
    ],
)
def test_an_unhealthy_game_is_reported_once(gan, values, word):
    health = Health(options_with(gan=gan), ("main", "aux"))
    said = [warning for _ in range(50) for warning in health.observe(values)]
    assert len(said) == 1 and word in said[0]


def options_with(**values):
    """Options of train_uda.py, the defaults but for these."""
    return argparse.Namespace(**{**defaults_of("train_uda"), **values})


def test_a_healthy_game_is_not_reported():
    health = Health(options_with(), ("main", "aux"))
    assert not [health.observe({"loss_D_main": 0.4, "target_phase_fraction": 0.4}) for _ in range(50)][-1]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (arguments.whole, {"0": 0, "7": 7}, ("-1", "1.5", "many", "")),
        (arguments.positive, {"1": 1}, ("0", "-3", "nan")),
        (arguments.at_least(96), {"96": 96}, ("95",)),
        (arguments.fraction, {"0": 0, "0.5": 0.5}, ("1", "-0.1", "nan")),
        (arguments.share, {"1": 1, "0.1": 0.1}, ("0", "1.1", "-0.1", "nan")),
        (arguments.not_negative, {"0": 0, "1e-3": 1e-3}, ("-1e-9", "inf", "nan", "x")),
    ],
)
def test_numbers_of_options_are_taken_within_their_bounds_only(kind, right, wrong):
    assert {text: kind(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text} is not a "):
            kind(text)


@pytest.mark.parametrize("module", ["step", "loader", "scaling", "prepare"])
def test_the_benchmarks_refuse_a_number_that_cannot_be(module):
    option = {"step": "--blocks", "loader": "--tiles", "scaling": "--processes", "prepare": "--micrographs"}[module]
    said = run("-m", f"benchmarks.{module}", option, 0, ok=False).stderr
    assert f"argument {option}: 0 is not a whole number from 1" in said
