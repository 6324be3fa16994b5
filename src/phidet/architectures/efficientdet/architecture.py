"""EfficientDet behind the interface of architectures."""

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
from phidet.architectures.efficientdet.anchors import generate_anchors, level_sizes
from phidet.architectures.efficientdet.config import ASPECTS_2020, ASPECTS_OFFICIAL, ModelConfig
from phidet.architectures.efficientdet.decode import AnchorDecoder, as_outputs
from phidet.architectures.efficientdet.loss_config import LossConfig
from phidet.architectures.efficientdet.mask_config import ADDED, STRIDE
from phidet.architectures.efficientdet.published import (
    DETECTOR_NAMES,
    FAMILIES,
    detector_config,
    family_of,
    scaled_detector_config,
)
from phidet.architectures.efficientdet.published_files import detector_file
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.rows import PredictorRows
from phidet.core.errors import CheckpointError
from phidet.core.numbers import sigmoid
from phidet.core.structs import convert, replace
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.data.doctor.view import NetworkView
from phidet.detections.boxes import FloatArray, decode, elementwise_iou

if TYPE_CHECKING:
    from torch import Tensor, nn

    from phidet.architectures.dialect import Dialect
    from phidet.architectures.efficientdet.network import EfficientDet
    from phidet.architectures.evidence import ActivationMap
    from phidet.architectures.program import GraphWriter, Program
    from phidet.architectures.weights import Weights

COMPARED = 100
"""Number of an image's top-scoring anchors on which an export is compared with PyTorch: those become detections."""


class EfficientDetArchitecture(OnBackbone[ModelConfig]):
    """EfficientDet (arXiv 1911.09070) on any backbone."""

    name = "efficientdet"
    config_type = ModelConfig
    published_names = DETECTOR_NAMES
    family_names = tuple(FAMILIES)
    loss_settings = msgspec.structs.asdict(LossConfig())
    optional_outputs = ("best_logits",)
    learns_soft = True
    predictors = ("class_head.predict.pointwise.", "semantic.predict.")
    added_parts = tuple(f"{part}." for part in ADDED)
    pretrained_words = ("backbone", "coco")

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> ModelConfig:
        return detector_config(name, class_names or COCO_CLASS_NAMES)

    def summary(self, config: ModelConfig) -> list[tuple[str, str]]:
        network, anchors = config.feature_network, config.anchors
        graph = network.resolved_graph.name
        aspects = ", ".join(f"{w:.4g}×{h:.4g}" for w, h in anchors.aspects_wh)
        per_cell = f"{anchors.per_cell} per cell: scale {anchors.scale:g}, {anchors.octaves} sizes, {aspects}"
        return [
            ("backbone", backbone_summary(config.backbone)),
            ("feature network", f"{graph}, {network.fusion} fusion, {network.channels} channels, ×{network.repeats}"),
            ("heads", f"{config.head_layers} layers, {config.activation}"),
            ("anchors", per_cell),
            *([] if config.masks is None else [("masks", f"sums of {config.masks.prototypes} prototypes")]),
            *([] if config.semantic is None else [("pixels", "a class for each, by transposed convolutions")]),
        ]

    def output_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        per_cell = config.anchors.per_cell
        cells = config.num_anchors // per_cell
        shapes: dict[str, tuple[int, ...]]
        shapes = {"class_logits": (cells, per_cell * config.num_classes), "box_deltas": (cells, per_cell * 4)}
        if config.masks is not None:
            height, width = config.image_size_hw
            shapes["mask_coefficients"] = cells, per_cell * config.masks.prototypes
            shapes["prototypes"] = config.masks.prototypes, height // STRIDE, width // STRIDE
        if config.semantic is not None:
            height, width = config.image_size_hw
            shapes["semantic_logits"] = config.num_classes + 1, height // STRIDE, width // STRIDE
        return shapes

    def decoder(self, config: ModelConfig) -> Decoder:
        return AnchorDecoder(config)

    def doctor_view(self, config: ModelConfig) -> NetworkView:
        from phidet.architectures.efficientdet.coverage import anchor_view

        return NetworkView(config.name, config.image_size_hw, anchor_view(config))

    def mask_stride(self, config: ModelConfig) -> int | None:
        return None if config.masks is None and config.semantic is None else STRIDE

    def finds(self, config: ModelConfig) -> frozenset[str]:
        kinds = (("masks", config.masks), ("segments", config.semantic))
        return frozenset(name for name, head in kinds if head is not None)

    def smallest_map_hw(self, config: ModelConfig) -> tuple[int, int]:
        return level_sizes(config.image_size_hw, [config.feature_network.max_level])[0]

    def build(self, config: ModelConfig) -> EfficientDet:
        from phidet.architectures.efficientdet.network import EfficientDet

        return EfficientDet(config)

    def loss(self, config: ModelConfig, settings: Mapping[str, Any]) -> Loss:
        from phidet.architectures.efficientdet.losses import AnchorLoss

        return AnchorLoss(config, convert(settings, LossConfig, f"loss of {self.name}"))

    def lower_arrays(self, config: ModelConfig, weights: Weights) -> Program | None:
        from phidet.architectures.efficientdet.lower_arrays import lower_detector

        # Masks are lowered by way of their PyTorch modules; no published detector has any.
        boxes_only = config.masks is None and config.semantic is None
        return lower_detector(weights, config) if boxes_only else None

    def lower(self, model: EfficientDet) -> Program:
        from phidet.architectures.efficientdet.lower import compile_program

        return compile_program(model)

    def extend_graph(self, graph: GraphWriter, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The largest class logit of each anchor: most anchors are discarded by it alone."""
        # The logit of a single class is the largest one already.
        if config.num_classes == 1:
            return {}
        shape = graph.constant([0, config.num_anchors, config.num_classes], np.int64)
        logits = graph.add("Reshape", ["class_logits", shape])
        graph.add("ReduceMax", [logits], "best_logits", axes=[2], keepdims=0)
        return {"best_logits": (config.num_anchors,)}

    def agreement(
        self, config: ModelConfig, ours: Mapping[str, FloatArray], theirs: Mapping[str, FloatArray]
    ) -> tuple[float, float]:
        """Compares the scores and boxes of the anchors that PyTorch scores highest."""
        own, other = as_outputs(ours, config.num_classes), as_outputs(theirs, config.num_classes)
        best = np.argsort(-own.best_logits)[:COMPARED]
        # By the class that PyTorch says, so that two classes that are alike do not count as a difference.
        classes = own.class_logits[best].argmax(1)
        difference = sigmoid(other.class_logits[best, classes]) - sigmoid(own.class_logits[best, classes])
        anchors = generate_anchors(config.image_size_hw, config.feature_network.levels, config.anchors)[best]
        boxes, others = (decode(outputs.box_deltas[best], anchors) for outputs in (own, other))
        return float(np.abs(difference).mean()), float(elementwise_iou(others, boxes, "iou").mean())

    def dialects(self) -> tuple[Dialect, ...]:
        from phidet.architectures.efficientdet.dialect_automl import AUTOML
        from phidet.architectures.efficientdet.dialect_effdet import EFFDET
        from phidet.architectures.efficientdet.dialect_zylo117 import ZYLO117

        return AUTOML, EFFDET, ZYLO117

    def adapt_config(self, config: ModelConfig, find: Callable[[str], Tensor | None], dialect: Dialect) -> ModelConfig:
        """Takes the class count from the file, and the anchor aspects from its dialect."""
        bias, per_cell = find("class_head.predict.pointwise.bias"), config.anchors.per_cell
        outputs = 0 if bias is None else math.prod(bias.shape)  # of a tensor, or an array
        if not outputs or outputs % per_cell:
            raise CheckpointError(f"there is no class predictor for {per_cell} anchors per cell")
        count = outputs // per_cell
        names = config.class_names if count == config.num_classes else default_class_names(count)
        anchors = config.anchors
        # Files do not carry anchors: those that they were trained with follow from the code that wrote them.
        if dialect.anchors_2020 and anchors.aspects_wh == ASPECTS_OFFICIAL:
            anchors = msgspec.structs.replace(anchors, aspects_wh=ASPECTS_2020)
        return replace(config, {"class_names": names, "anchors": anchors})

    def dialect_note(self, config: ModelConfig, dialect: Dialect) -> str:
        if not dialect.anchors_2020 or config.anchors.aspects_wh == ASPECTS_2020:
            return ""
        return (
            f"{dialect.name} files do not carry anchors, and {dialect.name} assumes aspects (1.4, 0.7); this model was "
            f"made for {config.anchors.aspects_wh[1:]}: set them there"
        )

    def weights_key(self, config: ModelConfig) -> object:
        """Stochastic depth and anchor sizes are left out: they do not change the weights. Nor whether pixels are told
        apart: those parts may be added to a detector."""
        backbone = msgspec.structs.replace(config.backbone, drop_path=0.0)
        anchors = config.anchors.per_cell
        return backbone, config.feature_network, config.head_layers, config.activation, anchors

    def start_config(self, wanted: ModelConfig, held: ModelConfig) -> ModelConfig:
        """A detector may start a network that adds masks, or the class of every pixel, to it."""
        added = {head: getattr(held, head) or getattr(wanted, head) for head in ("masks", "semantic")}
        return replace(held, added)

    def predictor_rows(self, name: str, config: ModelConfig) -> PredictorRows:
        if name.startswith("semantic."):
            return PredictorRows(others=1)  # the background
        return PredictorRows(groups=config.anchors.per_cell)

    def pretrained_file(self, config: ModelConfig, start: str, published: str | None) -> PublishedFile | None:
        if start == "coco":
            return detector_file(config.name)
        return backbone_file(self.published_backbone(config)) if start == "backbone" else None

    def scaled_config(self, phi: float, family: object) -> ModelConfig:
        return scaled_detector_config(phi, family_of(family))

    def recomputed_blocks(self, model: nn.Module) -> list[nn.Module]:
        from phidet.architectures.feature_networks.network import FusionNode

        fusions = (module for module in model.modules() if isinstance(module, FusionNode))
        return [*super().recomputed_blocks(model), *fusions]

    def feature_maps(self, model: EfficientDet, images: Tensor) -> Mapping[int, Tensor]:
        maps = model.feature_network(model.backbone(images))
        return dict(zip(model.config.feature_network.levels, maps, strict=True))

    def explain(
        self, model: EfficientDet, image: npt.NDArray[np.uint8], class_id: int | None, limit: int
    ) -> list[ActivationMap]:
        from phidet.architectures.efficientdet.explain import detection_maps

        return detection_maps(model, image, class_id, limit)


EFFICIENTDET = EfficientDetArchitecture()
