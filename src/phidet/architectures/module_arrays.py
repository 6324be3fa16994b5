"""The weights of a PyTorch module as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from phidet.architectures.weights import Array, Weights, fold_arrays


class ModuleArrays(Mapping[str, Array]):
    """The tensors of ``module`` by name, each made an array, in fp64, when it is asked for."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = module.state_dict()

    def __getitem__(self, name: str) -> Array:
        array: Array = self._tensors[name].detach().cpu().double().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:  # the mixin's would convert the tensor
        return name in self._tensors


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Array, Array]:
    """:func:`phidet.architectures.weights.fold_arrays` of two modules."""
    weights, with_bias = Weights(ModuleArrays(conv)), conv.bias is not None
    if norm is None:
        return fold_arrays(weights, None, with_bias=with_bias)
    return fold_arrays(weights, Weights(ModuleArrays(norm)), with_bias=with_bias, epsilon=norm.eps)
