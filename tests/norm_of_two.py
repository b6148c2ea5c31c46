"""Compares synchronised batch norm on each of two processes with batch norm of the whole batch on one.

torchrun --nproc_per_node=2 tests/norm_of_two.py    prints relative differences by case as JSON
"""

import copy
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import models


def network(momentum: float | None) -> nn.Module:
    """Two layers of convolution and batch norm; every weight and statistic drawn, not left at 0 or 1."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU()]
    layers += [nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=momentum)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    for norm in (layers[1], layers[4]):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2.0)
    return models.domain_batch_norm(model)


def compare(
    tiles: int = 8, side: int = 20, dtype: torch.dtype = torch.float32, momentum: float | None = 0.1,
    domains: tuple[str, ...] = ("target", "source", "target"), compiled: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Train on a batch of each domain: largest relative differences of outputs, gradients and statistics.

    Mixed precision is compared with float32, and so is, as 'plain ...', what one process makes of it.
    """
    whole, rank, world = network(momentum), dist.get_rank(), dist.get_world_size()
    plain = copy.deepcopy(whole)
    shared = copy.deepcopy(whole)
    models.synchronise_batch_norm(shared, dist.new_group())
    shared = copy.deepcopy(shared)  # as a teacher is made
    assert shared.state_dict().keys() == whole.state_dict().keys()
    forward = torch.compile(shared, dynamic=False) if compiled else shared
    found = defaultdict(float)

    def note(kind: str, one: torch.Tensor, other: torch.Tensor) -> None:
        one, other = one.detach().double(), other.detach().double()
        found[kind] = max(found[kind], float((one - other).norm() / other.norm()))

    for number, domain in enumerate(domains):
        for model in (whole, shared, plain):
            models.set_domain(model, domain)
            model.zero_grad()
        generator = torch.Generator().manual_seed(number)
        # Tiles differ in level and contrast, so that each process alone would have other statistics.
        images = torch.randn(tiles, 3, side, side, generator=generator) * torch.arange(1, tiles + 1).view(-1, 1, 1, 1)
        images = (images + torch.arange(tiles).view(-1, 1, 1, 1)).requires_grad_()
        own = images.detach().chunk(world)[rank].requires_grad_()
        expected = whole(images)
        slope = torch.randn(expected.shape, generator=generator) + 1
        (expected * slope).sum().backward()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            output, of_plain = forward(own), plain(images.detach())
        (output.float() * slope.chunk(world)[rank]).sum().backward()
        (of_plain.float() * slope).sum().backward()
        note("output", output, expected.chunk(world)[rank])
        note("plain output", of_plain, expected)
        note("gradient", own.grad, images.grad.chunk(world)[rank])
        for parts, one, other in zip(shared.parameters(), plain.parameters(), whole.parameters(), strict=True):
            dist.all_reduce(parts.grad)
            note("gradient", parts.grad, other.grad)
            note("plain gradient", one.grad, other.grad)
    for one, other in zip(shared.buffers(), whole.buffers(), strict=True):
        note("statistics", one, other)
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo")
    found = {
        "float32": compare(),
        "average": compare(momentum=None),
        "bfloat16": compare(dtype=torch.bfloat16),
        "compiled": compare(domains=("target",), compiled=True),
        "one value a process": compare(tiles=2, side=5),
    }
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()
