"""EfficientNet as operations for other runtimes, from arrays; see :mod:`phidet.architectures.program`."""

from __future__ import annotations

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.backbones.plan import level_ends, plan_blocks
from phidet.architectures.config import Activation
from phidet.architectures.program import Gate, Kernel, Mean, ProgramWriter
from phidet.architectures.weights import Weights

_SAME = Kernel(padding=None)


def lower_efficientnet(w: ProgramWriter, weights: Weights, config: BackboneConfig) -> dict[int, int]:
    """Appends the operations of a backbone; returns the number of each level's value."""
    act: Activation = "relu6" if config.architecture == "efficientnet-lite" else "silu"
    _, blocks = plan_blocks(config)
    ends, maps = level_ends([block.stride for block in blocks]), dict[int, int]()

    def conv(x: int, part: Weights, act: Activation | None, kernel: Kernel = _SAME) -> int:
        return w.folded(x, part.part("conv"), part.part("bn"), act, kernel)

    x = conv(0, weights.part("stem"), act, Kernel(2, None))
    for i, block in enumerate(blocks):
        part = weights.part("blocks", i)
        # The first stage of EfficientNet does not expand, so it has no such convolution.
        y = x if block.expand == 1 else conv(x, part.part("expand"), act)
        y = conv(y, part.part("depthwise"), act, Kernel(block.stride, None, True))
        if act == "silu":
            # The gate sees the mean of each channel; its sigmoid is part of the operation Gate. Lite has none.
            gate = w.folded(w.add(Mean(y)), part.part("se", "reduce"), None, "silu")
            y = w.add(Gate(y, w.folded(gate, part.part("se", "expand"), None)))
        y = conv(y, part.part("project"), None)
        # Stochastic depth is gone: in inference every block counts fully.
        x = w.sum(y, x) if block.stride == 1 and block.in_channels == block.out_channels else y
        if i in ends:
            maps[ends[i]] = x
    return maps
