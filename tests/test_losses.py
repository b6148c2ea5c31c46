"""Losses: what they equal, where they look, how they average; and the discriminators that one trains."""

import math

import pytest
import torch
from torch import nn

import models
from common.errors import InputError
from losses import GanLoss, segmentation_loss


def test_segmentation_loss_scores_only_the_centre():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 20, 24, generator=generator)
    mask = torch.randint(0, 2, (2, 1, 8, 12), dtype=torch.uint8, generator=generator)
    context = logits.clone()
    context[..., 6:14, 6:18] = 0
    assert segmentation_loss(logits, mask) == segmentation_loss(logits + 100 * (context != 0), mask)

    centre = logits[..., 6:14, 6:18]
    cross_entropy = -torch.where(mask == 1, centre.sigmoid(), 1 - centre.sigmoid()).log().mean()
    torch.testing.assert_close(segmentation_loss(logits, mask), cross_entropy)


def test_segmentation_loss_without_context():
    mask = torch.ones(1, 1, 5, 5, dtype=torch.uint8)
    torch.testing.assert_close(segmentation_loss(torch.zeros(1, 1, 5, 5), mask), torch.tensor(math.log(2)))


def test_mean_over_equal_shards_is_the_mean_over_the_batch():
    logits, mask = torch.randn(4, 1, 9, 9), torch.randint(0, 2, (4, 1, 9, 9), dtype=torch.uint8)
    shards = [segmentation_loss(logits[rows], mask[rows]) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(shards) / 2, segmentation_loss(logits, mask))
    for kind in ("vanilla", "least_squares"):
        loss = GanLoss(kind)
        shards = [loss(logits[rows], "source") for rows in (slice(0, 2), slice(2, 4))]
        torch.testing.assert_close(sum(shards) / 2, loss(logits, "source"))


@pytest.mark.parametrize("kind", ["vanilla", "least_squares"])
def test_gan_loss_falls_towards_its_label(kind):
    loss = GanLoss(kind)
    low, high = torch.full((2, 1, 3, 3), 0.1), torch.full((2, 1, 3, 3), 0.9)
    assert loss(low, "source") < loss(high, "source")
    assert loss(high, "target") < loss(low, "target")


def test_gan_loss_values():
    blind = torch.zeros(1, 1, 2, 2)
    torch.testing.assert_close(GanLoss("vanilla")(blind, "source"), torch.tensor(math.log(2)))
    assert GanLoss("least_squares")(blind, "source") == 0
    assert GanLoss("least_squares")(blind, "target") == 1


def test_losses_are_float32_under_autocast():
    logits = torch.randn(2, 1, 8, 8)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        values = [segmentation_loss(logits, mask), GanLoss("vanilla")(logits.bfloat16(), "target")]
        values.append(GanLoss("least_squares")(logits.bfloat16(), "target"))
    assert all(value.dtype == torch.float32 for value in values)
    assert values[0] == segmentation_loss(logits, mask)


def test_discriminators():
    discriminators = models.Discriminators(("main", "aux"), width=8)
    assert set(discriminators.networks) == {"main", "aux"}
    channels = [layer.out_channels for layer in discriminators.networks["main"] if isinstance(layer, nn.Conv2d)]
    assert channels == [8, 16, 32, 64, 1]
    judged = models.probabilities(torch.randn(2, 1, 128, 100))
    (logits,) = discriminators({"main": judged, "aux": judged})
    assert logits["main"].shape == (2, 1, 4, 3)
    logits["main"].mean().backward()
    assert all(parameter.grad.any() for parameter in discriminators.networks["main"].parameters())
    assert all(parameter.grad is None for parameter in discriminators.networks["aux"].parameters())
    with pytest.raises(InputError, match="31 x 64"):
        discriminators({"main": judged[..., :31, :64]})


def test_probabilities_of_two_phases():
    logits = torch.tensor([-100.0, 0.0, 3.0]).view(1, 1, 1, 3)
    background, foreground = models.probabilities(logits.bfloat16())[0, :, 0]
    assert foreground.dtype == torch.float32
    torch.testing.assert_close(foreground, logits.sigmoid().flatten())
    torch.testing.assert_close(background, 1 - foreground)


def test_ignored_pixels_count_in_no_loss_and_no_gradient():
    """Each tile is averaged over what counts of it, so that shards of a batch average to the batch."""
    logits = torch.randn(3, 1, 6, 6, requires_grad=True)
    mask = torch.randint(0, 2, (3, 1, 6, 6), dtype=torch.uint8)
    ignored = mask.clone()
    ignored[0, :, :, :4] = 255
    ignored[2] = 255
    loss = segmentation_loss(logits, ignored)
    alone = segmentation_loss(logits[:1, ..., 4:], mask[:1, ..., 4:]) + segmentation_loss(logits[1:2], mask[1:2])
    torch.testing.assert_close(loss, alone / 3)
    loss.backward()
    assert torch.equal(logits.grad != 0, ignored != 255)


def test_weights_are_of_pixels_and_one_is_none():
    logits, mask = torch.randn(2, 1, 6, 6), torch.randint(0, 2, (2, 1, 6, 6), dtype=torch.uint8)
    plain = nn.functional.binary_cross_entropy_with_logits(logits, mask.float())
    assert segmentation_loss(logits, mask) == plain == segmentation_loss(logits, mask, torch.ones(2, 1, 1, 1))
    half = torch.zeros(2, 1, 6, 6)
    half[1] = 1
    torch.testing.assert_close(segmentation_loss(logits, mask, half), segmentation_loss(logits[1:], mask[1:]) / 2)
