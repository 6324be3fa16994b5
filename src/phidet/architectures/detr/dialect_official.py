"""Detectors as facebookresearch/detr saves them, and its demo of 50 lines.

The released files are ``{"model": state dict, …}``. The backbone is the first part of a pair, whose second one makes
positions and has weights only where they are learned.
"""

from __future__ import annotations

from functools import partial

from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.dialect import Config, Dialect, Slot, drop_wrappers, having, parse

_PARTS = {
    "projection": "input_proj",
    "queries": "query_embed",
    "class_head": "class_embed",
    "box_head": "bbox_embed",
}
_DEMO_PARTS = {"projection": "conv", "class_head": "linear_class", "box_head": "linear_bbox"}
_DEMO_TABLES = {
    "queries.weight": "query_pos",
    "positions.rows": "row_embed",
    "positions.columns": "col_embed",
}
_LISTED_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
"""Our modules of a ResNet as positions in the list of its children, as the paper's listing keeps them."""


def transformer_key(name: str) -> str | None:
    """The official name of a tensor of encoder or decoder, ``None`` for another."""
    part, path = parse(name)
    if part not in ("encoder", "decoder"):
        return None
    # Tensors of encoder and decoder have the official names but for the attentions and the wrapper of the two linear
    # layers.
    renamed = {"self_attention": "self_attn", "cross_attention": "multihead_attn"}
    return ".".join(["transformer", part, *(renamed.get(p, p) for p in path if p != "feed_forward")])


def _slot(name: str, config: Config) -> Slot | None:
    if not isinstance(config, DetrConfig) or config.form != "detr":
        return None
    part, path = parse(name)
    key = transformer_key(name)
    if part == "backbone":
        key = ".".join(["backbone.0.body", *path])
    elif part == "positions":
        key = {"rows": "backbone.1.row_embed.weight", "columns": "backbone.1.col_embed.weight"}[path[0]]
    elif part in _PARTS:
        key = ".".join([_PARTS[part], *path])
    return Slot((key,)) if key else None


def _panoptic_slot(name: str, config: Config) -> Slot | None:
    """The detector behind "detr.", and the parts for masks beside it."""
    part, path = parse(name)
    if isinstance(config, DetrConfig) and config.masks is None:
        return None
    if part == "mask_attention":
        # Its layers are called by the first letters of ours: query and key.
        return Slot((f"bbox_attention.{path[0][0]}_linear.{path[1]}",))
    if part == "mask_head":
        return Slot((f"mask_head.{mask_head_key(path)}",))
    slot = _slot(name, config)
    return slot and Slot((f"detr.{slot.keys[0]}",))


def mask_head_key(path: list[str]) -> str:
    """The official name of a tensor of the mask head, without the prefix."""
    if path[0] == "predict":
        return f"out_lay.{path[1]}"
    # Layers are counted from 1 there.
    kinds = {"layers": "lay", "norms": "gn", "lateral": "adapter"}
    return f"{kinds[path[0]]}{int(path[1]) + 1}.{path[2]}"


def _demo_slot(name: str, config: Config, listed: bool) -> Slot | None:
    if not isinstance(config, DetrConfig) or config.form != "demo":
        return None
    part, path = parse(name)
    key = _DEMO_TABLES.get(name) or transformer_key(name)
    if part == "backbone":
        first = _LISTED_CHILDREN.get(path[0], path[0]) if listed else path[0]
        key = ".".join(["backbone", first, *path[1:]])
    elif part in _DEMO_PARTS:
        key = ".".join([_DEMO_PARTS[part], *path])
    return Slot((key,)) if key else None


_OFFICIAL = having("class_embed.weight", "query_embed.weight", "transformer.decoder.norm.weight")
_MASKED = having("detr.class_embed.weight", "mask_head.lay1.weight")
# The demo as a module, and as the paper's listing builds it, whose backbone is a list of layers.
_NAMED, _LISTED = (having("linear_class.weight", "query_pos", f"backbone.{first}.weight") for first in ("conv1", "0"))
DETR = Dialect("detr", _OFFICIAL, _slot, drop_wrappers)
PANOPTIC = Dialect("detr-panoptic", _MASKED, _panoptic_slot, drop_wrappers)
DEMO = Dialect("detr-demo", _NAMED, partial(_demo_slot, listed=False), drop_wrappers)
LISTING = Dialect("detr-listing", _LISTED, partial(_demo_slot, listed=True), drop_wrappers)
