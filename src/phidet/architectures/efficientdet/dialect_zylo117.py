"""Detectors as zylo117's port saves them (key names only are taken from it).

Its files always hold the ``pX_w1`` and ``pX_w2`` fusion weights, also for the models that add without weights; there
nothing reads them, and a file that we write has ones in their place.

Its max-pooling pads with zeros where the official one, and so ours, pads with −∞: with equal weights its own answers
are a little off near the right and lower border. With the padding put right the two agree to rounding.
"""

from __future__ import annotations

from phidet.architectures.backbones.dialects import lukemelas_backbone
from phidet.architectures.dialect import Config, Dialect, Slot, drop_wrappers, having, parse
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.mask_config import ADDED

_CONV = {"depthwise": "depthwise_conv.conv", "pointwise": "pointwise_conv.conv"}


def _node_names(config: ModelConfig) -> list[tuple[str, str]]:
    """(convolution, fusion weights) of every BiFPN node: top-down ones are "up", bottom-up ones "down"."""
    low, high = config.feature_network.min_level, config.feature_network.max_level
    top_down = [(f"conv{level}_up", f"p{level}_w1") for level in range(high - 1, low - 1, -1)]
    return top_down + [(f"conv{level}_down", f"p{level}_w2") for level in range(low + 1, high + 1)]


def _slot(name: str, config: Config) -> Slot | None:
    part, path = parse(name)
    if not isinstance(config, ModelConfig) or config.feature_network.graph != "bifpn" or part in ADDED:
        return None
    key: str | None
    if part == "backbone":
        key = lukemelas_backbone(path, config.backbone, wrapped=".conv")
        key = f"backbone_net.model.{key}" if key else None
    elif part == "feature_network":
        key = _feature_network(path, config)
    else:
        key = _head({"class_head": "classifier", "box_head": "regressor"}[part], path)
    return Slot((key,)) if key else None


def _head(net: str, path: list[str]) -> str:
    if path[0] == "predict":
        return f"{net}.header.{_CONV[path[1]]}.{path[2]}"
    if path[0] == "convs":
        return f"{net}.conv_list.{path[1]}.{_CONV[path[2]]}.{path[3]}"
    return f"{net}.bn_list.{path[2]}.{path[1]}.{path[3]}"  # level first


def _feature_network(path: list[str], config: ModelConfig) -> str | None:
    if path[0] == "coarser":
        return f"bifpn.0.p5_to_p6.{_projection(path[1:])}"
    cell, node = path[1], int(path[3])
    conv, weights = _node_names(config)[node]
    if path[4] == "weights":
        return f"bifpn.{cell}.{weights}"
    if path[4] == "projections":
        level = config.feature_network.resolved_graph.nodes[node].level
        # The finest level has one node; the others are projected once more for their output node.
        again = "_2" if conv.endswith("_down") else ""
        return f"bifpn.{cell}.p{level}_down_channel{again}.{_projection(path[6:])}"
    if path[4] == "conv":
        return f"bifpn.{cell}.{conv}.{_CONV[path[5]]}.{path[6]}"
    return f"bifpn.{cell}.{conv}.bn.{path[5]}"


def _projection(path: list[str]) -> str:
    return f"{'0.conv' if path[0] == 'conv' else '1'}.{path[1]}"


def _fillers(config: Config) -> dict[str, int]:
    if not isinstance(config, ModelConfig) or config.feature_network.fusion != "sum":
        return {}
    # The port creates weights for levels 3–7 whatever its levels are: w1 for 3–6, w2 for 4–7.
    lengths = {f"p{level}_w1": 2 for level in range(3, 7)} | {f"p{level}_w2": 3 for level in range(4, 7)} | {"p7_w2": 2}
    cells = range(config.feature_network.repeats)
    return {f"bifpn.{cell}.{key}": length for cell in cells for key, length in lengths.items()}


_OWN_KEY = having("regressor.header.pointwise_conv.conv.weight")
ZYLO117 = Dialect("zylo117", _OWN_KEY, _slot, drop_wrappers, anchors_2020=True, fillers=_fillers)
