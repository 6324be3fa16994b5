"""A trained network as a flat list of operations with constant weights.

Batch norms are folded into the convolutions before them (those of the heads give each level weights of its own), fusion
factors are numbers, and stochastic depth is gone. :mod:`phidet.architectures.optimized` runs the list in PyTorch,
``phidet.export`` writes it for other runtimes.

A value is identified by its number: 0 is the images, and the operation at index i of the list gives value i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from phidet.architectures.config import Activation
from phidet.architectures.weights import BN_EPSILON, Array, Weights, fold_arrays

if TYPE_CHECKING:  # a program can be made without PyTorch, from arrays
    from torch import Tensor, nn

    Fold: TypeAlias = nn.BatchNorm2d | None
    Constant: TypeAlias = Tensor | Array


class Conv(NamedTuple):
    """Convolution, bias, activation. ``padding`` is a number for every side, or ``None`` for TensorFlow's "SAME".

    ``dilation`` is the distance in the map of what neighbours in the kernel read.
    """

    x: int
    weight: Array
    bias: Array
    stride: int
    padding: int | None
    groups: int
    act: Activation | None
    dilation: int = 1


class Transposed(NamedTuple):
    """Transposed convolution of 3×3 and stride 2, cut to height and width of the value ``like``; bias, activation.

    ``weight`` is (out, in, 3, 3); see :class:`phidet.architectures.layers.TransposedConv`.
    """

    x: int
    like: int
    weight: Array
    bias: Array
    act: Activation | None


class Beside(NamedTuple):
    """Maps of one size side by side: their channels one after the other."""

    xs: tuple[int, ...]


class MaxPool(NamedTuple):
    """Max-pooling over −∞; ``padding`` as in :class:`Conv`."""

    x: int
    kernel: int
    stride: int
    padding: int | None


class Scale(NamedTuple):
    """``x`` times a number."""

    x: int
    factor: float


class Upsample(NamedTuple):
    """Nearest neighbour, by floor of the index, to height and width of the value ``like``."""

    x: int
    like: int


class Sum(NamedTuple):
    """Activation of ``Σ factors[i] · xs[i]``."""

    xs: tuple[int, ...]
    factors: tuple[float, ...]
    act: Activation | None


class Mean(NamedTuple):
    """(B, C, H, W) → (B, C, 1, 1)."""

    x: int


class Gate(NamedTuple):
    """``x · sigmoid(gate)``, the gate (B, C, 1, 1)."""

    x: int
    gate: int


class Predict(NamedTuple):
    """Maps (B, C, H_l, W_l) → (B, Σ H_l·W_l·anchors, outputs) by one product; ``weight`` is (anchors·outputs, C)."""

    xs: tuple[int, ...]
    weight: Array
    bias: Array
    outputs: int


class Columns(NamedTuple):
    """``x[…, start:stop]``."""

    x: int
    start: int
    stop: int


class GraphPart(Protocol):
    """A computation that writes itself into a graph."""

    def write(self, graph: GraphWriter, inputs: Sequence[Value]) -> Value:
        """Adds nodes that compute its result of these values."""


class Own(NamedTuple):
    """Any other computation, of an architecture's own.

    Where the program also runs in PyTorch, ``module`` is a :class:`phidet.architectures.graph_module.GraphModule`.
    """

    xs: tuple[int, ...]
    module: GraphPart


Operation = Conv | Transposed | Beside | MaxPool | Scale | Upsample | Sum | Mean | Gate | Predict | Columns | Own


class Program(NamedTuple):
    """Operations in order, and the number of each output's value by name."""

    operations: list[Operation]
    outputs: dict[str, int]


class Value(NamedTuple):
    """A map (B, channels, *size_hw) in a graph, by its name."""

    name: str
    channels: int
    size_hw: tuple[int, int]


class GraphWriter(Protocol):
    """What an architecture may use to write into an exported graph; see :class:`phidet.export.onnx_graph.Graph`."""

    def add(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds an ONNX node with one output and returns the output's name."""

    def add_many(self, kind: str, inputs: Sequence[str], count: int, name: str = "", **attributes: Any) -> list[str]:
        """Adds a node with ``count`` outputs and returns their names, of which the first may be chosen."""

    def constant(self, values: Any, dtype: Any = ...) -> str:
        """Adds a constant and returns its name."""

    def weight(self, tensor: Constant) -> str:
        """Adds a weight, which half precision keeps in 16 bits, and returns its name."""


def inputs_of(operation: Operation) -> tuple[int, ...]:
    """The values that ``operation`` reads."""
    if isinstance(operation, Sum | Predict | Own | Beside):
        return operation.xs
    if isinstance(operation, Upsample | Transposed):
        return operation.x, operation.like
    if isinstance(operation, Gate):
        return operation.x, operation.gate
    return (operation.x,)


class Kernel(NamedTuple):
    """How a convolution moves over a map, whether it has a bias, and the epsilon of its norm; see :class:`Conv`."""

    stride: int = 1
    padding: int | None = 0
    depthwise: bool = False
    bias: bool = False
    dilation: int = 1
    epsilon: float = BN_EPSILON


POINTWISE = Kernel(bias=True)
DEPTHWISE = Kernel(padding=1, depthwise=True)
"""Those of a separable convolution of 3×3."""


class ProgramWriter:
    """Collects operations; each method returns the number of its result."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def add(self, operation: Operation) -> int:
        self.operations.append(operation)
        return len(self.operations)

    def folded(
        self, x: int, conv: Weights, norm: Weights | None, act: Activation | None = None, kernel: Kernel = POINTWISE
    ) -> int:
        """A convolution from arrays."""
        return self.scaled(x, conv, norm, 1.0, act, kernel)

    def scaled(
        self,
        x: int,
        conv: Weights,
        norm: Weights | None,
        factor: float,
        act: Activation | None = None,
        kernel: Kernel = POINTWISE,
    ) -> int:
        """:meth:`folded`, times a number."""
        weight, bias = fold_arrays(conv, norm, factor, kernel.bias, kernel.epsilon)
        groups = len(weight) if kernel.depthwise else 1
        return self.add(Conv(x, weight, bias, kernel.stride, kernel.padding, groups, act, kernel.dilation))

    def separable(self, x: int, conv: Weights, norm: Weights | None, act: Activation | None = None) -> int:
        """Depthwise 3×3, then pointwise, from arrays."""
        return self.folded(
            self.folded(x, conv.part("depthwise"), None, None, DEPTHWISE), conv.part("pointwise"), norm, act
        )

    def conv(self, x: int, conv: nn.Module, norm: Fold, act: Activation | None = None) -> int:
        from torch import nn  # noqa: PLC0415 - a module was given, so PyTorch is here

        from phidet.architectures.layers import SameConv2d  # noqa: PLC0415
        from phidet.architectures.module_arrays import fold  # noqa: PLC0415

        assert isinstance(conv, nn.Conv2d)
        padding = None if isinstance(conv, SameConv2d) else int(conv.padding[0])
        return self.add(Conv(x, *fold(conv, norm), conv.stride[0], padding, conv.groups, act))

    def transposed(self, x: int, like: int, conv: nn.Module, norm: Fold, act: Activation | None = None) -> int:
        from phidet.architectures.layers import TransposedConv  # noqa: PLC0415 - a module was given, so PyTorch is here
        from phidet.architectures.module_arrays import fold  # noqa: PLC0415

        assert isinstance(conv, TransposedConv)
        return self.add(Transposed(x, like, *fold(conv, norm), act))

    def sum(self, *xs: int, act: Activation | None = None) -> int:
        return self.add(Sum(xs, (1.0,) * len(xs), act))
