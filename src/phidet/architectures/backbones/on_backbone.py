"""What architectures on one of the backbones here have in common."""

# What needs PyTorch is imported when it is called.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import TYPE_CHECKING

from phidet.architectures.backbones.published import published_name
from phidet.architectures.base import Architecture, ConfigT
from phidet.core.errors import ConfigError
from phidet.core.structs import replace

if TYPE_CHECKING:
    from torch import nn


class OnBackbone(Architecture[ConfigT]):
    """An architecture whose configs have a ``backbone``."""

    def published_backbone(self, config: ConfigT) -> str:
        """The published classifier whose backbone has the size of this network's.

        Raises:
            ConfigError: there is none.
        """
        own = config.backbone
        name = published_name(own)
        if name is None:
            raise ConfigError(
                f"no published backbone has the size of {config.name}'s ({own.architecture}, width {own.width:g}, "
                f"depth {own.depth:g}): choose a model by name, or start without weights"
            )
        return name

    def with_drop_path(self, config: ConfigT, drop_path: float) -> ConfigT:
        changed: ConfigT = replace(config, {"backbone": replace(config.backbone, {"drop_path": drop_path})})
        return changed

    def recomputed_blocks(self, model: nn.Module) -> list[nn.Module]:
        from phidet.architectures.backbones.build import recomputed_blocks

        return recomputed_blocks(model)
