"""Configuration of a DETR."""

from __future__ import annotations

from typing import Literal

import msgspec

from phidet.architectures.backbones.config import BackboneConfig
from phidet.architectures.config import check_class_names
from phidet.core.structs import require, require_one_of
from phidet.images.prepare import IMAGENET, Preprocess

Position = Literal["sine", "learned"]
InputSize = Literal["varying", "fixed"]
Form = Literal["detr", "demo"]

TEMPERATURE = 10000.0
"""Of sine positions: the ratio of the longest to the shortest wavelength."""
MASK_HEADS, MASK_GROUPS = 8, 8
"""Of the attention of masks, each of which gives a map; and of the mask head's group norms."""
LEVEL = 5
"""Of the backbone's map that the transformer sees: stride 32, or 16 if dilated."""
LEARNED_CELLS = 50
"""Rows, and columns, of feature cells that learned positions exist for."""


class TransformerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The transformer (arXiv 2005.12872, section 3.2 and A.3).

    ``width`` channels are shared by ``heads``; ``feed_forward`` is the width inside of each layer's perceptron.
    ``pre_norm`` normalises in front of every attention instead of behind it.
    """

    width: int = 256
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    feed_forward: int = 2048
    dropout: float = 0.1
    pre_norm: bool = False

    def __post_init__(self) -> None:
        for name, least in (("width", 4), ("heads", 1), ("encoder_layers", 0), ("decoder_layers", 1)):
            value = getattr(self, name)
            require(value >= least, f"transformer {name} must be a whole number ≥ {least}, got {value}")
        require(self.feed_forward >= 1, f"transformer feed_forward must be ≥ 1, got {self.feed_forward}")
        require(self.width % self.heads == 0, f"{self.heads} heads cannot share a width of {self.width}")
        # Positions have sine and cosine for each of two directions.
        require(self.width % 4 == 0, f"transformer width must be a multiple of 4, got {self.width}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout!r}")


class MaskConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Masks of objects.

    ``stuff`` are the names of the classes that are not counted (sky, grass): all of one is a single panoptic segment.
    """

    stuff: tuple[str, ...] = ()


class DetrConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete detector.

    Attributes:
        name: of the model.
        backbone: any of phidet's; its map of stride 32 is what the transformer sees.
        class_names: of the C classes; "no object" is not among them.
        image_size_hw: of the input in pixels.
        input_size: "varying" resizes an image until its shorter side has the smaller number of ``image_size_hw``
            or its longer side the larger one, whichever way it lies, and pads only to the largest image of a batch;
            "fixed" fits every image into ``image_size_hw`` and pads the rest.
        transformer: sizes.
        queries: number of objects that can be found in an image.
        position: of feature cells, "sine" or "learned".
        dilation: the last stage of a ResNet keeps stride 16 and dilates its kernels (DC5).
        form: "detr", or "demo" for the model of 50 lines in the paper's appendix A.6.
        feature_scale: of the demo's features, to which positions are added: 0.1 in the released weights, 1 in the
            paper's listing.
        masks: also predict the mask of each object; ``None`` for boxes alone.
        preprocess: mean and standard deviation.
    """

    name: str
    backbone: BackboneConfig
    class_names: tuple[str, ...]
    image_size_hw: tuple[int, int] = (800, 1333)
    input_size: InputSize = "varying"
    transformer: TransformerConfig = TransformerConfig()
    queries: int = 100
    position: Position = "sine"
    dilation: bool = False
    form: Form = "detr"
    feature_scale: float = 0.1
    masks: MaskConfig | None = None
    preprocess: Preprocess = IMAGENET

    def __post_init__(self) -> None:
        require_one_of("position", self.position, Position)
        require_one_of("input_size", self.input_size, InputSize)
        require_one_of("form", self.form, Form)
        require(self.queries >= 1, f"queries must be a whole number ≥ 1, got {self.queries}")
        require(
            all(side >= 32 for side in self.image_size_hw),
            f"image size {self.image_size_hw[0]}×{self.image_size_hw[1]} is smaller than the stride, 32: use a larger "
            "image size",
        )
        require(
            not self.dilation or self.backbone.architecture.startswith("resnet"),
            f"only ResNets can be dilated, not {self.backbone.architecture}: set dilation to false",
        )
        require(
            self.masks is None or (self.form == "detr" and self.transformer.width % 128 == 0),
            f"masks need a transformer width that is a multiple of 128, and not the demo's form; got a width of "
            f"{self.transformer.width}, form {self.form}",
        )
        check_class_names(self.class_names)

    @property
    def num_classes(self) -> int:
        """Real classes; ids are 0…num_classes − 1, and the network's last one, num_classes, is "no object"."""
        return len(self.class_names)

    @property
    def stride(self) -> int:
        """Pixels of the input per feature cell."""
        return 16 if self.dilation else 32
