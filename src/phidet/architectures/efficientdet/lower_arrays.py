"""A trained EfficientDet as operations for other runtimes, from arrays; see :mod:`phidet.architectures.program`."""

from __future__ import annotations

from phidet.architectures.backbones.lower import lower_backbone
from phidet.architectures.config import Activation
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.feature_networks.lower import lower_feature_network
from phidet.architectures.program import DEPTHWISE, Predict, Program, ProgramWriter
from phidet.architectures.weights import Weights, fold_arrays


def lower_detector(weights: Weights, config: ModelConfig) -> Program:
    """The program of a detector without masks."""
    w = ProgramWriter()
    _, outputs = lower_heads(w, weights, config, lower_backbone(w, weights.part("backbone"), config.backbone))
    return Program(w.operations, outputs)


def lower_heads(
    w: ProgramWriter, weights: Weights, config: ModelConfig, maps: dict[int, int]
) -> tuple[list[int], dict[str, int]]:
    """Appends what follows the backbone's maps; returns the feature network's maps, and classes and boxes by name."""
    layers, act = config.head_layers, config.activation
    levels = lower_feature_network(w, weights.part("feature_network"), config.feature_network, act, maps)
    outputs = {
        "class_logits": lower_head(w, weights.part("class_head"), levels, (layers, config.num_classes), act),
        "box_deltas": lower_head(w, weights.part("box_head"), levels, (layers, 4), act),
    }
    return levels, outputs


def lower_head(w: ProgramWriter, weights: Weights, maps: list[int], shape: tuple[int, int], act: Activation) -> int:
    """Appends the operations of a head; ``shape`` is its number of layers, and of numbers for each anchor."""
    layers, outputs = shape
    lasts: list[int] = []
    # Levels share convolutions but not norms, so that folded each level has weights of its own.
    for level, x in enumerate(maps):
        for layer in range(layers):
            x = w.separable(x, weights.part("convs", layer), weights.part("norms", layer, level), act)
        lasts.append(w.folded(x, weights.part("predict", "depthwise"), None, None, DEPTHWISE))
    # The last layer has no norm: one product serves all levels together.
    weight, bias = fold_arrays(weights.part("predict", "pointwise"), None)
    return w.add(Predict(tuple(lasts), weight[:, :, 0, 0], bias, outputs))
