"""Detectors as Hugging Face's transformers names them: its files (names of 4.x), and 5.x in memory.

The backbone is timm's, whose names are torchvision's, or transformers' own ResNet. The three first projections of an
attention, which are one matrix here, are apart there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.detr.dialect_official import mask_head_key, transformer_key
from phidet.architectures.dialect import Config, Dialect, Slot, parse

_HEADS = {"class_head": "class_labels_classifier", "box_head": "bbox_predictor"}
_BESIDE = {"projection": "model.input_projection", "queries": "model.query_position_embeddings"}
_LAYER_NORMS = {
    "encoder": {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"},
    "decoder": {"norm1": "self_attn_layer_norm", "norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"},
}


def _transformer_keys(name: str, five: bool) -> tuple[str, ...]:
    """The keys of a tensor of encoder or decoder: three for a first projection, else one."""
    # By way of the official name, which has the same parts in the same order.
    official = transformer_key(name)
    assert official is not None
    _, part, *path = official.split(".")
    if path[0] == "norm":
        return (f"model.{part}.layernorm.{path[1]}",)
    module, leaf = path[2], path[3]
    prefix = f"model.{part}.layers.{path[1]}."
    if module in _LAYER_NORMS[part]:
        return (f"{prefix}{_LAYER_NORMS[part][module]}.{leaf}",)
    if module in ("linear1", "linear2"):
        return (f"{prefix}{'mlp.' if five else ''}fc{module[-1]}.{leaf}",)
    attention = prefix + {"self_attn": "self_attn", "multihead_attn": "encoder_attn"}[module]
    if leaf == "out_proj":
        return (f"{attention}.{'o_proj' if five else 'out_proj'}.{path[4]}",)
    # Query, key and value, the thirds of our one matrix.
    return tuple(f"{attention}.{which}_proj.{leaf.removeprefix('in_proj_')}" for which in "qkv")


def _own_resnet(path: list[str]) -> str:
    """A tensor of a ResNet under the names of transformers' own."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    if path[0] in ("conv1", "bn1"):
        return f"embedder.embedder.{kinds[path[0][:-1]]}.{path[1]}"
    stage, block, module, *rest = path
    prefix = f"encoder.stages.{int(stage.removeprefix('layer')) - 1}.layers.{block}"
    if module == "downsample":
        return f"{prefix}.shortcut.{'convolution' if rest[0] == '0' else 'normalization'}.{rest[1]}"
    return f"{prefix}.layer.{int(module[-1]) - 1}.{kinds[module[:-1]]}.{rest[0]}"


def _slots(five: bool, own_resnet: bool) -> Callable[[str, Config], Slot | None]:
    def slot(name: str, config: Config) -> Slot | None:
        if not isinstance(config, DetrConfig) or config.form != "detr" or config.transformer.pre_norm:
            return None
        part, path = parse(name)
        # A network with masks holds the detector as "detr", and what masks need beside it.
        inside = "" if config.masks is None else "detr."
        if part in ("mask_attention", "mask_head"):
            return Slot((_mask_key(part, path, five),))
        slot = detector_slot(part, path, name, config)
        return slot and slot._replace(keys=tuple(f"{inside}{key}" for key in slot.keys))

    def detector_slot(part: str, path: list[str], name: str, config: DetrConfig) -> Slot | None:
        if part == "backbone":
            if own_resnet and not config.backbone.architecture.startswith("resnet"):
                return None
            inner = _own_resnet(path) if own_resnet else ".".join(path)
            return Slot((f"{_backbone_prefix(five)}{inner}",))
        if part in ("encoder", "decoder"):
            keys = _transformer_keys(name, five)
            return Slot(keys, "parts" if len(keys) > 1 else "same")
        if part == "positions":
            leaf = {"rows": "row_embeddings", "columns": "column_embeddings"}[path[0]]
            return Slot((f"model.{'position_embedding' if five else 'backbone.position_embedding'}.{leaf}.weight",))
        return Slot((".".join([{**_HEADS, **_BESIDE}[part], *path]),))

    return slot


def _mask_key(part: str, path: list[str], five: bool) -> str:
    """A tensor that masks need; 4.x keeps the official names."""
    if part == "mask_attention":
        return f"bbox_attention.{path[0][0]}_{'proj' if five else 'linear'}.{path[1]}"
    if not five:
        return f"mask_head.{mask_head_key(path)}"
    if path[0] == "predict":
        return f"mask_head.output_conv.{path[1]}"
    if path[0] == "lateral":
        return f"mask_head.fpn_stages.{path[1]}.fpn_adapter.{path[2]}"
    # Two convolutions, then three refinements, each after one of the backbone's maps was added.
    index, kind = int(path[1]), {"layers": "conv", "norms": "norm"}[path[0]]
    block = f"conv{index + 1}" if index < 2 else f"fpn_stages.{index - 2}.refine"
    return f"mask_head.{block}.{kind}.{path[2]}"


def _backbone_prefix(five: bool) -> str:
    return "model.backbone.model." if five else "model.backbone.conv_encoder.model."


def _recogniser(five: bool, own_resnet: bool) -> Callable[[Iterable[str]], bool]:
    stem = "embedder.embedder.convolution.weight" if own_resnet else "conv1.weight"
    needed = {"class_labels_classifier.weight", f"{_backbone_prefix(five)}{stem}"}
    inside = {f"detr.{key}" for key in needed}
    return lambda keys: needed <= (found := set(keys)) or inside <= found


def _canonical(key: str) -> str | None:
    """The key itself: here "model" is a part of the network, not a wrapper."""
    bare = key.removeprefix("module.")
    return None if bare.endswith("num_batches_tracked") else bare


def _canonical_four(key: str) -> str | None:
    """5.x saves everything under the names of 4.x but learned positions."""
    bare = _canonical(key)
    return bare and bare.replace("model.position_embedding.", "model.backbone.position_embedding.")


def _dialect(name: str, five: bool, own_resnet: bool) -> Dialect:
    canonical = _canonical if five else _canonical_four
    return Dialect(name, _recogniser(five, own_resnet), _slots(five, own_resnet), canonical)


TRANSFORMERS = (
    _dialect("transformers", five=False, own_resnet=False),
    _dialect("transformers-no-timm", five=False, own_resnet=True),
    _dialect("transformers-5", five=True, own_resnet=False),
    _dialect("transformers-5-no-timm", five=True, own_resnet=True),
)
