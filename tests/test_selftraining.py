"""Self-training equals its published recipes, resumes bit for bit, divides among processes, and can be scored."""

import copy
import json
import os
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, command, run
from short_runs import differences, metrics, selftraining_arguments

import models
import train_selftraining
from common.errors import InputError
from data.store import TWO_PHASES, Store
from data.tiles import BatchStream, LabelledTiles
from data.views import TwoViews
from evaluation.choose import members_of, with_teacher_as_model
from evaluation.judge.choice import grouped
from evaluation.members import load_member
from losses import Labelled, class_mix, sure_labels
from training import checkpoint, distributed
from training.configuration import parse
from training.options import parser_of
from training.teacher import Drift, build_teacher

MIC = ("--lambda-masked", 0.5, "--masked-block", 16)


def here(stores, folder, *more):
    """Train in this process."""
    config = parse("train_selftraining", "", selftraining_arguments(stores, folder, *more))
    distributed.together(train_selftraining.train, SimpleNamespace(**config))
    return checkpoint.load(folder)


class PublishedStep:
    """An update of DACS, and of MIC beside it, written tile by tile from the papers.

    DACS: Algorithm 1 and Section 3.2 of Tranheden et al. (2021). MIC: Equations 3 to 8 of Hoyer et al. (2023).
    """

    def __init__(self, model, optimizer, decay, tau, lambda_aux, lambda_masked):
        self.student, self.teacher = model, copy.deepcopy(model)
        models.set_domain(self.teacher, "target")
        self.optimizer, self.decay, self.tau = optimizer, decay, tau
        self.levels, self.lambda_masked, self.iteration = {"main": 1.0, "aux": lambda_aux}, lambda_masked, 0

    def __call__(self, items):
        self.optimizer.zero_grad()
        images, masks, weak, strong, masked, order = (torch.stack(part) for part in zip(*items, strict=True))
        margin = (images.shape[-1] - masks.shape[-1]) // 2
        inner = slice(margin, margin + masks.shape[-1])
        with torch.no_grad():
            foreground = torch.sigmoid(self.teacher(weak)["main"][:, 0, inner, inner])
        pseudo = (foreground >= 0.5).long()
        share = [float((torch.maximum(p, 1 - p) >= self.tau).float().mean()) for p in foreground]
        mixed, labels, weights = strong.clone(), pseudo.clone(), torch.ones(pseudo.shape)
        for n, mask in enumerate(masks[:, 0]):
            classes = sorted(set(mask.flatten().tolist()), key=lambda c, n=n: float(order[n, c]))
            chosen = classes[: int((len(classes) + len(classes) % 2) / 2)]
            paste = torch.tensor(np.isin(mask.numpy(), chosen))
            mixed[n, 0, inner, inner][paste] = images[n, 0, inner, inner][paste]
            labels[n][paste] = mask[paste].long()
            weights[n] = torch.where(paste, 1.0, share[n])
        models.set_domain(self.student, "source")
        loss = self.cross_entropy(self.student(images), masks[:, 0].long(), torch.ones(pseudo.shape), inner)
        models.set_domain(self.student, "target")
        loss = loss + self.cross_entropy(self.student(mixed), labels, weights, inner)
        if self.lambda_masked:
            q = torch.tensor(share)[:, None, None].expand(pseudo.shape)
            loss = loss + self.lambda_masked * self.cross_entropy(self.student(masked), pseudo, q, inner)
        loss.backward()
        self.optimizer.step()
        self.iteration += 1
        alpha = min(1 - 1 / self.iteration, self.decay)
        for mean, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mean.data = alpha * mean.data + (1 - alpha) * own.data

    def cross_entropy(self, logits, labels, weights, inner):
        def of_level(z):
            p = torch.sigmoid(z[:, 0, inner, inner])
            return -(weights * torch.where(labels == 1, p, 1 - p).log()).mean()

        return sum(factor * of_level(logits[level]) for level, factor in self.levels.items())


@pytest.mark.parametrize("masked", [0.0, 0.5], ids=["DACS", "MIC"])
def test_updates_equal_the_published_recipe(stores, tmp_path, masked):
    """Three steps, every parameter of the model and of the teacher."""
    state = here(stores, tmp_path / "run", "--steps", 3, "--optimizer", "sgd", "--schedule", "constant",
                 "--learning-rate", 0.01, "--augmentation", "basic", "--batch-norm", "frozen", "--sure", 0.6,
                 "--teacher-decay", 0.6, "--lambda-masked", masked, "--masked-block", 16)  # fmt: skip
    torch.manual_seed(0)
    model = models.build("deeplabv2_small")
    models.domain_batch_norm(model)
    models.freeze_batch_norm(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    published = PublishedStep(model, optimizer, 0.6, 0.6, 0.1, masked)
    source = LabelledTiles(Store(stores / "source.h5"), 0, "basic", 0)
    target = TwoViews(Store(stores / "labelled.h5", labels=False), 0, 0, 16, 0.7)
    orders = [list(BatchStream(len(t), 4, 0, 3, 0, t.store.domain)) for t in (source, target)]
    for step in range(3):
        published([source[a] + target[b] for a, b in zip(*(order[step] for order in orders), strict=True)])
    for network, expected in (("model", model), ("teacher", published.teacher)):
        for name, value in expected.named_parameters():
            assert torch.allclose(state[network][name], value, rtol=1e-5, atol=1e-6), (network, name)
    moved = [torch.equal(state["model"][name], value) for name, value in published.teacher.named_parameters()]
    assert not all(moved)


# Another value of every option of its own, and what each needs beside it.
ARITHMETIC = {
    "teacher_decay": [0.3], "teacher_statistics": ["running"], "sure": [0.51], "surest": [0.95],
    "pseudo_weight": ["pixel"], "lambda_mixed": [0.2], "lambda_masked": [1], "masked_share": [0.3, *MIC],
    "masked_block": [40, *MIC], "looks": ["histogram"],
}  # fmt: skip


def test_every_option_of_a_self_training_changes_the_weights(stores, supervised, tmp_path):
    short = ("--steps", 3, "--batch-size", 2, "--pretraining", supervised, "--sure", 0.7)
    plain = {needed: here(stores, tmp_path / f"plain{len(needed)}", *short, *needed)["model"] for needed in ((), MIC)}
    for option, (value, *needed) in ARITHMETIC.items():
        words = [f"--{option.replace('_', '-')}", value]
        changed = here(stores, tmp_path / option, *short, *needed, *words)["model"]
        assert any(not torch.equal(changed[key], value) for key, value in plain[tuple(needed)].items()), option
    own = {a.dest for group in parser_of("train_selftraining")._action_groups if group.title == "self-training"
           for a in group._group_actions}  # fmt: skip
    assert own <= ARITHMETIC.keys()


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_a_resumed_self_training_equals_an_undisturbed_one(stores, supervised, tmp_path, statistics):
    """Model, teacher, moments and the first fractions; from a model of the source, whose folder is enough."""
    more = (
        "--steps",
        6,
        "--checkpoint-every",
        3,
        "--pretraining",
        supervised,
        *MIC,
        "--teacher-statistics",
        statistics,
    )
    whole = here(stores, tmp_path / "full", *more)
    shutil.copytree(tmp_path / "full", tmp_path / "resumed")
    for name in ("best.pt", "finished.json"):
        (tmp_path / "resumed" / name).unlink()
    os.replace(tmp_path / "resumed" / "previous.pt", tmp_path / "resumed" / "last.pt")
    assert checkpoint.load(tmp_path / "resumed")["step"] == 3
    here(stores, tmp_path / "resumed", *more)
    assert differences(tmp_path / "full", tmp_path / "resumed") == []
    assert {"model", "teacher", "drift"} <= whole.keys() and 0 < float(whole["drift"]["first"].sum()) < 1


def test_two_processes_train_as_one_does(stores, supervised, tmp_path):
    """With batch norm over both: the teacher's batch is divided too."""
    more = ("--steps", 4, "--pretraining", supervised, "--learning-rate", 5e-4, "--surest", 0.3, *MIC,
            "--validate-every", 1000)  # fmt: skip
    line = command("train_selftraining.py", *selftraining_arguments(stores, tmp_path / "two", *more), processes=2)
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    here(stores, tmp_path / "one", *more)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=2e-3, rel=2e-2)


def test_teachers_of_several_processes_may_not_go_by_statistics_of_their_own():
    model, two = (
        models.domain_batch_norm(models.build("deeplabv2_small")),
        distributed.Processes(0, 2, torch.device("cpu")),
    )
    options = SimpleNamespace(teacher_statistics="running", batch_norm="local")
    with pytest.raises(InputError, match=r"2 processes .* --batch-norm sync"):
        build_teacher(model, options, two)
    assert not build_teacher(model, options, replace(two, world=1)).training
    assert build_teacher(model, SimpleNamespace(teacher_statistics="batch", batch_norm="local"), two).training


def test_what_is_ignored_is_not_pasted_and_half_of_the_phases_is():
    """Four phases and an ignored corner; the context around the centre stays the target's."""
    masks = torch.tensor([[[0, 1], [2, 255]], [[3, 3], [3, 3]]], dtype=torch.uint8)[:, None]
    images, strong = torch.full((2, 1, 4, 4), 200, dtype=torch.uint8), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    labels, weights = torch.full_like(masks, 7), torch.full(masks.shape, 0.25)
    order = torch.arange(256, 0, -1).float().repeat(2, 1)  # 2 before 1 before 0
    mixed = class_mix(images, masks, Labelled(strong, labels, weights), order)
    assert mixed.labels[0, 0].tolist() == [[7, 1], [2, 7]] and mixed.labels[1, 0].tolist() == [[3, 3], [3, 3]]
    assert mixed.weights[0, 0].tolist() == [[0.25, 1], [1, 0.25]]
    assert mixed.images[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 200, 0], [0, 200, 0, 0], [0, 0, 0, 0]]
    assert not strong.any(), "the views of the loader stay as they are"


def test_a_rare_unsure_phase_keeps_its_labels():
    """A threshold alone leaves it none: then nothing speaks for it but the source."""
    logits = torch.full((1, 1, 20, 20), -5.0)
    logits[..., :2, :] = torch.linspace(0.1, 0.9, 40).view(2, 20)
    labels, plain = sure_labels(logits, 0.9, by_pixel=True)
    assert int(labels.sum()) == 40 and float(plain[labels == 1].sum()) == 0 and float(plain[labels == 0].mean()) == 1
    _, quota = sure_labels(logits, 0.9, 0.5, by_pixel=True)
    assert float(quota[labels == 1].sum()) == 20 and quota[0, 0, 1].all() and not quota[0, 0, 0].any()
    _, share = sure_labels(logits, 0.9)
    assert torch.allclose(share, torch.tensor(360 / 400)) and share.shape == labels.shape
    several, _ = sure_labels(torch.randn(2, 4, 8, 8), 0.9, 0.5)
    assert several.shape == (2, 1, 8, 8) and several.max() == 3


def test_pseudo_labels_that_leave_the_starting_model_are_warned_of_once():
    names = ("background", "foreground")
    drift, labels = Drift(names, from_model=True), torch.zeros(2, 1, 10, 10, dtype=torch.uint8)
    labels[:, :, 0, :9] = 1
    for step in range(30):
        found = [drift.observe(part, step, 0.5) for part in labels.split(1)]
    assert found[0].keys() == {"pseudo_fraction_background", "pseudo_fraction_foreground"}
    said = []
    for fraction in [*np.linspace(0.09, 0.005, 40), *[0.005] * 20]:
        said += drift.warnings({"pseudo_fraction_background": 1 - fraction, "pseudo_fraction_foreground": fraction})
    assert len(said) == 1 and "had 9.0 %" in said[0] and "--surest" in said[0]
    assert drift.state_dict()["first"].tolist() == pytest.approx([0.91, 0.09])
    other, values = Drift(names, from_model=False), {f"pseudo_fraction_{name}": 0.5 for name in names}
    assert not [other.warnings(values) for _ in range(20)][-1]


def test_views_show_the_same_places_and_depend_on_the_sample_alone(stores):
    target = TwoViews(Store(stores / "labelled.h5", labels=False), 0, 0, 16, 0.7)
    weak, strong, masked, order = target[(0, 1)]
    for one, other in zip(target[(0, 1)], (weak, strong, masked, order), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(strong, target[(1, 1)][1])
    a, b = (view.float().flatten() for view in (weak, strong))
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.5
    hidden = masked != strong
    assert 0.4 < float((masked == 116).float().mean()) < 0.95 and torch.equal(masked[~hidden], strong[~hidden])


def test_an_adapted_run_is_gone_on_from_with_its_targets_statistics(stores, tmp_path):
    """Else its teacher would begin by the source's statistics. Another target starts from the source's."""
    first = here(stores, tmp_path / "first", "--steps", 2)["model"]
    for target, expected in (("labelled", "target"), ("unlabelled", "source")):
        options = parse("train_selftraining", "", [*selftraining_arguments(stores, tmp_path / "x", "--pretraining",
                        tmp_path / "first"), "--target", target])  # fmt: skip
        processes = SimpleNamespace(world=1, device=torch.device("cpu"), is_main=True)
        model, _ = train_selftraining.build_model(SimpleNamespace(**options), processes, TWO_PHASES)
        name = "backbone.stem.1.norms.{}.running_mean"
        assert torch.equal(model.state_dict()[name.format("target")], first[name.format(expected)])
        assert torch.equal(model.state_dict()[name.format("source")], first[name.format("source")])


def test_the_teacher_is_scored_segmented_with_and_a_candidate(stores, supervised, tmp_path):
    folder = tmp_path / "run"
    here(stores, folder, "--steps", 3, "--pretraining", supervised, "--learning-rate", 0.02, "--keep-every", 2)
    run("evaluate.py", folder, "--data", stores, "--domain", "labelled")
    run("evaluate.py", folder, "--data", stores, "--domain", "labelled", "--network", "teacher")
    model, teacher = (json.loads((folder / "evaluation" / name / "score.json").read_text())
                      for name in ("labelled", "labelled.teacher"))  # fmt: skip
    assert (model["variant"], teacher["variant"]) == ("plain", "teacher") and model["miou"] != teacher["miou"]
    said = run("evaluate.py", supervised, "--data", stores, "--domain", "labelled", "--network", "teacher", ok=False)
    assert "holds no network 'teacher'" in said.stderr
    candidates = {one.name: one for one in grouped(members_of([supervised, folder], "cpu"))}
    assert set(candidates) == {str(supervised), str(folder), f"{folder}, step000002", f"{folder}, teacher"}
    (member,) = candidates[f"{folder}, teacher"].members
    written = load_member(with_teacher_as_model(member, tmp_path), "last", "cpu")
    for one, other in zip(written.model.state_dict().values(), member.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert written.preparation == member.preparation


def test_start_is_the_run_of_the_same_fold():
    config = parse("train_selftraining", "", ["--experiment", "small.AdaptSegNet-DACS-t1", "--fold", "0"])
    assert config["pretraining"] == "runs/small.AdaptSegNet-t1/fold0" and config["target"] == "t1"
    given = parse(
        "train_selftraining", "", ["--experiment", "AdaptSegNet-DACS-t3", "--pretraining", "x", "--epochs", "1"]
    )
    assert given["pretraining"] == "x"
