"""Style-based generators behind the interface of architectures."""

# What needs PyTorch is imported when it is called.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from phidet.architectures.base import Architecture
from phidet.architectures.stylegan.config import StyleGanConfig
from phidet.architectures.stylegan.published import STYLEGAN_NAMES, stylegan_config
from phidet.architectures.stylegan.settings import AdversarialSettings
from phidet.core.errors import ConfigError
from phidet.core.structs import convert, replace

if TYPE_CHECKING:
    from phidet.architectures.adversarial import Adversarial
    from phidet.architectures.dialect import Dialect
    from phidet.architectures.stylegan.generator import Generator


class StyleGanArchitecture(Architecture[StyleGanConfig]):
    """The style-based generator (arXiv 1812.04948), which makes images."""

    name = "stylegan"
    config_type = StyleGanConfig
    says = frozenset({"samples"})
    published_names = STYLEGAN_NAMES
    loss_settings = MappingProxyType(msgspec.to_builtins(AdversarialSettings()))
    takes_foreign_backbones = False

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> StyleGanConfig:
        return stylegan_config(name, class_names)

    def output_shapes(self, config: StyleGanConfig) -> dict[str, tuple[int, ...]]:
        return {"images": (3, *config.image_size_hw)}

    def decoder(self, config: StyleGanConfig) -> NoReturn:
        raise ConfigError(f"{config.name} makes images and finds nothing in them: draw from it with 'phidet sample'")

    def summary(self, config: StyleGanConfig) -> list[tuple[str, str]]:
        taken = f"of {config.num_classes} classes" if config.labelled else "without classes"
        return [("makes", f"{config.resolution}×{config.resolution} images {taken}, {config.num_layers} style layers")]

    def for_classes(self, config: StyleGanConfig, class_names: tuple[str, ...]) -> StyleGanConfig:
        """With more than one class, a fresh network takes the class; a trained one stays as it is."""
        return replace(config, {"class_names": class_names, "labelled": len(class_names) > 1})

    def recipe_fields(self, name: str, num_images: int) -> Mapping[str, Any]:
        """ "paper" shows 25 million images; "small" and "auto" keep a discriminator from learning few by heart."""
        if name == "paper":
            return {"epochs": 2442, "batch_size": 32, "learning_rate": 0.001, "evaluate_every": 10}
        return {
            "epochs": 40,
            "batch_size": 32,
            "learning_rate": 0.002,
            "augmentation": {"adaptive": 0.6, "adaptive_span": 100_000},
            "loss": {"growing": False, "batches": "fixed"},
        }

    def resized(self, config: StyleGanConfig, size_hw: tuple[int, int]) -> StyleGanConfig:
        if size_hw[0] != size_hw[1]:
            raise ConfigError(f"{config.name} makes square images, got {size_hw[0]}×{size_hw[1]}")
        return replace(config, {"resolution": size_hw[0]})

    def build(self, config: StyleGanConfig) -> Generator:
        from phidet.architectures.stylegan.generator import Generator

        return Generator(config)

    def loss(self, config: StyleGanConfig, settings: Mapping[str, Any]) -> NoReturn:
        raise ConfigError(f"{config.name} learns against a discriminator: train it with --task generate")

    def adversarial(self, config: StyleGanConfig, settings: Mapping[str, Any]) -> Adversarial:
        from phidet.architectures.stylegan.adversary import StyleAdversary

        return StyleAdversary(config, convert(settings, AdversarialSettings, f"loss of {config.name}"))

    def dialects(self) -> tuple[Dialect, ...]:
        from phidet.architectures.stylegan.dialect_official import OFFICIAL

        return (OFFICIAL,)


STYLEGAN = StyleGanArchitecture()
