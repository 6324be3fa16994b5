"""Detectors as ``effdet`` 0.4 saves them: timm's backbone, its own feature network and heads.

Files come bare or wrapped by its benches (``model.`` in front, ``anchors.boxes`` beside). Models built with
``redundant_bias=False`` have no bias before a batch norm: it is taken as zero. Models prepared for
TorchScript (``toggle_head_bn_level_first``) have the level first in the heads' batch norms, and no ``bn`` at the end.
"""

from __future__ import annotations

import re

from phidet.architectures.backbones.dialects import timm_backbone
from phidet.architectures.dialect import Config, Dialect, Slot, drop_wrappers, having, parse
from phidet.architectures.efficientdet.config import ModelConfig
from phidet.architectures.efficientdet.mask_config import ADDED

_CONV = {"depthwise": "conv_dw", "pointwise": "conv_pw"}
_LEVEL_FIRST = re.compile(r"((?:class|box)_net\.bn_rep)\.(\d+)\.(\d+)\.(\w+)")


def _slot(name: str, config: Config) -> Slot | None:
    part, path = parse(name)
    if not isinstance(config, ModelConfig) or part in ADDED:
        return None
    if part == "backbone":
        key = timm_backbone(path, config.backbone)
        return Slot((f"backbone.{key}",)) if key else None
    if part == "feature_network":
        return _feature_network(path, config)
    net = {"class_head": "class_net", "box_head": "box_net"}[part]
    if path[0] == "predict":
        return Slot((f"{net}.predict.{_CONV[path[1]]}.{path[2]}",))
    if path[0] == "convs":
        return _optional_bias(f"{net}.conv_rep.{path[1]}.{_CONV[path[2]]}.{path[3]}")
    return Slot((f"{net}.bn_rep.{path[1]}.{path[2]}.bn.{path[3]}",))


def _feature_network(path: list[str], config: ModelConfig) -> Slot:
    graph = config.feature_network.resolved_graph
    if path[0] == "coarser":
        # effdet counts maps from the finest level of the feature network; level 6 is the first that no backbone gives.
        first_coarser = 6 - config.feature_network.min_level
        return _optional_bias(".".join(["fpn.resample", str(first_coarser), "conv", *path[1:]]))
    node = int(path[3])
    prefix = f"fpn.cell.{path[1]}.fnode.{node}"
    if path[4] == "weights":
        return Slot((f"{prefix}.combine.edge_weights",))
    if path[4] == "projections":
        # Its projections are named by the map that they read, ours by the position among the inputs.
        source = graph.nodes[node].inputs[int(path[5])]
        return _optional_bias(".".join([f"{prefix}.combine.resample.{source}.conv", *path[6:]]))
    if path[4] == "conv":
        return _optional_bias(f"{prefix}.after_combine.conv.{_CONV[path[5]]}.{path[6]}")
    return Slot((f"{prefix}.after_combine.conv.bn.{path[5]}",))


def _optional_bias(key: str) -> Slot:
    # Files written with redundant_bias=False have no bias where a batch norm follows; zero is the same.
    convolution_bias = key.endswith(".bias") and ".bn." not in key
    return Slot((key,), default=0.0 if convolution_bias else None)


def _canonical(key: str) -> str | None:
    bare = drop_wrappers(key)
    # Files prepared for TorchScript have level and repeat swapped, and no "bn" at the end.
    level_first = _LEVEL_FIRST.fullmatch(bare) if bare else None
    return "{0}.{2}.{1}.bn.{3}".format(*level_first.groups()) if level_first else bare


EFFDET = Dialect("effdet", having("class_net.predict.conv_pw.weight"), _slot, _canonical, anchors_2020=True)
