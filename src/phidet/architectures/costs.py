"""Counts parameters and multiply-adds of a real network, part by part, without computing or allocating anything.

The network is built and run on PyTorch's ``meta`` device, so the count follows the code and cannot drift from it.
Counted are convolutions, linear layers and the products of attention, as in the papers; fusion, pooling, resampling,
batch norm and activations are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import msgspec
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from phidet.architectures.base import NetworkConfig
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Trainable parameters and multiply-adds for one image."""

    parameters: int
    multiply_adds: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            parameters=self.parameters + other.parameters, multiply_adds=self.multiply_adds + other.multiply_adds
        )


@runtime_checkable
class CountsMultiplyAdds(Protocol):
    """A module that multiplies by itself, not through the layers in it."""

    def multiply_adds(self, inputs: tuple[Tensor, ...]) -> int:
        """Multiply-adds of a forward with these inputs, of one image, without those of the layers in it."""


@contextmanager
def _counting(network: nn.Module, counts: dict[str, int]) -> Iterator[None]:
    """Adds the multiply-adds of every convolution, linear layer and attention to the count of its part."""

    def hook(part: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, CountsMultiplyAdds):
            counts[part] += module.multiply_adds(inputs)
        elif isinstance(module, nn.Conv2d):
            # weight[0] is the kernel of one output channel, over the input channels of its group.
            each = module.weight[0].numel()  # per output value
            counts[part] += output[0].numel() * each
        elif isinstance(module, nn.Linear):
            counts[part] += output[0].numel() * module.in_features

    # One hook for each layer, which knows the part of the network that it is in.
    handles = [
        module.register_forward_hook(lambda m, inputs, out, part=part: hook(part, m, inputs, out))
        for part, child in network.named_children()
        for module in child.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | CountsMultiplyAdds)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _LeavingShapes(TorchFunctionMode):
    """Skips what leaves its tensor's shape as it is: the meta device draws and normalises nothing, but in Python, which
    takes most of the time of a count.
    """

    SKIPPED = frozenset({"batch_norm", "kaiming_uniform_", "normal_", "relu6", "silu", "uniform_"})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]  # as PyTorch's initialisers name it
        return func(*args, **kwargs)


def build_on_meta(config: NetworkConfig) -> Model:
    """The network on the meta device, without memory for its weights."""
    with torch.device("meta"), _LeavingShapes():
        return architecture_of(config).build(config)


def count_costs(config: NetworkConfig, image_size_hw: tuple[int, int] | None = None) -> dict[str, Cost]:
    """Cost of each part by name: backbone, feature_network, class_head, box_head (or backbone, head, linear).

    Args:
        config: the model.
        image_size_hw: input size in pixels, the config's own by default.

    Raises:
        InputError: a size that the network does not support.
    """
    network = build_on_meta(config).eval()
    counts = {part: 0 for part, _ in network.named_children()}
    height, width = image_size_hw or config.image_size_hw
    with _counting(network, counts), torch.no_grad(), _LeavingShapes():
        # The pass only computes shapes, from which the hooks count.
        network(torch.empty(1, 3, height, width, device="meta"))
    return {
        part: Cost(parameters=sum(p.numel() for p in child.parameters() if p.requires_grad), multiply_adds=counts[part])
        for part, child in network.named_children()
        # Parts without weights and multiply-adds are no rows of the table.
        if counts[part] or any(True for _ in child.parameters())
    }


def total(costs: dict[str, Cost]) -> Cost:
    """The sum over all parts."""
    return sum(costs.values(), Cost(parameters=0, multiply_adds=0))
