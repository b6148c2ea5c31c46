"""Automatic mixed precision as one object, so that the loop reads the same for bf16, fp16 and fp32."""

import torch

from common.errors import InputError
from training.device import name_of

PRECISIONS = ("bf16", "fp16", "off")


class Precision:
    """Autocast, and gradient scaling where fp16 needs it."""

    def __init__(self, amp: str, device: torch.device):
        """`amp`: one of PRECISIONS; fp16 is scaled, bf16 has the range of fp32 and is not.

        InputError for bf16 on a GPU that would only imitate it: those before compute capability 8.0.
        """
        if amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError(f"--amp bf16: {name_of(device)} has no bf16, torch imitates it slowly. Give --amp fp16.")
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[amp]
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> torch.autocast:
        """Context in which losses are computed.

        No cast of a weight is kept for the next pass. A kept one would collect the gradients of both domains in low
        precision, where the adversary's, a thousandth of the supervised loss's, is rounded away.
        """
        enabled = self.dtype is not None
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled, cache_enabled=False)

    def backward(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer, again: bool = False) -> None:
        """Add the gradients of a loss to those of the parameters that an optimizer updates, and of no others.

        They are scaled in fp16 until `gradient_norm` has looked at them. again: part of the graph is used once more.
        """
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler.scale(loss).backward(inputs=learning, retain_graph=again)

    def gradient_norm(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """2-norm of all gradients of an optimizer before its step; not finite where one is not.

        Such gradients will not be used: the optimizer's next step does nothing. That is decided on the device, so that
        nothing waits for it; fp16's scaler decides it in the same way.
        """
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.found_inf = (~norm.isfinite()).to(torch.float32)
        return norm

    def step(self, *optimizers: torch.optim.Optimizer) -> None:
        """Update with every optimizer whose gradients are finite (`gradient_norm` has looked), then clear them all."""
        for optimizer in optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
