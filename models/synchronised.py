"""Batch norm over the batches of all processes."""

from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d whose training statistics are those of the batches of all processes, equally large, together.

    It computes what a BatchNorm2d computes of the whole batch in one process. torch's nn.SyncBatchNorm does too; it
    also serves processes with unequal or empty batches, for which the host waits for the GPU at every layer, needs a
    GPU, and cannot be compiled.
    """

    # All processes of the run. Of the class, so that a model can be copied.
    group: ClassVar[dist.ProcessGroup | None] = None

    def forward(self, features: Tensor) -> Tensor:
        """Normalise float features (N, C, H, W), in training with one exchange of 2 C numbers forward and backward."""
        if not self.training:
            return super().forward(features)
        normalised, mean, variance = _Normalise.apply(features, self.weight, self.bias, self.eps, self.group)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            # Without a momentum the average of all batches so far, as in BatchNorm2d.
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            values = features.numel() // len(mean) * self.group.size()
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (values / (values - 1)), share)
        return normalised


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of all processes; they are outputs too, and take no gradient.

    Both directions use batch norm's own kernels: in mixed precision they sum in float32 and store in low precision
    what the layers around do.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: dist.ProcessGroup
    ) -> tuple:
        _, mean, invstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        own = torch.stack([mean, invstd.pow(-2) - eps])
        means, variances = _of_all(own, group).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.group = eps, group
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: FunctionCtx, dy: Tensor, *_: None) -> tuple:
        """Let dx be the gradient as if the batch were this process's, and correct it by what the others' parts change.

        dx = weight / std * (dy - mean(dy) - x_hat * mean(dy * x_hat)), with means over all processes. Those over this
        process alone are subtracted inside the kernel, in float32; only the rest, their difference, is added here.
        """
        x, weight, mean, variance = ctx.saved_tensors
        invstd = (variance + ctx.eps).rsqrt()
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, invstd, True, ctx.eps, [True, True, True]
        )
        own = torch.stack([dweight, dbias])  # sums of dy * x_hat and of dy
        mean_of_all = _of_all(own, ctx.group).mean(0)
        slope, shift = (own - mean_of_all) * (weight * invstd * (len(mean) / x.numel()))
        dx += F.batch_norm(x, mean, variance, slope, shift, False, 0.0, ctx.eps)
        return dx, dweight, dbias, None, None


def _of_all(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """A small tensor of every process, stacked; on the CPU that takes half the time of a sum over processes."""
    of_all = own.repeat(group.size(), 1)
    dist.all_gather_into_tensor(of_all, own, group)
    return of_all.view(-1, *own.shape)
