"""How many phases there are is known at two gates; a network with one level of output adapts on that level."""

import ast

import numpy as np
import pytest
import torch
from conftest import ROOT
from short_runs import metrics, uda_here

from models import classes, probabilities
from training import checkpoint


def test_one_channel_is_two_phases_and_more_are_as_many():
    logits = torch.randn(2, 1, 5, 4, dtype=torch.bfloat16)
    two = probabilities(logits)
    assert two.shape == (2, 2, 5, 4) and two.dtype == torch.float32
    torch.testing.assert_close(two[:, 1], logits[:, 0].float().sigmoid())
    three = probabilities(torch.randn(2, 3, 5, 4))
    for maps in (two, three):
        torch.testing.assert_close(maps.sum(1), torch.ones(2, 5, 4))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_likeliest_phase_is_taken_and_of_two_the_second_from_half_upwards(kind):
    two = np.float32([[[0.6, 0.5, 0.4]], [[0.4, 0.5, 0.6]]])
    assert classes(kind(two)).tolist() == [[0, 1, 1]]
    assert classes(kind(np.uint8([[[128, 127]], [[127, 128]]])), certain=255).tolist() == [[0, 1]]
    three = np.float32([[[0.2, 0.5]], [[0.3, 0.1]], [[0.5, 0.4]]])
    found = classes(kind(np.stack([three, three])))
    assert found.tolist() == [[[2, 0]], [[2, 0]]] and str(found.dtype).endswith("uint8")


def test_nothing_else_makes_probabilities_or_classes_of_a_prediction():
    found = []
    for folder in ("models", "losses", "training", "evaluation"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
                found += [f"{path.relative_to(ROOT)}: {name}"] * (name.lower() in ("sigmoid", "softmax", "logsigmoid"))
    assert set(found) == {"models/phases.py: sigmoid", "models/phases.py: softmax"}


def test_a_network_with_one_level_adapts_on_it(stores, tmp_path):
    """As U-Nets do, which have no auxiliary head."""
    weights = []
    for weight in (0, 0.5):
        folder = tmp_path / f"run{weight}"
        weighed = ("--lambda-adv-main", weight, "--lambda-adv-aux", weight)
        uda_here(stores, folder, "--model", "unet_small", "--steps", 2, "--batch-size", 2, *weighed)
        losses = {name for line in metrics(folder) for name in line if name.startswith("loss")}
        model, state = checkpoint.load_model(folder)
        if weight:
            assert losses == {"loss_seg_main", "loss_adv_main", "loss_D_main"}
            assert {key.split(".")[1] for key in state["discriminators"]} == {"main"}
        else:
            assert losses == {"loss_seg_main"} and "discriminators" not in state
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert not torch.equal(*weights)
