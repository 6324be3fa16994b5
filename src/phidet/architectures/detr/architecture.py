"""DETR behind the interface of architectures."""

# What needs PyTorch is imported when it is called: a deployed detector has none.
# ruff: noqa: PLC0415

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.architectures.backbones.config import backbone_summary
from phidet.architectures.backbones.on_backbone import OnBackbone
from phidet.architectures.backbones.published_files import backbone_file
from phidet.architectures.base import Decoder, Loss
from phidet.architectures.config import default_class_names
from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.detr.decode import DetrDecoder, answers_of
from phidet.architectures.detr.loss_config import DetrLossConfig
from phidet.architectures.detr.prepare import prepare_image
from phidet.architectures.detr.published import COCO_91, DETRS, detr_config
from phidet.architectures.detr.published_files import detector_file
from phidet.architectures.detr.published_metrics import METRICS, PublishedDetr
from phidet.architectures.detr.recipes import recipe_fields
from phidet.architectures.prepared import Prepared
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.rows import PredictorRows
from phidet.core.structs import convert, replace
from phidet.detections.boxes import FloatArray, elementwise_iou

if TYPE_CHECKING:
    from torch import Tensor, nn

    from phidet.architectures.detr.network import DetrOutputs
    from phidet.architectures.dialect import Dialect
    from phidet.architectures.evidence import ActivationMap
    from phidet.architectures.model import Model
    from phidet.architectures.program import Program
    from phidet.architectures.weights import Weights

COMPARED = 20
"""Number of an image's top-scoring queries on which an export is compared with PyTorch."""


class DetrArchitecture(OnBackbone[DetrConfig]):
    """DETR (arXiv 2005.12872) on any backbone."""

    name = "detr"
    config_type = DetrConfig
    published_names = tuple(DETRS)
    loss_settings = msgspec.structs.asdict(DetrLossConfig())
    recipe_names = ("detr", "detr-masks")
    takes_valid_hw = True
    suppresses = False
    predictors = ("class_head.",)
    added_parts = ("mask_attention.", "mask_head.")
    pretrained_words = ("backbone", "coco")

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> DetrConfig:
        return detr_config(name, class_names)

    def summary(self, config: DetrConfig) -> list[tuple[str, str]]:
        size = config.transformer
        norm = "pre-norm" if size.pre_norm else "post-norm"
        layers = f"{size.encoder_layers} + {size.decoder_layers} layers, {size.width} channels, {size.heads} heads"
        where = f"{config.position} positions, stride {config.stride}"
        return [
            ("input size", _INPUT_SIZES[config.input_size]),
            ("backbone", backbone_summary(config.backbone)),
            ("transformer", f"{layers}, {size.feed_forward} inside, {norm}, {where}"),
            ("queries", f"{config.queries}, no suppression"),
        ]

    def output_shapes(self, config: DetrConfig) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "class_logits": (config.queries, config.num_classes + 1),
            "boxes_cxcywh": (config.queries, 4),
        }
        if config.masks is not None:
            height, width = config.image_size_hw
            return {**shapes, "mask_logits": (config.queries, -(-height // 4), -(-width // 4))}
        return shapes

    def has_varying_size(self, config: DetrConfig) -> bool:
        return config.input_size == "varying"

    def needed_hw(self, config: DetrConfig, image_hw: tuple[int, int]) -> tuple[int, int]:
        return image_hw  # decoding takes a hundredth of the network's time, and its masks follow each pixel

    def prepare(self, config: DetrConfig, image: npt.NDArray[np.uint8]) -> Prepared:
        return prepare_image(image, config)

    def resizing(self, config: DetrConfig) -> str:
        low, high = min(config.image_size_hw), max(config.image_size_hw)
        how = "resized bilinearly with antialiasing (Pillow)"
        if config.input_size == "varying":
            return f"{how} until the shorter side has {low} pixels or the longer one {high}; valid_hw: height and width"
        height, width = config.image_size_hw
        return f"{how} to fit {height}x{width} (height x width); valid_hw: height and width without padding"

    def decoder(self, config: DetrConfig) -> Decoder:
        return DetrDecoder(config)

    def published_metrics(self, config: DetrConfig) -> PublishedDetr | None:
        metrics = METRICS.get(config.name)
        usual = config.name in METRICS and detr_config(config.name, config.class_names) == config
        return metrics if usual and config.num_classes == len(COCO_91) else None

    def resized(self, config: DetrConfig, size_hw: tuple[int, int]) -> DetrConfig:
        """Fixed to that size; the published rule for varying sizes is left."""
        return replace(config, {"image_size_hw": size_hw, "input_size": "fixed"})

    def mask_stride(self, config: DetrConfig) -> int | None:
        return None if config.masks is None else 1

    def finds(self, config: DetrConfig) -> frozenset[str]:
        return frozenset() if config.masks is None else frozenset({"masks", "segments"})

    def recipe_fields(self, name: str, num_images: int) -> Mapping[str, Any]:
        return recipe_fields(name, num_images)

    def build(self, config: DetrConfig) -> Model:
        from phidet.architectures.detr.demo import DetrDemo
        from phidet.architectures.detr.network import Detr

        return DetrDemo(config) if config.form == "demo" else Detr(config)

    def loss(self, config: DetrConfig, settings: Mapping[str, Any]) -> Loss:
        from phidet.architectures.detr.loss import DetrLoss

        return DetrLoss(config.num_classes, convert(settings, DetrLossConfig, f"loss of {self.name}"))

    def lower_arrays(self, config: DetrConfig, weights: Weights) -> Program:
        from phidet.architectures.detr.lower import lower_detector

        return lower_detector(weights, config)

    def named_outputs(self, outputs: DetrOutputs) -> dict[str, Tensor]:
        named = {"class_logits": outputs.class_logits, "boxes_cxcywh": outputs.boxes_cxcywh}
        return named if outputs.mask_logits is None else {**named, "mask_logits": outputs.mask_logits}

    def agreement(
        self, config: DetrConfig, ours: Mapping[str, FloatArray], theirs: Mapping[str, FloatArray]
    ) -> tuple[float, float]:
        """Compares the scores and boxes of the queries that PyTorch scores highest."""
        # Queries have a fixed order, so that each is compared with itself.
        own, other = (answers_of(of["class_logits"], of["boxes_cxcywh"], config.image_size_hw) for of in (ours, theirs))
        best = np.argsort(-own.scores)[:COMPARED]
        difference = float(np.abs(other.scores[best] - own.scores[best]).mean())
        return difference, float(elementwise_iou(other.boxes_xyxy[best], own.boxes_xyxy[best], "iou").mean())

    def dialects(self) -> tuple[Dialect, ...]:
        from phidet.architectures.detr.dialect_official import DEMO, DETR, LISTING, PANOPTIC
        from phidet.architectures.detr.dialect_transformers import TRANSFORMERS

        return DETR, PANOPTIC, DEMO, LISTING, *TRANSFORMERS

    def adapt_config(self, config: DetrConfig, find: Callable[[str], Tensor | None], dialect: Dialect) -> DetrConfig:
        """Takes the numbers of classes, queries and layers, the kind of positions and of norms from the file."""
        bias = find("class_head.bias")
        if bias is None:
            return config  # the file is of another form, the demo's or one with masks; loading says what is missing
        count = math.prod(bias.shape) - 1  # of a tensor, or an array
        names = config.class_names if count == config.num_classes else default_class_names(count)
        # Layers are counted up to the first one whose norm is missing; no network has a thousand.
        layers = {
            f"{part}_layers": next(i for i in range(1000) if find(f"{part}.layers.{i}.norm1.weight") is None)
            for part in ("encoder", "decoder")
        }
        queries, rows = find("queries.weight"), find("positions.rows")
        changes: dict[str, Any] = {"class_names": names}
        if queries is not None:
            changes["queries"] = len(queries)
        if config.form == "detr":
            changes["position"] = "sine" if rows is None else "learned"
            layers["pre_norm"] = find("encoder.norm.weight") is not None
        else:
            changes["feature_scale"] = 1.0 if dialect.name == "detr-listing" else 0.1
        changes["transformer"] = msgspec.structs.replace(config.transformer, **layers)
        return replace(config, changes)

    def weights_key(self, config: DetrConfig) -> object:
        """What does not change the weights is left out: stochastic depth, dropout, sizes of the input."""
        backbone = msgspec.structs.replace(config.backbone, drop_path=0.0)
        transformer = msgspec.structs.replace(config.transformer, dropout=0.0)
        # Nor whether there are masks: their parts may be added to a detector.
        return backbone, transformer, config.queries, config.position, config.dilation, config.form

    def start_config(self, wanted: DetrConfig, held: DetrConfig) -> DetrConfig:
        """A detector may start a network that adds masks to it."""
        if wanted.masks is None:
            return held
        return replace(held, {"name": wanted.name, "masks": held.masks or wanted.masks})

    def predictor_rows(self, name: str, config: DetrConfig) -> PredictorRows:
        return PredictorRows(others=1)  # "no object"

    def pretrained_file(self, config: DetrConfig, start: str, published: str | None) -> PublishedFile | None:
        if start == "coco":
            return detector_file(config.name)
        if start != "backbone":
            return None
        return backbone_file(self.published_backbone(config))

    def recomputed_blocks(self, model: nn.Module) -> list[nn.Module]:
        from phidet.architectures.detr.transformer import DecoderLayer, EncoderLayer

        layers = (module for module in model.modules() if isinstance(module, EncoderLayer | DecoderLayer))
        return [*super().recomputed_blocks(model), *layers]

    def explain(
        self, model: Model, image: npt.NDArray[np.uint8], class_id: int | None, limit: int
    ) -> list[ActivationMap]:
        from phidet.architectures.detr.explain import object_maps

        return object_maps(model, image, class_id, limit)

    def explain_point(self, model: Model, image: npt.NDArray[np.uint8], point_xy: tuple[float, float]) -> ActivationMap:
        from phidet.architectures.detr.explain import point_map

        return point_map(model, image, point_xy)


_INPUT_SIZES = {
    "varying": "varies: the shorter side resized to the smaller number, the longer at most to the larger one",
    "fixed": "fixed: images are fitted in, and padded",
}

DETR = DetrArchitecture()
