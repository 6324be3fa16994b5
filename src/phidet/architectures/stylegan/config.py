"""Configuration of a style-based generator and of the discriminator that trains it."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from phidet.architectures.config import check_class_names
from phidet.core.structs import require, require_one_of
from phidet.images.prepare import Preprocess

FusedScale = Literal["auto", "always", "never"]
SIGNED = Preprocess(mean_rgb=(127.5, 127.5, 127.5), std_rgb=(127.5, 127.5, 127.5))
"""Images from −1 to 1, as both networks take and make them."""
FIRST_FUSED = 128  # pixels: with "auto", convolutions that scale are one operation from this resolution on


class StyleGanConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A generator of square RGB images, and its discriminator.

    Attributes:
        name: for messages.
        class_names: what the images show; with ``labelled`` the class is an input of both networks.
        resolution: side of the images, a power of two from 8 to 1024.
        labelled: whether the networks take the class.
        latent_size: of the latents z.
        style_size: of the intermediate latents w; that of z where there are no mapping layers.
        mapping_layers, mapping_width: of the mapping network; no layers: w is the normalised z.
        channels_base, channels_limit: a layer at resolution 2^r has min(⌊base / 2^(r−1)⌋, limit) channels.
        styles: instance normalisation and styles after each layer; without them, pixel normalisation.
        constant_input: a learned 4×4 input; without it, a dense layer from w.
        noise: noise with a learned strength for each channel after each convolution.
        blur: bilinear scaling, by a blur after nearest neighbours.
        fused_scale: whether scaling and convolution are one operation: from 128 pixels on, always or never.
        style_mixing: probability of two latents for one batch of images in training.
        context: how much longer the sides of training images are than those of the objects that they are cut out for.
        preprocess: of the images.
    """

    name: str
    class_names: tuple[str, ...] = ("image",)
    resolution: int = 64
    labelled: bool = False
    latent_size: int = 512
    style_size: int = 512
    mapping_layers: int = 8
    mapping_width: int = 512
    channels_base: int = 8192
    channels_limit: int = 512
    styles: bool = True
    constant_input: bool = True
    noise: bool = True
    blur: bool = True
    fused_scale: FusedScale = "auto"
    style_mixing: float = 0.9
    context: float = 1.25
    preprocess: Preprocess = SIGNED

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        require(
            self.resolution in (8, 16, 32, 64, 128, 256, 512, 1024),
            f"resolution must be a power of two from 8 to 1024, got {self.resolution}",
        )
        for name in ("latent_size", "style_size", "mapping_width", "channels_limit"):
            require(getattr(self, name) >= 1, f"{name} must be a whole number ≥ 1, got {getattr(self, name)}")
        require(self.mapping_layers >= 0, f"mapping_layers must be ≥ 0, got {self.mapping_layers}")
        require(
            self.channels(self.resolution) >= 1,
            f"channels_base {self.channels_base} leaves no channels at {self.resolution} pixels",
        )
        # Labels are embedded as wide as the latents, beside them.
        width = self.latent_size * (2 if self.labelled else 1)
        require(
            self.mapping_layers > 0 or self.style_size == width,
            f"without mapping layers style_size is that of the latents, {width}, got {self.style_size}",
        )
        require(0 <= self.style_mixing <= 1, f"style_mixing must be a probability, got {self.style_mixing}")
        require(1 <= self.context <= 4, f"context must be in 1…4, got {self.context}")
        require_one_of("fused_scale", self.fused_scale, FusedScale)

    @property
    def num_classes(self) -> int:
        """Number of classes; ids are 0…num_classes − 1."""
        return len(self.class_names)

    @property
    def label_size(self) -> int:
        """Length of a label, a one-hot class; 0 where the networks take none."""
        return self.num_classes if self.labelled else 0

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.resolution, self.resolution

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, … up to that of the images."""
        return tuple(4 * 2**i for i in range(int(math.log2(self.resolution)) - 1))

    @property
    def num_layers(self) -> int:
        """Layers of the generator that take a style: two for each resolution."""
        return 2 * len(self.resolutions)

    @property
    def noise_sides(self) -> tuple[int, ...]:
        """Side of the noise of each layer in pixels; empty without noise."""
        return tuple(side for side in self.resolutions for _ in range(2)) if self.noise else ()

    def channels(self, resolution: int) -> int:
        """Channels of the layers at ``resolution``."""
        # Half as many for each doubling of the resolution, as in the paper, below a limit.
        return min(int(self.channels_base / (resolution // 2)), self.channels_limit)

    def is_fused(self, resolution: int) -> bool:
        """Whether scaling to or from ``resolution``, the larger of the two, is part of the convolution."""
        return self.fused_scale == "always" or (self.fused_scale == "auto" and resolution >= FIRST_FUSED)
