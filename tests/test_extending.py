"""Additions of tomorrow leave yesterday's runs and scores as they are: docs/extending.md rests on these."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, run
from short_runs import uda_arguments

import models
from common.errors import InputError
from models.batchnorm import DomainBatchNorm
from training import checkpoint, options
from training.accumulation import Tally
from training.configuration import digest_of, open_run, parse
from training.distributed import Processes
from training.experiments import EXPERIMENTS, METHODS, read_experiments
from training.network import build_model
from training.precision import Precision
from training.preparation import labelled_tiles, unlabelled_tiles
from training.run import Run

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def scripts():
    """The scripts and their options, which a test may add to."""
    before = dict(options.SCRIPTS)
    yield options.SCRIPTS
    options.SCRIPTS.clear()
    options.SCRIPTS.update(before)
    options.defaults_of.cache_clear()


def with_option(scripts, default):
    """Give train_uda.py an option --new."""
    own = scripts["train_uda"]
    scripts["train_uda"] = own._replace(
        groups=(*own.groups, lambda parser: parser.add_argument("--new", type=float, default=default))
    )
    options.defaults_of.cache_clear()


def resolved(stores, folder, *more, script="train_uda", experiments=METHODS):
    words = uda_arguments(stores, folder, "--batch-size", 2, "--experiments", experiments, *more)
    return parse(script, "", words)


@pytest.mark.parametrize("default", [0.0, 0.5])
def test_a_run_that_did_not_know_an_option_had_its_default(stores, tmp_path, scripts, default):
    """Whatever that is: 0.5 is as good a default as 0."""
    old = open_run(resolved(stores, tmp_path / "run"))
    with_option(scripts, default)
    assert open_run(resolved(stores, old)) == old
    with pytest.raises(InputError, match=rf"--new {default} -> 0\.25"):
        open_run(resolved(stores, old, "--new", 0.25))


@pytest.mark.parametrize("default", [0.0, 0.5])
def test_a_new_option_does_not_part_old_scores_from_new_ones(stores, tmp_path, scripts, default):
    old = digest_of(resolved(stores, tmp_path))
    with_option(scripts, default)
    assert digest_of(resolved(stores, tmp_path)) == old != digest_of(resolved(stores, tmp_path, "--new", 0.25))
    assert digest_of(resolved(stores, tmp_path, "--fold", 1, "--seed", 3)) == old
    assert digest_of(resolved(stores, tmp_path, "--learning-rate", 1e-4)) != old


def test_another_adaptation_script_has_statistics_for_each_domain(stores, tmp_path, scripts):
    """The script asks for nothing: it has a target."""
    scripts["train_other"] = scripts["train_uda"]
    file = tmp_path / "methods.toml"
    file.write_text(f'base = "{EXPERIMENTS}"\n[other]\nextends = "demo.uda"\nscript = "train_other"\n')
    config = resolved(stores, tmp_path / "run", "--experiment", "other", script="train_other", experiments=file)
    trained = SimpleNamespace(**config)
    model, _ = build_model(trained, ALONE)
    assert any(isinstance(module, DomainBatchNorm) for module in model.modules())
    checkpoint.save(tmp_path / "last.pt", {"config": config, "model": model.state_dict()})
    again, _ = checkpoint.load_model(tmp_path / "last.pt")
    assert again.state_dict().keys() == model.state_dict().keys()


def test_every_network_of_a_run_is_in_its_best_checkpoint_and_its_milestones(stores, tmp_path):
    """A method's own network, such as a teacher, under its own name; each can be loaded."""
    trained = SimpleNamespace(**resolved(stores, tmp_path / "run", "--milestones", 1, "--steps", 20))
    assert trained.milestone_steps == {"12": "epoch1"}
    model, optimizer = build_model(trained, ALONE)
    teacher = models.domain_batch_norm(models.build(trained.model))
    datasets, networks = [labelled_tiles(trained), unlabelled_tiles(trained)], {"model": model, "teacher": teacher}
    training = Run(trained, ALONE, datasets, networks, [optimizer], Precision("off", ALONE.device))
    for _ in range(12):
        training.check(Tally(loss=torch.ones(())))
        training.step += 1
    training.record_validation(0.5)
    training.save()
    with torch.no_grad():
        next(teacher.parameters()).add_(1)
    for name in ("best", "epoch1", "last"):
        found, _ = checkpoint.load_model(training.folder, name, network="teacher")
        assert torch.equal(next(found.parameters()) + 1, next(teacher.parameters()))
        assert not torch.equal(
            next(found.parameters()), next(checkpoint.load_model(training.folder, name)[0].parameters())
        )
    with pytest.raises(InputError, match=r"epoch1\.pt: holds no network 'student'"):
        checkpoint.load_model(training.folder, "epoch1", network="student")


def test_methods_stand_in_a_file_of_their_own_and_the_study_stays_the_study(tmp_path):
    """Entries that extend the study's rows are neither run as the study nor meant by a target."""
    file = tmp_path / "methods.toml"
    extending = "".join(f'["0.{name}"]\nextends = "{name}"\nseed = 7\n' for name in ("S.10", "T1.11", "T2.11", "T3.2"))
    file.write_text(f'base = "{EXPERIMENTS}"\n{extending}')
    assert [read_experiments(file)[name]["seed"] for name in ("0.T1.11", "0.S.10")] == [7, 7]
    for target, row in (("t1", "T1.11"), ("t2", "T2.11"), ("t3", "T3.2")):
        words = ["--target", target, "--dry-run", "--data", tmp_path, "--experiments", file]
        printed = run("train_uda.py", *words).stdout
        assert json.loads(printed)["experiment"] == row
    for family in ("supervised", "generalization", "uda", "shifted", "ensemble"):
        study, both = (run("-m", "launch.plan", family, "--experiments", one).stdout for one in (EXPERIMENTS, file))
        assert both.replace(f" --experiments {file}", "") == study != ""


def test_domains_of_several_experiments_ask_which(tmp_path):
    file = tmp_path / "mine.toml"
    entries = "".join(f'[{name}]\nextends = "demo.uda"\nsource = "sem"\ntarget = "lom"\n' for name in ("one", "two"))
    words = ["--source", "sem", "--target", "lom", "--dry-run", "--steps", "5", "--experiments", str(file)]
    file.write_text(f'base = "{EXPERIMENTS}"\n{entries}')
    with pytest.raises(InputError, match="experiments one, two have these domains"):
        parse("train_uda", "", words)
    file.write_text(f'base = "{EXPERIMENTS}"\n{entries}default = true\n')
    assert json.loads(run("train_uda.py", *words).stdout)["experiment"] == "two"


def test_no_script_is_known_by_its_name():
    """A script has a capability because an option of it is there."""
    switches = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("common", "data", "models", "losses", "training", "evaluation")
        for path in Path(ROOT, folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if any(f'{sign} "{name}"' in line for sign in ("==", "!=") for name in options.SCRIPTS)
    ]
    assert switches == []
