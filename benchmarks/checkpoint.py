"""How long saving a full-size checkpoint blocks training, and reading it back takes.

    python -m benchmarks.checkpoint [--folder DIR] [--repeats 5]

DeepLabv2-ResNet-101, two discriminators and the state of both Adam optimizers, as train_uda.py saves them. Prints JSON.
`step_seconds_for_2_percent` is the step time above which saving every 500 steps blocks less than 2 % of a run.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.checkpoint")

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

import models
from common.arguments import positive
from common.errors import exits_cleanly
from training import checkpoint
from training.network import build_adam

EVERY = 500  # steps between checkpoints, the default of --checkpoint-every


def full_size_state() -> dict:
    """State that a checkpoint of experiment T3.2 holds after an update."""
    model = models.domain_batch_norm(models.build("deeplabv2_resnet101"))
    discriminators = models.Discriminators(model.levels)
    optimizers = []
    for module in (model, discriminators):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer = build_adam([{"params": module.parameters(), "lr": 1e-3}])
        optimizer.step()
        optimizers.append(optimizer.state_dict())
    states = {"model": model.state_dict(), "discriminators": discriminators.state_dict(), "optimizers": optimizers}
    return {"config": {}, "preparation": {}, "step": 1, "best": {}, "overflows": 0, "scaler": {}, **states}


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    parser.add_argument("--repeats", type=positive, default=5)
    options = parser.parse_args()
    state = full_size_state()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path, saving, loading = Path(name) / "last.pt", [], []
        for _ in range(options.repeats):
            began = time.perf_counter()
            checkpoint.save(path, state, path.with_name("previous.pt"))
            saving.append(time.perf_counter() - began)
            began = time.perf_counter()
            checkpoint.load(path)
            loading.append(time.perf_counter() - began)
        size = path.stat().st_size
    print(
        json.dumps(
            {
                "megabytes": round(size / 1e6, 1),
                "save_seconds": [round(value, 3) for value in saving],
                "load_seconds": [round(value, 3) for value in loading],
                "step_seconds_for_2_percent": round(statistics.fmean(saving) / EVERY / 0.02, 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
