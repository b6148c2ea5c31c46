"""Methods past AdaptSegNet: each equals its published recipe, resumes bit for bit, and divides among processes."""

import json
import math
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import cv2
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, command, run
from short_runs import adapt_arguments, differences, metrics, uda_arguments, uda_here

import models
from benchmarks.published import PublishedStep
from common.errors import InputError
from data.looks import Fourier, Looks
from data.store import Store
from data.tiles import BatchStream, LabelledTiles, UnlabelledTiles
from losses import entropy_loss, self_information
from training import checkpoint
from training.configuration import parse
from training.experiments import EXPERIMENTS, read_experiments
from training.experiments import METHODS as METHODS_FILE
from training.health import Health
from training.options import defaults_of

NO_ADVERSARY = ("--lambda-adv-main", 0, "--lambda-adv-aux", 0)
MINENT = (*NO_ADVERSARY, "--lambda-entropy-main", 0.05, "--lambda-entropy-aux", 0.01)
METHODS = {
    "ADVENT": ("--discriminators-see", "self-information"),
    "MinEnt": MINENT,
    "both": ("--discriminators-see", "self-information", "--lambda-entropy-main", 0.05),
    "control": NO_ADVERSARY,
    "FDA": (*MINENT, "--entropy-power", 2, "--looks", "fourier", "--looks-beta", 0.1),
    "histogram": ("--looks", "histogram", "--looks-share", 0.5),
    "curves": ("--looks", "curves"),
    "regions": ("--looks", "convolutions", "--looks-by-region"),
}


class AdventStep(PublishedStep):
    """ADVENT as published: the discriminators are shown the weighted self-information (Vu et al., Equation 4)."""

    def shown(self, maps):
        return -torch.mul(maps, torch.log2(maps + 1e-30)) / torch.log2(torch.tensor(float(maps.shape[1])))


class MinEntStep(PublishedStep):
    """MinEnt as published: the mean normalised entropy of the target's prediction in place of the adversary."""

    def __call__(self, images, masks, target_images):
        self.optimizers[0].zero_grad()
        models.set_domain(self.model, "source")
        logits, losses, margin = self.model(images), {}, (images.shape[-1] - masks.shape[-1]) // 2
        for level in self.lambda_seg:
            centre = logits[level][:, :, margin:-margin, margin:-margin]
            losses[f"loss_seg_{level}"] = F.binary_cross_entropy_with_logits(centre, masks.float())
        sum(weight * losses[f"loss_seg_{level}"] for level, weight in self.lambda_seg.items()).backward()
        models.set_domain(self.model, "target")
        logits = self.model(target_images)
        for level in self.lambda_adv:
            p = torch.sigmoid(logits[level])
            v = torch.cat([1 - p, p], 1)
            losses[f"loss_entropy_{level}"] = self.penalty(v)
        sum(weight * losses[f"loss_entropy_{level}"] for level, weight in self.lambda_adv.items()).backward()
        self.optimizers[0].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def penalty(self, v):
        n, c, h, w = v.size()
        return -torch.sum(torch.mul(v, torch.log2(v + 1e-30))) / (n * h * w * torch.log2(torch.tensor(float(c))))


class FdaStep(MinEntStep):
    """FDA's step as published: its Charbonnier penalty, eta 2. tests/test_source_looks.py has its images."""

    def penalty(self, v):
        ent = -torch.sum(v * torch.log2(v + 1e-30), dim=1) / math.log2(v.shape[1])
        return ((ent**2.0 + 1e-8) ** 2.0).mean()


@pytest.mark.parametrize(
    ("step_class", "options"),
    [(AdventStep, METHODS["ADVENT"]), (MinEntStep, NO_ADVERSARY), (FdaStep, METHODS["FDA"])],
    ids=["ADVENT", "MinEnt", "FDA"],
)
def test_an_update_of_a_method_equals_its_published_recipe(stores, supervised, tmp_path, step_class, options):
    """Two steps, parameter by parameter, and each loss of either step."""
    weights, term = {"main": 0.05, "aux": 0.01}, "adv" if step_class is AdventStep else "entropy"
    lambdas = [word for level in weights for word in (f"--lambda-{term}-{level}", weights[level])]
    uda_here(stores, tmp_path / "run", "--steps", 2, "--optimizer", "sgd", "--schedule", "constant", "--learning-rate",
             0.01, "--augmentation", "basic", "--discriminator-learning-rate", 1e-3, "--batch-norm", "frozen",
             "--pretraining", supervised / "last.pt", *options, *lambdas)  # fmt: skip

    torch.manual_seed(0)
    model = models.build("deeplabv2_small")
    model.load_state_dict(checkpoint.load(supervised)["model"])
    models.domain_batch_norm(model)
    models.freeze_batch_norm(model)
    judges = models.Discriminators(model.levels, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizers_D = {k: torch.optim.Adam(n.parameters(), lr=1e-3, betas=(0.9, 0.99)) for k, n in judges.networks.items()}
    target = UnlabelledTiles(Store(stores / "labelled.h5", labels=False), 0, "basic", 0)
    looks = Looks(Fourier(target.store, target.tiles, 0.1)) if step_class is FdaStep else None
    source = LabelledTiles(Store(stores / "source.h5"), 0, "basic", 0, looks)
    orders = [list(BatchStream(len(t), 4, 0, 2, 0, t.store.domain)) for t in (source, target)]
    published = step_class(model, judges.networks, optimizer, optimizers_D, 0.1, weights)
    logged = [line for line in metrics(tmp_path / "run") if "learning_rate" in line]
    for step in range(2):
        items = [source[a] + target[b] for a, b in zip(*(order[step] for order in orders), strict=True)]
        losses = published(*(torch.stack(tensors) for tensors in zip(*items, strict=True)))
        assert losses.keys() == {name for name in logged[step] if name.startswith("loss")}
        for name, value in losses.items():
            assert logged[step][name] == pytest.approx(float(value), rel=1e-4), (step, name)
    state = checkpoint.load(tmp_path / "run")
    assert ("discriminators" in state) == (step_class is AdventStep) == (len(state["optimizers"]) == 2)
    for name, module in (("model", model), ("discriminators", judges)):
        for key, value in module.named_parameters() if name in state else ():
            # Adam makes more of rounding where a gradient is near its epsilon (test_training). Two steps are of 1e-3.
            tolerance = 1e-6 if name == "model" else 2e-4
            assert torch.allclose(state[name][key], value, rtol=1e-5, atol=tolerance), (name, key)


def resumed(full, folder):
    """Copy a finished run as it stood at the checkpoint before the last."""
    shutil.copytree(full, folder)
    for name in ("best.pt", "finished.json"):
        (folder / name).unlink()
    os.replace(folder / "previous.pt", folder / "last.pt")


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_method_equals_an_undisturbed_one(stores, tmp_path, method):
    lengths = ("--steps", 6, "--checkpoint-every", 3, "--validate-every", 6)
    uda_here(stores, tmp_path / "full", *lengths, *METHODS[method])
    resumed(tmp_path / "full", tmp_path / "resumed")
    assert checkpoint.load(tmp_path / "resumed")["step"] == 3
    uda_here(stores, tmp_path / "resumed", *lengths, *METHODS[method])
    assert differences(tmp_path / "full", tmp_path / "resumed") == []


# Several adaptations by two processes in one start of them.
SCRIPT = """
import json, sys
from types import SimpleNamespace
import train_uda
from training import distributed
from training.configuration import parse

def cases(_, processes):
    for arguments in json.loads(sys.argv[1]):
        train_uda.train(SimpleNamespace(**parse("train_uda", "", arguments)), processes)

options = SimpleNamespace(batch_size=4, micro_batch=None, deterministic=False, amp="off")
options.device, options.pretraining = "auto", "random"
distributed.together(cases, options)
"""


def test_two_processes_compute_a_method_as_one_does(stores, supervised, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)

    def arguments(method, processes):
        return adapt_arguments(supervised, *METHODS[method]), tmp_path / f"{method}{processes}"

    tried = ("ADVENT", "MinEnt", "control", "FDA", "regions")
    cases = [uda_arguments(stores, folder, *more) for more, folder in (arguments(method, 2) for method in tried)]
    ended = subprocess.run(
        command(tmp_path / "script.py", json.dumps(cases), processes=2), cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=100,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for method in tried:
        more, folder = arguments(method, 1)
        uda_here(stores, folder, *more)
        one, two = metrics(folder), metrics(tmp_path / f"{method}2")
        assert len(one) == len(two) >= 4
        for a, b in zip(one, two, strict=True):
            assert a == pytest.approx(b, abs=1e-4, rel=1e-3), "gradient norms are no losses and may be large"


def test_without_adversary_there_is_no_discriminator(stores, supervised, tmp_path):
    """Neither trained nor kept, nor in the log, at both heads or at one of them."""
    kept = {}
    for name, options in (("none", NO_ADVERSARY), ("one", ("--lambda-adv-main", 0))):
        uda_here(stores, tmp_path / name, *adapt_arguments(supervised, "--steps", 2, *options))
        kept[name] = checkpoint.load(tmp_path / name), metrics(tmp_path / name)[0]
    state, logged = kept["none"]
    assert "discriminators" not in state and len(state["optimizers"]) == 1
    assert not [name for name in logged if name.startswith(("loss_adv", "loss_D", "gradient_norm_D"))]
    state, logged = kept["one"]
    assert {key.split(".")[1] for key in state["discriminators"]} == {"aux"}
    assert {"loss_D_aux", "loss_adv_aux", "gradient_norm_D"} <= logged.keys()
    assert not {"loss_D_main", "loss_adv_main"} & logged.keys()
    # A run of before November 2026 had both, and cannot go on.
    both = state | {"step": 1, "discriminators": state["discriminators"] | {"networks.main.0.weight": torch.zeros(1)}}
    checkpoint.save(tmp_path / "one" / "last.pt", both)
    with pytest.raises(InputError, match=r"other discriminators, trained by another version.*--pretraining"):
        uda_here(stores, tmp_path / "one", *adapt_arguments(supervised, "--steps", 2, "--lambda-adv-main", 0))


def test_every_experiment_past_the_study_has_a_twin_for_two_cores(tmp_path):
    """Both resolve, and are the same method on the same domains."""
    study, own = read_experiments(EXPERIMENTS), read_experiments(METHODS_FILE)
    trained = [name for name in own if name not in study and own[name]["script"] != "evaluate" and "small" not in name]
    kinds = ("source", "target", "looks", "looks_by_region", "looks_beta", "discriminators_see", "entropy_power")
    twins = {name: f"small.{name.removeprefix('S.10-')}" for name in trained if not name.startswith("no-adversary")}
    assert len(twins) >= 18
    for pair in twins.items():
        words = ["--data", str(tmp_path), "--wandb", "disabled"]
        one, other = (parse(own[name]["script"], "", ["--experiment", name, *words]) for name in pair)
        assert [one.get(kind) for kind in kinds] == [other.get(kind) for kind in kinds], pair
        if one["script"] == "train_translation":
            assert one["batch_size"] == 4 and other["generator_width"] < one["generator_width"]
        else:
            assert one["batch_size"] == 8 + 4 * ("target" not in one) and other["model"] == "deeplabv2_small"


def test_the_launchers_know_the_runs_past_the_study():
    """Also those that have no milestones, or that nothing is scored with."""
    words = ("--experiments", METHODS_FILE, "--processes", 1, "--only", "small.source", "small.regions", "ADVENT-t1")
    scored, adapted = (run("-m", "launch.plan", one, *words).stdout.splitlines() for one in ("generalization", "uda"))
    assert len(scored) == 1 and "small.regions/fold0 --data stores --domain t1 t2 t3" in scored[0]
    assert len(adapted) == 5 and all("--experiment ADVENT-t1" in job for job in adapted)
    (job,) = run("-m", "launch.plan", "uda", *words[:5], "small.translation-t1").stdout.splitlines()
    commands = [command.split() for command in job.split(" && ")]
    assert [next(word for word in line[1:] if word != "-m") for line in commands] == [
        "train_translation.py", "evaluation.translate", "train_supervised.py", "evaluate.py"
    ]  # fmt: skip
    assert "source-as-t1" in commands[2] and "runs/small.translated-t1/fold0" in commands[3]


def test_methods_are_run_after_what_they_start_from():
    """Every method of the file for drawn micrographs, and a refusal of a name that is none."""
    line = ["launch/methods.sh", "--dry-run"]
    environment = os.environ | {"TWIN": "small.", "PROCESSES": "1", "TARGETS": "t1 t3"}
    said = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment, check=True).stdout
    names = [job.split("--experiment ")[1].split()[0] for job in said.splitlines() if "--experiment " in job]
    assert {*names[:3]} == {"small.source", "small.AdaptSegNet-t1", "small.AdaptSegNet-t3"}
    assert names[0] == "small.source" and len(names) == len({*names}) == 3 + 2 * 14
    for first, then in (("DAST", "DAST-ST"), ("histogram", "histogram-DACS")):
        assert all(names.index(f"small.{first}-{t}") < names.index(f"small.{then}-{t}") for t in ("t1", "t3"))
    alone = subprocess.run([*line, "DAST-ST"], cwd=ROOT, capture_output=True, text=True, env=environment, check=True)
    trained = re.findall(r"--experiment small\.(DAST\S*)-t[13] ", alone.stdout)
    assert trained == ["DAST", "DAST", "DAST-ST", "DAST-ST"]
    wrong = subprocess.run([*line, "NONE"], cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert wrong.returncode and "no experiment small.NONE-t1" in wrong.stderr


def test_a_look_can_be_seen(stores, tmp_path):
    words = ("-m", "evaluation.looks", "--data", stores, "--target", "labelled", "--out", tmp_path / "looks.jpg")
    run(*words)
    assert cv2.imread(str(tmp_path / "looks.jpg")).std() > 10
    said = run(*words, "--tile", 999, ok=False).stderr
    assert "--tile 999: " in said and "Traceback" not in said


def test_self_information_is_that_of_any_number_of_phases():
    """Its sum is 0 where the prediction is sure and 1 where it knows nothing, and its gradient is finite everywhere."""
    for phases in (1, 3):
        logits = torch.zeros(1, phases, 2, 2)
        assert entropy_loss(logits) == pytest.approx(1)
        logits[:, 0] = 300
        logits.requires_grad_()
        loss = entropy_loss(logits)
        loss.backward()
        assert loss == 0 and logits.grad.isfinite().all()
    maps = models.probabilities(torch.tensor([[-1.0, 0.5]]).view(1, 1, 1, 2))
    found = self_information(maps)
    assert found.shape == maps.shape
    assert float(found[0, 1, 0, 1]) == pytest.approx(-0.62246 * math.log2(0.62246), rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert entropy_loss(torch.randn(1, 1, 4, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("weights", "values", "said"),
    [
        ({"lambda_adv_aux": 0.0}, {"loss_D_aux": 0.02}, []),
        ({"lambda_adv_aux": 0.0}, {"loss_D_main": 0.02}, ["--lambda-adv-main"]),
        ({}, {"loss_D_feature": 0.02}, []),
        ({"lambda_adv_feature": 0.1}, {"loss_D_feature": 0.02, "loss_D_aux": 0.4}, ["Raise --lambda-adv-feature,"]),
        ({"lambda_adv_feature": 0.1}, {"loss_D_feature": 0.25, "loss_D_main": 0.25}, ["loss_D_feature stays at 0.250"]),
        ({"lambda_adv_main": 0.0, "lambda_adv_aux": 0.0, "lambda_entropy_main": 0.1}, {"target_phase_fraction": 0.01},
         ["Lower --lambda-entropy-main."]),
        ({"lambda_entropy_aux": 0.1}, {"target_phase_fraction": 0.99},
         ["Lower --lambda-adv-main and --lambda-adv-aux and --lambda-entropy-aux."]),
        ({"lambda_adv_main": 0.0, "lambda_adv_aux": 0.0}, {"target_phase_fraction": 0.01}, ["evaluation.gap"]),
    ],
)  # fmt: skip
def test_warnings_are_about_the_losses_that_act(weights, values, said):
    options = SimpleNamespace(**defaults_of("train_uda") | weights)
    health = Health(options, ("main", "aux"))
    found = [warning for _ in range(50) for warning in health.observe(values)]
    assert len(found) == len(said) and all(word in warning for word, warning in zip(said, found, strict=True))
