"""Batch norm over the batches of all processes, on any device.

PyTorch's ``SyncBatchNorm`` knows GPUs only; there it is what is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose mean and variance are those of all processes' images together, gradients included."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        # Sums over a batch overflow float16 and lose digits in bfloat16.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_tensor([x.numel() / x.shape[1]])
        # Sums and counts in one exchange; processes may have different numbers of values.
        sums = _summed(torch.cat((wide.sum((0, 2, 3)), count)))
        total, mean = sums[-1].detach(), (sums[:-1] / sums[-1].detach())[:, None, None]
        centred = wide - mean
        # Two passes: E[x²] − E[x]² cancels badly where the mean is large against the spread.
        variance = (_summed(centred.square().sum((0, 2, 3))) / total)[:, None, None]
        self._note(mean.detach().flatten(), variance.detach().flatten() * total / (total - 1))
        factor = torch.rsqrt(variance + self.eps) * self.weight[:, None, None]
        normalised: Tensor = centred * factor + self.bias[:, None, None]
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics, of the unbiased variance as in PyTorch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is summed over them as well.

    PyTorch's own, in ``torch.distributed.nn.functional``, is deprecated, and what shall follow it is private.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Sum.forward(ctx, *grads)


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


def share_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Makes the batch norms inside ``model`` normalise over all processes; names and weights stay."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # Changing the class keeps parameters, buffers, hooks and every reference to the module.
            module.__class__ = SharedBatchNorm
