"""Heads of a published network that a request asks for, and what they need to know of the data."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, InputError
from phidet.core.structs import convert
from phidet.data.dataset import Dataset

log = logging.getLogger("phidet")

KINDS = {"masks": "masks", "semantic": "the class of every pixel"}
"""Field of a config → what its head finds."""


def check_masks(config: Any, asked: bool, train: Dataset, data: str) -> None:
    """Looks whether a network that finds masks or segments has any to learn from.

    Args:
        config: of the network.
        asked: whether they were asked for; else the network had them before, and it is only said.
        train: what it learns from.
        data: what the user calls the data.

    Raises:
        InputError: they were asked for, and no object has a mask.
    """
    architecture = architecture_of(config)
    finds = [what for what in ("masks", "segments") if what in architecture.finds(config)]
    if not finds or train.all_annotations.mask_labels is not None:
        return
    if asked:
        raise InputError(
            f"{data}: no object of {train.name!r} has a mask, which --masks and --semantic learn from: leave them "
            "out, or give labels with outlines (COCO's segmentation, YOLO's polygons, label images)"
        )
    log.warning(
        "no object of %s has a mask: what finds %s is not learned and not measured", train.name, " and ".join(finds)
    )


def with_heads(config: Any, wanted: Collection[str], stuff: Sequence[str]) -> Any:
    """``config`` with the heads ``wanted``, of :data:`KINDS`, the usual ones unless it has some already.

    Where labels say which classes are ``stuff``, such as sky, so does the config.

    Raises:
        ConfigError: such networks have none.
    """
    name = architecture_of(config).name
    for head, what in KINDS.items():
        if head in wanted and head not in type(config).__struct_fields__:
            raise ConfigError(f"{name} networks have no head for {what}: leave the option out")
        if head in wanted and getattr(config, head) is None:
            config = convert({**msgspec.to_builtins(config), head: {}}, type(config), head)
        settings = getattr(config, head, None)
        if stuff and "stuff" in getattr(type(settings), "__struct_fields__", ()):
            values = msgspec.to_builtins(config)
            config = convert({**values, head: {**values[head], "stuff": stuff}}, type(config), head)
    return config
