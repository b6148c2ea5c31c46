"""Stores of small micrographs that went the same road as a user's: image files, domains.toml, data.prepare."""

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import warm

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Newer processors have float16 instructions, with which oneDNN takes seconds for the gradient of one convolution.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared, and two processes share a machine: on the CPU
os.environ["WANDB_MODE"] = "disabled"  # tests that read its files ask for them
ROOT = Path(__file__).parent.parent

# The files that take minutes, the longest first: begun last, one of them would run alone.
LONG = (
    "test_judge", "test_reliability", "test_adapt", "test_training", "test_speed", "test_many_phases", "test_hangs",
    "test_full_size", "test_evaluate", "test_old_runs", "test_surroundings", "test_precision",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    place = {name: position for position, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


SMALL = {"reference": "source", "scale": 1.0, "tile": 48, "overlap": 8}


def annotated(folder: str, **more: object) -> dict:
    """Return the entry of a domain whose micrographs and masks `draw` has drawn in a folder."""
    return {"images": f"{folder}/images", "masks": f"{folder}/masks", "foreground": [255], "pixel_size_nm": 50} | more


def unannotated(folder: str, **more: object) -> dict:
    """Return the entry of a domain of the same micrographs without the masks."""
    return {"images": f"{folder}/images", "pixel_size_nm": 50} | more


def domains_toml(options: dict = SMALL, **domains: dict) -> str:
    """Render a domains.toml: its options, and an entry for each domain. The values are those of JSON."""
    tables = {"options": options} | {f"domains.{name}": entry for name, entry in domains.items()}
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""])
        for name, table in tables.items()
    )


def draw(folder: Path, count: int, seed: int, contrast: float, size: tuple[int, int] = (100, 90)) -> None:
    """Draw micrographs, blobs of streaks on smooth ground, with masks."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for k in range(count):
        mask = cv2.GaussianBlur(rng.normal(size=size), (0, 0), 9) > 0
        streaks = cv2.GaussianBlur(rng.normal(size=size), (0, 0), sigmaX=4, sigmaY=0.7)
        image = 120 + contrast * (400 * streaks * mask + 10 * rng.normal(size=size))
        cv2.imwrite(str(folder / "images" / f"m{k}.png"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"m{k}.png"), (255 * mask).astype(np.uint8))


def draw_domains(folder: Path) -> Path:
    """Draw and prepare `source`, `labelled` and `unlabelled`, the last two of the same images.

    Returns the folder of the stores.
    """
    draw(folder / "source", 6, seed=1, contrast=1.0)
    draw(folder / "target", 6, seed=2, contrast=0.5)
    text = domains_toml(
        source=annotated("source", folds=3),
        labelled=annotated("target", test=["m4", "m5"]),
        unlabelled=unannotated("target"),
    )
    (folder / "domains.toml").write_text(text)
    run("-m", "data.prepare", folder / "domains.toml", "--out", folder / "stores")
    return folder / "stores"


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    """The folder of tile stores that draw_domains makes."""
    return draw_domains(tmp_path_factory.mktemp("domains"))


def command(*arguments: object, processes: int = 0) -> list[str]:
    """Return the command line of a script of the project, under torchrun when `processes` is given."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    return [sys.executable, *launcher, *map(str, arguments)]


def run(
    *arguments: object, processes: int = 0, ok: bool = True, timeout: int = 300, code: Path = ROOT, child: bool = False
) -> subprocess.CompletedProcess:
    """Run a script of the project, under torchrun when `processes` is given; its output is captured.

    code: the folder of the script, where it is not this project's. child: start it as a child of this process, which
    costs the seconds of its imports.
    """
    line = command(*arguments, processes=processes)
    if processes or child or arguments[0] == "-c" or not _server().takes():
        result = subprocess.run(line, cwd=code, capture_output=True, text=True, timeout=timeout, check=False)
    else:
        result = _server().run(line[1:], code, timeout)
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    return result


@functools.cache
def _server() -> warm.Server:
    server = warm.Server()
    atexit.register(server.end)
    return server


@pytest.fixture(scope="session")
def supervised(stores, tmp_path_factory) -> Path:
    """A run that has learnt the source a little, in 40 steps."""
    from short_runs import supervised_arguments  # which imports from here

    folder = tmp_path_factory.mktemp("runs") / "supervised"
    run("train_supervised.py", *supervised_arguments(stores, folder, "--steps", 40, "--validate-every", 500))
    return folder


@pytest.fixture(scope="session")
def adapted(stores, supervised, tmp_path_factory) -> Path:
    """The short adaptation of `supervised` with no other option."""
    from short_runs import adapt

    folder = tmp_path_factory.mktemp("runs") / "adapted"
    adapt(stores, supervised, folder)
    return folder
