"""The NVIDIA GPUs that a program may use, told without torch. As a command it prints their names, one a line.

python -m common.gpus
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m common.gpus")

import os
import re
import subprocess
from itertools import pairwise, takewhile
from pathlib import Path

# Where the driver shows its GPUs: one folder, and one device file, for each.
DRIVER = Path("/proc/driver/nvidia/gpus")
FILES = Path("/dev")
_NONE = re.compile(r"|-\d+|NoDevFiles")  # what asks for no GPU; the last is SLURM's


def visible() -> list[str] | None:
    """Names in CUDA_VISIBLE_DEVICES, numbers or UUIDs: none where it is empty or -1. None where it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if value is None else [name.strip() for name in value.split(",")]
    return None if value is None else list(takewhile(lambda name: not _NONE.fullmatch(name), names))


def expected() -> str | None:
    """Sign that a GPU should be there, in words. None where there is no sign, or where no GPU is asked for."""
    names = visible()
    if names is not None:
        return f"CUDA_VISIBLE_DEVICES={','.join(names)}" if names else None
    shown = [*sorted(DRIVER.glob("*")), *sorted(FILES.glob("nvidia[0-9]*"))]
    if shown:
        return f"{shown[0]} is there"
    granted = os.environ.get("SLURM_GPUS_ON_NODE", "").strip()
    return f"SLURM_GPUS_ON_NODE={granted}" if granted not in ("", "0") else None


def names() -> list[str]:
    """Names of the GPUs for CUDA_VISIBLE_DEVICES: those already in it, else those that nvidia-smi or the driver shows.

    A GPU that is cut into MIG instances is named by these: CUDA shows a process one of them.
    """
    given = visible()
    if given is not None:
        return given
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        listed = ""
    found = re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", listed)
    whole = [one for one, after in pairwise([*found, ""]) if one.startswith("MIG-") or not after.startswith("MIG-")]
    return whole or [str(number) for number in range(len([*FILES.glob("nvidia[0-9]*")]))]


if __name__ == "__main__":
    print("\n".join(names()))
