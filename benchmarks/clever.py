"""Times of clever code against plain code, taken by turns in one process.

    python -m benchmarks.clever                                    # on the CPU, ResNet-101, tiles of 320 px
    python -m benchmarks.clever --tile 512 --overlap 62 --batch-size 8 --amp bf16    # on a GPU

A head (models/deeplabv2.py) against the sum of its four convolutions, in a whole adaptation step; the network that
inference uses (evaluation/inference.py) against the network as it is, on a whole micrograph. What gains less than 2 %
is not worth its lines.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.clever")

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import nn

import models
from benchmarks.driver import report, spread
from benchmarks.inference import drawn_model, micrograph, plain_heads
from common.arguments import positive
from common.errors import exits_cleanly
from evaluation.inference import for_inference, predict
from losses import GanLoss, segmentation_loss
from training.device import choose_algorithms, choose_device
from training.distributed import Processes
from training.precision import PRECISIONS, Precision


@exits_cleanly
def main() -> None:
    options = parse()
    processes = Processes(0, 1, choose_device())
    torch.set_num_threads(options.threads)
    choose_algorithms(deterministic=False, amp=options.amp)
    network = drawn_model(options.model).to(processes.device, memory_format=torch.channels_last)
    plain = plain_heads(copy.deepcopy(network))
    rows = [
        compared("heads, a step", step_of(network, options, processes), step_of(plain, options, processes), options),
        compared(
            "heads, a micrograph", *(whole(for_inference(n), options, processes) for n in (network, plain)), options
        ),
        compared(
            "for_inference, a micrograph",
            *(whole(n, options, processes) for n in (for_inference(network), network)),
            options,
        ),
    ]
    report(f"Clever code against plain, {options.model}, amp {options.amp}", rows, options.json)


def compared(name: str, clever: Callable, plain: Callable, options: argparse.Namespace) -> dict:
    """A row: seconds of both by turns, and how many times faster the clever one is."""
    seconds = {clever: [], plain: []}
    for _ in range(options.rounds + 2):
        for run in seconds:
            began = time.perf_counter()
            run()
            seconds[run].append(time.perf_counter() - began)
    pairs = list(zip(seconds[clever], seconds[plain], strict=True))[2:]
    times = spread([b / a for a, b in pairs])
    return {
        "what": name,
        "seconds": spread([a for a, _ in pairs]),
        "plain": spread([b for _, b in pairs]),
        "times": times,
    }


def step_of(network: nn.Module, options: argparse.Namespace, processes: Processes) -> Callable:
    """An adaptation step without its optimizers, on random tiles."""
    torch.manual_seed(0)
    side, precision, gan = options.tile + 2 * options.overlap, Precision(options.amp, processes.device), GanLoss()
    images, target = torch.randint(0, 256, (2, options.batch_size, 1, side, side), dtype=torch.uint8).to(
        processes.device
    )
    masks = torch.randint(0, 2, (options.batch_size, 1, options.tile, options.tile), dtype=torch.uint8).to(
        processes.device
    )
    pair, optimizer = models.SourceAndTarget(network.train()), torch.optim.SGD(network.parameters())
    discriminators = models.Discriminators(network.levels).to(processes.device, memory_format=torch.channels_last)

    def step() -> None:
        with precision.autocast():
            of_source, of_target = pair(images, target)
            (verdicts,) = discriminators({level: models.probabilities(logits) for level, logits in of_target.items()})
            loss = sum(segmentation_loss(logits, masks) for logits in of_source.values())
            loss = loss + 1e-3 * sum(gan(verdict, "source") for verdict in verdicts.values())
        precision.backward(loss, optimizer)
        if processes.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def whole(network: nn.Module, options: argparse.Namespace, processes: Processes) -> Callable:
    """Inference on a micrograph of --side px."""
    image, eager = micrograph(options.side), copy.deepcopy(network).eval()
    return lambda: predict(eager, image, options.tile, options.overlap, processes.device)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clever", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=models.MODELS, default="deeplabv2_resnet101")
    parser.add_argument("--tile", type=int, default=256, help="px")
    parser.add_argument("--overlap", type=int, default=32, help="px of context on each side")
    parser.add_argument("--batch-size", type=positive, default=1, help="tiles of each domain")
    parser.add_argument("--side", type=positive, default=512, help="px of the micrograph")
    parser.add_argument("--amp", choices=PRECISIONS, default="off")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
