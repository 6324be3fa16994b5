"""Runs a network's program in PyTorch: faster than the model, with equal outputs, for inference only."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phidet.architectures.config import Activation
from phidet.architectures.graph_module import GraphModule
from phidet.architectures.layers import enlarged, pad_same, same_max_pool
from phidet.architectures.program import (
    Beside,
    Columns,
    Conv,
    Gate,
    MaxPool,
    Mean,
    Operation,
    Own,
    Predict,
    Program,
    Scale,
    Sum,
    Transposed,
    Upsample,
    inputs_of,
)

OutputsT = TypeVar("OutputsT", bound=tuple[Any, ...])


class OptimizedNetwork(nn.Module, Generic[OutputsT]):
    """A channels-last copy of a network with all constants folded; later changes of the network do not affect it.

    Inputs and outputs are those of the network, up to rounding. No gradients, no training mode.

    Args:
        program: of the network, as its architecture lowers it.
        outputs_type: the named tuple that the network returns; its fields are the program's outputs.
    """

    def __init__(self, program: Program, outputs_type: type[OutputsT]) -> None:
        super().__init__()
        self.outputs, self.outputs_type = program.outputs, outputs_type
        self.operations = program.operations
        for i, operation in enumerate(program.operations):
            if isinstance(operation, Conv | Transposed | Predict):  # as buffers they go with the module to devices
                weight = torch.as_tensor(operation.weight)
                if weight.ndim == 4:
                    weight = weight.contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"weight_{i}", weight)
                self.register_buffer(f"bias_{i}", torch.as_tensor(operation.bias))
            elif isinstance(operation, Own):
                assert isinstance(operation.module, GraphModule)
                self.add_module(f"own_{i}", copy.deepcopy(operation.module))
        # Values are freed after their last use: a program has hundreds, and keeping them all would multiply the memory.
        last_use = {x: i for i, operation in enumerate(program.operations) for x in inputs_of(operation)}
        self.dead_after = [[x for x, last in last_use.items() if last == i] for i in range(len(program.operations))]
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.buffers()).device

    @torch.inference_mode()
    def forward(self, images: Tensor) -> OutputsT:
        """Normalised images (B, 3, H, W) to raw outputs, as the network's own forward."""
        values: list[Tensor | None] = [images.contiguous(memory_format=torch.channels_last)]
        for i, operation in enumerate(self.operations):
            inputs = [values[x] for x in inputs_of(operation)]
            values.append(self._run(i, operation, [x for x in inputs if x is not None]))
            for x in self.dead_after[i]:
                values[x] = None  # frees its memory
        return self.outputs_type(**{name: values[value] for name, value in self.outputs.items()})

    def _run(self, index: int, operation: Operation, inputs: list[Tensor]) -> Tensor:  # noqa: C901, PLR0911, PLR0912
        x = inputs[0]
        if isinstance(operation, Conv):
            padding: int | tuple[int, int] = operation.padding or 0
            weight, bias = getattr(self, f"weight_{index}"), getattr(self, f"bias_{index}")
            if operation.padding is None:
                x, padding = pad_same(x, weight.shape[-1], operation.stride)
            settings = operation.stride, padding, operation.dilation, operation.groups
            return _activate(F.conv2d(x, weight, bias, *settings), operation.act)
        if isinstance(operation, Transposed):
            size_hw = inputs[1].shape[-2], inputs[1].shape[-1]
            return _activate(
                enlarged(x, getattr(self, f"weight_{index}"), getattr(self, f"bias_{index}"), size_hw), operation.act
            )
        if isinstance(operation, Beside):
            return torch.cat(inputs, 1)
        if isinstance(operation, MaxPool):
            if operation.padding is None:
                return same_max_pool(x, operation.stride)
            return F.max_pool2d(x, operation.kernel, operation.stride, operation.padding)
        if isinstance(operation, Scale):
            return x * operation.factor
        if isinstance(operation, Upsample):
            return self.upsample(x, (inputs[1].shape[-2], inputs[1].shape[-1]))
        if isinstance(operation, Columns):
            return x[..., operation.start : operation.stop]
        if isinstance(operation, Own):
            own: Tensor = getattr(self, f"own_{index}")(*inputs)
            return own
        if isinstance(operation, Mean):
            return x.mean((2, 3), keepdim=True)
        if isinstance(operation, Gate):
            return x * inputs[1].sigmoid()
        if isinstance(operation, Sum):
            return _activate(self.weighted_sum(inputs, operation.factors), operation.act)
        # What is left is Predict: all levels are rows of one product.
        flat = torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in inputs], 1)  # (B, Σ H·W, C)
        flat = F.linear(flat, getattr(self, f"weight_{index}"), getattr(self, f"bias_{index}"))
        return flat.reshape(len(flat), -1, operation.outputs)

    def upsample(self, x: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Nearest neighbour, by floor of the index."""
        return F.interpolate(x, size_hw)

    def weighted_sum(self, xs: list[Tensor], factors: tuple[float, ...]) -> Tensor:
        """The sum as a new tensor, so that an activation can be applied in place."""
        # A factor of 1 needs no copy of its own: the first sum makes the new tensor.
        if len(xs) > 1 and factors[0] == 1:
            total, done = torch.add(xs[0], xs[1], alpha=factors[1]), 2
        else:
            total, done = xs[0] * factors[0], 1
        for x, factor in zip(xs[done:], factors[done:], strict=True):
            total.add_(x, alpha=factor)
        return total


def _activate(x: Tensor, act: Activation | None) -> Tensor:
    """In place: every tensor here was made by the operation before."""
    if act == "silu":
        return F.silu(x, inplace=True)
    if act == "relu6":
        return F.relu6(x, inplace=True)
    return F.relu(x, inplace=True) if act == "relu" else x
