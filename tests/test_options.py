"""Every option changes something, values come from where they should, and the adversarial game is watched."""

import math
from types import SimpleNamespace

import pytest
import torch

import train_uda
from data.errors import InputError
from training import checkpoint
from training.distributed import Processes
from training.health import Health
from training.options import parse, read_experiments
from training.schedule import factor

ALONE = Processes(0, 1, torch.device("cpu"))


def resolve(*arguments, script="train_uda", base="T3.2"):
    return parse(script, base, "", [*map(str, arguments)])


def adapted(stores, folder, *arguments):
    """Weights after two steps of the demonstration's adaptation with these options."""
    config = resolve(
        "--experiment", "demo.uda", "--target", "labelled", "--data", stores, "--run-dir", folder, "--steps", 2,
        "--batch-size", 2, "--workers", 0, "--wandb", "disabled", *arguments,
    )  # fmt: skip
    train_uda.train(SimpleNamespace(**config), ALONE)
    return checkpoint.load(folder)["model"]


@pytest.fixture(scope="module")
def plain(stores, tmp_path_factory):
    return adapted(stores, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize(
    "option",
    [
        ("--seed", 1), ("--fold", 1), ("--augmentation", "none"), ("--batch-norm", "frozen"), ("--batch-size", 4),
        ("--optimizer", "sgd"), ("--learning-rate", 1e-3), ("--backbone-factor", 0.1), ("--weight-decay", 0.1),
        ("--schedule", "constant"), ("--power", 2), ("--lambda-aux", 0.5), ("--amp", "bf16"),
        ("--gan", "least_squares"), ("--lambda-adv-main", 0.5), ("--lambda-adv-aux", 0.5),
        ("--discriminator-learning-rate", 0.01), ("--discriminator-width", 8), ("--model", "deeplabv2_resnet18"),
    ],
    ids=lambda option: option[0],
)  # fmt: skip
def test_every_option_of_the_arithmetic_changes_the_weights(stores, plain, tmp_path, option):
    changed = adapted(stores, tmp_path / "run", *option)
    assert plain.keys() != changed.keys() or any(not torch.equal(plain[key], changed[key]) for key in plain)


def test_without_adversary_the_discriminators_do_not_touch_the_model(stores, tmp_path):
    off = ("--lambda-adv-main", 0, "--lambda-adv-aux", 0)
    one = adapted(stores, tmp_path / "one", *off)
    other = adapted(stores, tmp_path / "other", *off, "--discriminator-learning-rate", 0.1)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_explicit_options_win_over_the_experiment_and_it_over_the_defaults():
    assert resolve("--target", "t3")["epochs"] == 3000
    config = resolve("--target", "t3", "--experiment", "demo.uda", "--learning-rate", 0.5)
    assert (config["learning_rate"], config["model"], config["power"]) == (0.5, "deeplabv2_small", 0.9)
    assert resolve("--target", "t3", "--steps", 7)["iterations"] == 7
    assert resolve("--target", "t1")["experiment"] == "T1.11"
    assert resolve("--source", "mine", "--target", "other", "--steps", 1)["experiment"] == "mine-other"


@pytest.mark.parametrize("experiment", [name for name in read_experiments() if not name.startswith("demo.")])
def test_the_studys_experiments_resolve(experiment, tmp_path):
    values = read_experiments()[experiment]
    config = resolve("--experiment", experiment, "--data", tmp_path, script=values["script"], base=experiment)
    assert {key: config[key] for key in ("model", "epochs", "learning_rate", "batch_size")} == {
        key: values[key] for key in ("model", "epochs", "learning_rate", "batch_size")
    }
    assert config["iterations"] == values["epochs"] * 112 // values["batch_size"]


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
    health = Health(gan)
    said = [warning for _ in range(50) for warning in health.observe(values)]
    assert len(said) == 1 and word in said[0]


def test_a_healthy_game_is_not_reported():
    health = Health("vanilla")
    assert not [health.observe({"loss_D_main": 0.4, "target_phase_fraction": 0.4}) for _ in range(50)][-1]
