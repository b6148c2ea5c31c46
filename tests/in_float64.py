"""Runs train_uda.py in float64, in which no rounding grows into a difference between two runs.

python tests/in_float64.py OPTIONS
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double  # what the program asks to have in float32

import train_uda  # noqa: E402

train_uda.main()
