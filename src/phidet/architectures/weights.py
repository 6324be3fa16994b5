"""A network's weights by our names, wherever they come from: what a program is built from, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating]
BN_EPSILON = 1e-3


class Weights:
    """Arrays by name, seen from one part of the network.

    >>> stem = Weights(arrays).part("backbone", "stem")
    >>> stem["conv.weight"]

    Args:
        arrays: by our names; may make an array when it is asked for.
        prefix: of the part, with a dot at its end.
    """

    def __init__(self, arrays: Mapping[str, Array], prefix: str = "") -> None:
        self._arrays, self._prefix = arrays, prefix

    def part(self, *names: str | int) -> Weights:
        """What the part of that name holds; several names lead from part to part."""
        return Weights(self._arrays, self._prefix + "".join(f"{name}." for name in names))

    def __getitem__(self, name: str) -> Array:
        return self._arrays[self._prefix + name]

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._arrays


def fold_arrays(
    conv: Weights, norm: Weights | None, factor: float = 1.0, with_bias: bool = True, epsilon: float = BN_EPSILON
) -> tuple[Array, Array]:
    """Weight and bias, float32, of ``factor · norm(conv(x))`` as one convolution, folded in fp64.

    ``with_bias`` is whether the convolution has a bias of its own.
    """
    # In fp64, as the error of folding would otherwise add to that of every layer behind.
    weight = conv["weight"].astype(np.float64)
    bias = np.zeros(len(weight))
    if with_bias:
        bias += conv["bias"]
    if norm is not None:
        gain = norm["weight"].astype(np.float64) / np.sqrt(norm["running_var"].astype(np.float64) + epsilon)
        weight = weight * gain[:, None, None, None]
        bias = (bias - norm["running_mean"].astype(np.float64)) * gain + norm["bias"].astype(np.float64)
    return (weight * factor).astype(np.float32), (bias * factor).astype(np.float32)
