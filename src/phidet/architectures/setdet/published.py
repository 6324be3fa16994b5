"""The models by name, and the law for every φ."""

from __future__ import annotations

import math

import msgspec

from phidet.architectures.backbones.config import BackboneArchitecture, BackboneConfig
from phidet.architectures.backbones.published import OTHER_BACKBONES, backbone_config, scaled_backbone
from phidet.architectures.backbones.scaling import (
    CompoundScaling,
    check_phi,
    family_named,
    round_half_up,
    round_to_multiple,
)
from phidet.architectures.config import Activation
from phidet.architectures.feature_networks.config import FeatureNetworkConfig, Fusion
from phidet.architectures.setdet.config import DecoderConfig, SetDetConfig
from phidet.core.errors import UnknownNameError
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.images.prepare import IMAGENET, LITE


class SetLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything behind the backbone by φ.

    ``channels · growth^φ`` channels of the feature network and twice as many of a query, as EfficientDet's law has it
    (arXiv 1911.09070, eq. 1); ``cells + φ`` cells; ``layers + ⌊φ/3⌋`` decoder layers, as its heads; ``queries · 1.1^φ``
    queries; ``size_base + size_step · φ`` pixels of input side.
    """

    channels_base: float = 64
    growth: float = 1.35
    cells_base: float = 3
    layers_base: int = 3
    queries_base: float = 100
    queries_growth: float = 1.25
    size_base: float = 512
    size_step: float = 128

    def channels(self, phi: float) -> int:
        """Channels of the feature network: the nearest multiple of 8."""
        return round_to_multiple(self.channels_base * self.growth**phi, 8)

    def width(self, phi: float) -> int:
        """Channels of a query: the nearest multiple of 32, for eight heads."""
        return round_to_multiple(2 * self.channels_base * self.growth**phi, 32)

    def cells(self, phi: float) -> int:
        """Repetitions of the feature network."""
        return max(1, round_half_up(self.cells_base + phi))

    def layers(self, phi: float) -> int:
        """Decoder layers."""
        return max(1, self.layers_base + math.floor(phi / 3))

    def queries(self, phi: float) -> int:
        """Objects that an image can have at most: the nearest multiple of 10."""
        return round_to_multiple(self.queries_base * self.queries_growth**phi, 10)

    def image_size(self, phi: float) -> int:
        """Side of the square input in pixels."""
        return round_to_multiple(self.size_base + self.size_step * phi, 32)


class SetFamily(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fixed while φ varies."""

    name: str = "setdet"
    architecture: BackboneArchitecture = "efficientnet"
    compound: CompoundScaling = CompoundScaling()
    law: SetLaw = SetLaw()
    fusion: Fusion = "fast"
    activation: Activation = "silu"


FAMILIES: dict[str, SetFamily] = {
    "setdet": SetFamily(),
    "setdet-lite": SetFamily(
        name="setdet-lite",
        architecture="efficientnet-lite",
        law=SetLaw(size_base=320, size_step=64),
        fusion="sum",
        activation="relu6",
    ),
    **{
        f"setdet-{name}": SetFamily(name=f"setdet-{name}", architecture=name, activation="relu")
        for name in OTHER_BACKBONES
    },
}
"""Families that φ can scale."""
SETDETS: dict[str, tuple[str, str, int]] = {
    **{f"setdet-lite{phi}": ("setdet-lite", f"efficientnet-lite{phi}", phi) for phi in range(5)},
    **{f"setdet-d{phi}": ("setdet", f"efficientnet-b{phi}", phi) for phi in range(8)},
}
"""Named models: family, published backbone, φ of everything else."""
SETDET_NAMES: tuple[str, ...] = tuple(SETDETS)


def family_of(family: object) -> SetFamily:
    """The family itself, or the one of that name; ``None`` stands for the one on EfficientNet.

    Raises:
        UnknownNameError: there is none.
    """
    return family_named(family, FAMILIES, "setdet")


def named_config(name: str, class_names: tuple[str, ...] = COCO_CLASS_NAMES) -> SetDetConfig:
    """The model named ``name``: a published backbone, and the law for the rest.

    Raises:
        UnknownNameError: there is none; the nearest names are in the message.
    """
    if name not in SETDETS:
        raise UnknownNameError("model", name, SETDET_NAMES)
    # The backbone is a published one, whose weights exist; everything else follows the law.
    family, backbone, phi = SETDETS[name]
    return _config(name, phi, FAMILIES[family], backbone_config(backbone), class_names)


def scaled_config(phi: float, family: SetFamily, class_names: tuple[str, ...] = COCO_CLASS_NAMES) -> SetDetConfig:
    """The model that the law gives for ``phi``.

    Raises:
        ConfigError: ``phi`` is out of range.
    """
    phi = check_phi(phi)
    backbone = scaled_backbone(phi, family.architecture, family.compound)
    return _config(f"{family.name}-phi{phi:g}", phi, family, backbone, class_names)


def _config(
    name: str, phi: float, family: SetFamily, backbone: BackboneConfig, class_names: tuple[str, ...]
) -> SetDetConfig:
    law = family.law
    size = law.image_size(phi)
    return SetDetConfig(
        name=name,
        backbone=backbone,
        encoder_layers=1,
        feature_network=FeatureNetworkConfig(
            channels=law.channels(phi), repeats=law.cells(phi), fusion=family.fusion, max_level=5
        ),
        decoder=DecoderConfig(queries=law.queries(phi), width=law.width(phi), layers=law.layers(phi)),
        activation=family.activation,
        image_size_hw=(size, size),
        class_names=class_names,
        preprocess=LITE if family.architecture == "efficientnet-lite" else IMAGENET,
    )
