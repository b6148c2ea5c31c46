"""DAST equals its recipe, resumes bit for bit, divides among processes; its attention goes wherever the model goes."""

import copy
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, command
from short_runs import (
    adapt_arguments,
    differences,
    metrics,
    selftraining_arguments,
    supervised_arguments,
    uda_arguments,
    uda_here,
)
from torch import nn

import models
import train_selftraining
import train_uda
from data.store import Store
from data.tiles import BatchStream, LabelledTiles, UnlabelledTiles
from evaluation.choose import members_of, with_teacher_as_model
from evaluation.gradcam import default_layer, find_layer, phase_map
from evaluation.inference import for_inference, predict
from evaluation.judge.export import export
from evaluation.judge.judge import Judge
from evaluation.judge.remedies import Remedy
from evaluation.members import fit_to_domain, load_member
from models.attention import Attention
from models.deeplabv2 import upsample
from training import checkpoint, distributed
from training.configuration import digest_of, parse
from training.network import build_model

ALONE = SimpleNamespace(world=1, device=torch.device("cpu"), is_main=True)
DAST = ("--gan", "least_squares", "--lambda-adv-feature", 0.5)


class DastStep:
    """An update of DAST, as published: parameters switched off and on, a pass of each discriminator for each loss."""

    def __init__(self, model, attention, judges, optimizers, weights):
        self.model, self.attention, self.judges, self.optimizers, self.weights = (
            model, attention, judges, optimizers, weights)  # fmt: skip

    def output(self, images, domain):
        models.set_domain(self.model, domain)
        aux_features, features = self.model.backbone(self.model.normalise(images))
        seen = features
        if domain == "target":
            seen = features * (1 + torch.tanh(self.attention(features)))
        logits = {"main": self.model.main_head(seen), "aux": self.model.aux_head(aux_features)}
        stride, size = self.model.backbone.stride, images.shape[-2:]
        foreground = {k: torch.sigmoid(upsample(z, stride, size)) for k, z in logits.items()}
        return features, {k: torch.cat([1 - p, p], 1) for k, p in foreground.items()}

    def __call__(self, images, masks, target_images):
        discriminators, losses = {**self.judges, "feature": self.attention}, {}
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        for one in discriminators.values():
            one.requires_grad_(False)
        features, maps = self.output(images, "source")
        margin = (images.shape[-1] - masks.shape[-1]) // 2
        for level, p in maps.items():
            inner = p[:, 1:, margin:-margin, margin:-margin]
            losses[f"loss_seg_{level}"] = F.binary_cross_entropy(inner, masks.float())
        (losses["loss_seg_main"] + 0.1 * losses["loss_seg_aux"]).backward()

        target_features, target_maps = self.output(target_images, "target")
        of_target = {**target_maps, "feature": target_features}
        for level, judge in discriminators.items():
            losses[f"loss_adv_{level}"] = judge(of_target[level]).square().mean()
        sum(weight * losses[f"loss_adv_{level}"] for level, weight in self.weights.items()).backward()

        of_source = {**maps, "feature": features}
        for level, judge in discriminators.items():
            judge.requires_grad_(True)
            is_source, is_target = judge(of_source[level].detach()), judge(of_target[level].detach())
            losses[f"loss_D_{level}"] = (is_source.square().mean() + (is_target - 1).square().mean()) / 2
            losses[f"loss_D_{level}"].backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return losses


def test_updates_equal_the_recipe(stores, supervised, tmp_path):
    """Two steps, parameter by parameter, and each loss of either step."""
    weights = {"main": 10.0, "aux": 0.01, "feature": 0.5}  # large, so that the way through the verdict shows
    lambdas = [word for level in weights for word in (f"--lambda-adv-{level}", weights[level])]
    uda_here(stores, tmp_path / "run", "--steps", 2, "--optimizer", "sgd", "--schedule", "constant", "--learning-rate",
             0.01, "--augmentation", "basic", "--discriminator-learning-rate", 1e-3, "--batch-norm", "frozen",
             "--pretraining", supervised / "last.pt", "--gan", "least_squares", *lambdas)  # fmt: skip
    torch.manual_seed(0)
    model = models.build("deeplabv2_small")
    model.load_state_dict(checkpoint.load(supervised)["model"])
    models.freeze_batch_norm(models.domain_batch_norm(model))
    layers = []
    for width in ((96, 48), (48, 24), (24, 12)):
        layers += [nn.Conv2d(*width, 3, padding=1), nn.LeakyReLU(0.2)]
    attention = nn.Sequential(*layers, nn.Conv2d(12, 1, 3, padding=1))
    judges = models.Discriminators(model.levels, 16).networks
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer_D = torch.optim.Adam([*judges.parameters(), *attention.parameters()], lr=1e-3, betas=(0.9, 0.99))
    published = DastStep(model, attention, judges, [optimizer, optimizer_D], weights)
    target = UnlabelledTiles(Store(stores / "labelled.h5", labels=False), 0, "basic", 0)
    source = LabelledTiles(Store(stores / "source.h5"), 0, "basic", 0)
    orders = [list(BatchStream(len(t), 4, 0, 2, 0, t.store.domain)) for t in (source, target)]
    logged = [line for line in metrics(tmp_path / "run") if "learning_rate" in line]
    for step in range(2):
        items = [source[a] + target[b] for a, b in zip(*(order[step] for order in orders), strict=True)]
        losses = published(*(torch.stack(tensors) for tensors in zip(*items, strict=True)))
        assert losses.keys() == {name for name in logged[step] if name.startswith("loss")}
        for name, value in losses.items():
            assert logged[step][name] == pytest.approx(float(value.detach()), rel=1e-3), (step, name)
    state = checkpoint.load(tmp_path / "run")
    for key, value in model.named_parameters():
        assert torch.allclose(state["model"][key], value, rtol=1e-5, atol=1e-6), key
    # Adam makes a whole step of a gradient that is but rounding. Its mean gradients are compared, not its steps.
    moments = [one["exp_avg"] for one in state["optimizers"][1]["state"].values()]
    learning = [*judges.parameters(), *attention.parameters()]
    for found, optimizer_state in zip(moments, (optimizer_D.state[p] for p in learning), strict=True):
        assert (found - optimizer_state["exp_avg"]).norm() < 0.02 * found.norm()
    for key, value in attention.named_parameters():
        assert torch.allclose(state["model"][f"attention.layers.{key}"], value, atol=4.1e-3), key  # two, either way


@pytest.fixture(scope="module")
def dast(stores, supervised, tmp_path_factory):
    """A run of six steps in micro-batches, with what it has before and after a stop."""
    folder = tmp_path_factory.mktemp("runs") / "dast"
    uda_here(stores, folder, *OF_SIX, "--pretraining", supervised)
    return folder


OF_SIX = ("--steps", 6, "--checkpoint-every", 3, "--validate-every", 6, "--micro-batch", 2, *DAST)


def test_a_resumed_run_equals_an_undisturbed_one_and_every_weight_is_learnt_once(stores, supervised, dast, tmp_path):
    shutil.copytree(dast, tmp_path / "resumed")
    for name in ("best.pt", "finished.json"):
        (tmp_path / "resumed" / name).unlink()
    os.replace(tmp_path / "resumed" / "previous.pt", tmp_path / "resumed" / "last.pt")
    before = checkpoint.load(tmp_path / "resumed")
    uda_here(stores, tmp_path / "resumed", *OF_SIX, "--pretraining", supervised)
    assert differences(dast, tmp_path / "resumed") == []
    state = checkpoint.load(dast)
    assert before["step"] == 3 and len(state["optimizers"]) == 2
    moved = {key for key, value in state["model"].items() if not torch.equal(value, before["model"][key])}
    learnt = dict(checkpoint.load_model(dast)[0].named_parameters())
    assert {key for key in learnt if key.startswith("attention.")} == {
        f"attention.layers.{at}.{name}" for at in (0, 2, 4, 6) for name in ("weight", "bias")
    }
    assert learnt.keys() <= moved
    assert sum(len(one["state"]) for one in state["optimizers"]) == len(learnt) + len(state["discriminators"])


def test_its_weight_changes_the_weights_and_without_it_nothing_is_there(stores, dast, tmp_path):
    """A feature discriminator alone is a discriminator too, of a network with one head, and in low precision."""
    short, states = ("--steps", 2, "--batch-size", 2, "--lambda-adv-main", 0, "--lambda-adv-aux", 0), {}
    for name, more in (("none", ()), ("some", (0.1,)), ("more", (0.5,)), ("unet", (0.5, "--model", "unet_small"))):
        words = [*(("--lambda-adv-feature", *more) if more else ()), *(("--amp", "bf16") if name == "unet" else ())]
        uda_here(stores, tmp_path / name, *short, *words)
        states[name] = checkpoint.load(tmp_path / name)
        assert "discriminators" not in states[name] and len(states[name]["optimizers"]) == 1 + bool(more)
    plain, some, more = (states[name]["model"] for name in ("none", "some", "more"))
    assert not [key for key in plain if "attention" in key]
    of_all = [key for key in plain if "num_batches" not in key]
    assert not all(torch.equal(plain[key], some[key]) for key in of_all)
    assert not all(torch.equal(more[key], some[key]) for key in of_all)
    assert states["unet"]["model"]["attention.layers.0.weight"].shape[:2] == (1, 2)  # of 16 // 8 channels
    logged = {name: {key for key in metrics(tmp_path / name)[0] if "feature" in key} for name in ("none", "some")}
    assert logged == {"none": set(), "some": {"loss_adv_feature", "loss_D_feature"}}
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("none", "some")]
    before = {key: value for key, value in configs[0].items() if key != "lambda_adv_feature"}
    assert digest_of(before) == digest_of(configs[0]) != digest_of(configs[1])


@pytest.mark.parametrize("name", ["deeplabv2_small", "deeplabv2_resnet18", "unet_small"])
def test_the_attention_weighs_the_target_and_leaves_the_source(name):
    """Of three phases; the windows of inference see it too, and it sees four places far."""
    torch.manual_seed(0)
    model = models.domain_batch_norm(models.build(name, 3)).eval()
    plain, images = copy.deepcopy(model), torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    model.attend()
    model.eval()
    own = {*model.backbone_parameters(), *model.head_parameters()}
    assert own | {*model.attention.parameters()} == {*model.parameters()} and not own & {*model.attention.parameters()}
    found = {}
    for domain in ("source", "target"):
        for one in (model, plain):
            models.set_domain(one, domain)
        with torch.no_grad():
            found[domain] = model(images), plain(images)
        fast = predict(for_inference(model), images[0, 0].numpy(), 32, 8)
        np.testing.assert_allclose(fast, predict(model, images[0, 0].numpy(), 32, 8), atol=1e-4)
    for with_it, without in found.values():
        assert with_it.keys() == without.keys() and with_it["main"].shape == (2, 3, 64, 64)
        assert "aux" not in with_it or torch.equal(with_it["aux"], without["aux"])
    assert torch.equal(*(output["main"] for output in found["source"]))
    assert not torch.equal(*(output["main"] for output in found["target"]))
    assert model.train()(images)["feature"].shape[1] == 1 and "feature" not in plain.train()(images)

    attention, features = Attention(16), torch.rand(1, 16, 21, 21)
    attention.domain, changed = "target", features.clone()
    changed[..., 10, 10] += 1
    one, other = (attention(each)[1]["feature"] for each in (features, changed))
    places = (one != other)[0, 0].nonzero()
    assert places.min() == 6 and places.max() == 14


def test_it_is_there_where_a_run_is_segmented_scored_exported_and_chosen_with(stores, supervised, dast, tmp_path):
    state = checkpoint.load(dast)
    state["model"] = {key: value for key, value in state["model"].items() if not key.startswith("attention.")}
    checkpoint.save(tmp_path / "without.pt", {key: value for key, value in state.items() if key != "version"})
    source, target = (Store(stores / f"{name}.h5") for name in ("source", "labelled"))
    image = target.image(4)

    def predicted(path, store):
        member = load_member(path, "last", "cpu")
        fit_to_domain(member, store, False, torch.device("cpu"))
        return member.predictor("cpu")(image)

    assert np.array_equal(predicted(dast, source), predicted(tmp_path / "without.pt", source))
    whole, without = predicted(dast, target), predicted(tmp_path / "without.pt", target)
    assert np.abs(whole - without).max() > 1e-4

    (member,) = members_of([dast], "cpu")
    judge = Judge([member], source)
    (path,) = export(judge, [member], Store(target.path, labels=False), Remedy(), tmp_path)
    for written in (path, with_teacher_as_model(member, tmp_path)):
        assert np.array_equal(predicted(written, target), whole)
    fit_to_domain(member, target, False, torch.device("cpu"))
    model, maps = member.model.requires_grad_(False), []
    for domain in ("target", "source"):
        models.set_domain(model, domain)
        layer = find_layer(model, default_layer(model))
        maps.append(phase_map(model, layer, image, np.ones_like(image), 8))
    assert np.isfinite(maps).all() and not np.array_equal(*maps)


def selftrained(stores, folder, start, *more):
    words = ("--steps", 2, "--batch-size", 2, "--sure", 0.9, "--surest", 0.5, "--pseudo-weight", "pixel")
    arguments = selftraining_arguments(stores, folder, *words, "--pretraining", start, *more)
    distributed.together(train_selftraining.train, SimpleNamespace(**parse("train_selftraining", "", arguments)))
    return checkpoint.load(folder)


def test_a_self_training_goes_on_with_it_and_others_leave_or_teach_it(stores, dast, tmp_path):
    """Model and teacher have what was learnt; another target, or none, has nothing of it."""
    learnt = {k: v for k, v in checkpoint.load(dast)["model"].items() if k.startswith("attention.")}
    state = selftrained(stores, tmp_path / "st", dast)
    for network in ("model", "teacher"):
        assert all(torch.equal(state[network][key], value) for key, value in learnt.items())
        loaded, _ = checkpoint.load_model(tmp_path / "st", network=network)
        assert loaded.attention is not None
    again = selftrained(stores, tmp_path / "again", tmp_path / "st")
    assert all(torch.equal(again["teacher"][key], value) for key, value in learnt.items())

    def built(script, arguments):
        model, optimizer = build_model(SimpleNamespace(**parse(script, "", arguments)), ALONE)
        taught = {p for group in optimizer.param_groups for p in group["params"]}
        assert taught == {p for name, p in model.named_parameters() if not name.startswith("attention.")}
        return model.attention

    words = (stores, tmp_path / "x", "--pretraining", dast)
    assert built("train_uda", uda_arguments(*words, target="unlabelled")) is None
    assert built("train_supervised", supervised_arguments(*words)) is None
    kept = built("train_uda", uda_arguments(*words))
    taught = built("train_uda", uda_arguments(*words, *DAST))
    for attention, learns in ((kept, False), (taught, True)):
        assert all(torch.equal(v, learnt[f"attention.{k}"]) for k, v in attention.state_dict().items())
        assert {p.requires_grad for p in attention.parameters()} == {learns}
    uda_here(stores, tmp_path / "kept", "--steps", 2, "--pretraining", dast)
    state = checkpoint.load(tmp_path / "kept")
    assert all(torch.equal(state["model"][key], value) for key, value in learnt.items())


# An adaptation and a self-training from it, by two processes in one start of them.
SCRIPT = """
import importlib, json, sys
from types import SimpleNamespace
from training import distributed
from training.configuration import parse

def cases(_, processes):
    for script, arguments in json.loads(sys.argv[1]):
        importlib.import_module(script).train(SimpleNamespace(**parse(script, "", arguments)), processes)

options = SimpleNamespace(batch_size=4, micro_batch=None, deterministic=False, amp="off")
options.device, options.pretraining = "auto", "random"
distributed.together(cases, options)
"""


def test_two_processes_compute_as_one_does(stores, supervised, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    short = ("--steps", 4, "--validate-every", 1000, "--batch-norm", "frozen", "--learning-rate", 5e-4)

    def cases(processes):
        first, second = (tmp_path / f"{name}{processes}" for name in ("uda", "st"))
        adapted = uda_arguments(stores, first, *adapt_arguments(supervised, *DAST, "--micro-batch", 1))
        trained = selftraining_arguments(stores, second, *short, "--pretraining", first)
        return (first, second), [("train_uda", adapted), ("train_selftraining", trained)]

    (ones, alone), (twos, both) = cases(1), cases(2)
    ended = subprocess.run(
        command(tmp_path / "script.py", json.dumps(both), processes=2), cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=100,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for (script, arguments), train in zip(alone, (train_uda.train, train_selftraining.train), strict=True):
        distributed.together(train, SimpleNamespace(**parse(script, "", arguments)))
    for one, two in zip(ones, twos, strict=True):
        assert len(metrics(one)) == len(metrics(two)) >= 4
        for a, b in zip(metrics(one), metrics(two), strict=True):
            assert a == pytest.approx(b, abs=1e-4, rel=1e-3)
