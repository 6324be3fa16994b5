"""The set predictor behind the interface of architectures."""

# What needs PyTorch is imported when it is called: a deployed detector has none.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.architectures.backbones.config import backbone_summary
from phidet.architectures.backbones.on_backbone import OnBackbone
from phidet.architectures.backbones.published_files import backbone_file
from phidet.architectures.base import Decoder, Loss
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.rows import PredictorRows
from phidet.architectures.setdet.config import SetDetConfig
from phidet.architectures.setdet.decode import SetDecoding
from phidet.architectures.setdet.loss_config import LossConfig
from phidet.architectures.setdet.published import (
    FAMILIES,
    SETDET_NAMES,
    family_of,
    named_config,
    scaled_config,
)
from phidet.core.numbers import sigmoid
from phidet.core.structs import convert, replace
from phidet.data.coco_classes import COCO_CLASS_NAMES
from phidet.detections.boxes import FloatArray, cxcywh_to_xyxy, pairwise_iou

if TYPE_CHECKING:
    from torch import Tensor, nn

    from phidet.architectures.batch import Batch
    from phidet.architectures.evidence import ActivationMap
    from phidet.architectures.program import Program
    from phidet.architectures.setdet.network import SetDet


COMPARED = 25
"""Number of an image's best answers on which an export is compared with PyTorch."""


class SetDetArchitecture(OnBackbone[SetDetConfig]):
    """Queries from EfficientDet's maps."""

    name = "setdet"
    config_type = SetDetConfig
    published_names = SETDET_NAMES
    family_names = tuple(FAMILIES)
    loss_settings = msgspec.structs.asdict(LossConfig())
    predictors = ("decoder.cell_class.", "decoder.classes.", "decoder.noisy_class.", "dense_head.classes.")
    pretrained_words = ("backbone",)
    suppresses = False

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> SetDetConfig:
        return named_config(name, class_names or COCO_CLASS_NAMES)

    def output_shapes(self, config: SetDetConfig) -> dict[str, tuple[int, ...]]:
        queries = config.decoder.queries
        return {"class_logits": (queries, config.num_classes), "boxes_cxcywh": (queries, 4)}

    def decoder(self, config: SetDetConfig) -> Decoder:
        return SetDecoding(config)

    def recipe_fields(self, name: str, num_images: int) -> Mapping[str, Any]:
        """Larger batches, at most a tenth of the images, at a rate that suits them; see decision 18."""
        return {"batch_size": min(16, max(8, num_images // 10)), "learning_rate": 0.004} if name == "auto" else {}

    def build(self, config: SetDetConfig) -> SetDet:
        from phidet.architectures.setdet.network import SetDet

        return SetDet(config)

    def loss(self, config: SetDetConfig, settings: Mapping[str, Any]) -> Loss:
        from phidet.architectures.setdet.losses import SetDetLoss

        return SetDetLoss(self._loss_config(settings))

    def lower(self, model: SetDet) -> Program:
        from phidet.architectures.setdet.lower import compile_program

        return compile_program(model)

    def agreement(
        self, config: SetDetConfig, ours: Mapping[str, FloatArray], theirs: Mapping[str, FloatArray]
    ) -> tuple[float, float]:
        """Compares the answers that PyTorch is most certain of, each with the other's answer that overlaps it most.

        Not row by row: a set has no order, and rounding moves what is chosen from similar cells to other rows.
        """
        own, other = sigmoid(ours["class_logits"]), sigmoid(theirs["class_logits"])
        best = np.argsort(-own.max(1), kind="stable")[:COMPARED]
        classes = own[best].argmax(1)
        boxes, others = (cxcywh_to_xyxy(outputs["boxes_cxcywh"]) for outputs in (ours, theirs))
        overlaps = pairwise_iou(boxes[best], others)
        partner = overlaps.argmax(1)
        difference = np.abs(other[partner, classes] - own[best, classes])
        return float(difference.mean()), float(overlaps.max(1).mean())

    def training_outputs(self, model: Any, images: Tensor, batch: Batch, settings: Mapping[str, Any]) -> Any:
        from phidet.architectures.setdet.denoising import Noise
        from phidet.architectures.setdet.losses import input_targets

        loss = self._loss_config(settings)
        return model(images, input_targets(batch), Noise(loss.denoising, loss.label_noise, loss.box_noise))

    def _loss_config(self, settings: Mapping[str, Any]) -> LossConfig:
        return convert(settings, LossConfig, f"loss of {self.name}")

    def predictor_rows(self, name: str, config: SetDetConfig) -> PredictorRows:
        # Behind the classes, denoising has one that says nothing.
        return PredictorRows(others=int(name.startswith("decoder.noisy_class.")))

    def pretrained_file(self, config: SetDetConfig, start: str, published: str | None) -> PublishedFile | None:
        return backbone_file(self.published_backbone(config)) if start == "backbone" else None

    def weights_key(self, config: SetDetConfig) -> object:
        """Stochastic depth and the number of queries are left out: they do not change the weights."""
        backbone = replace(config.backbone, {"drop_path": 0.0})
        decoder = replace(config.decoder, {"queries": 1})
        return backbone, config.encoder_layers, config.feature_network, decoder, config.activation

    def feature_maps(self, model: SetDet, images: Tensor) -> Mapping[int, Tensor]:
        return dict(zip(model.config.feature_network.levels, model.features(images), strict=True))

    def scaled_config(self, phi: float, family: object) -> SetDetConfig:
        return scaled_config(phi, family_of(family))

    def recomputed_blocks(self, model: nn.Module) -> list[nn.Module]:
        from phidet.architectures.feature_networks.network import FusionNode

        fusions = (module for module in model.modules() if isinstance(module, FusionNode))
        return [*super().recomputed_blocks(model), *fusions]

    def explain(
        self, model: SetDet, image: npt.NDArray[np.uint8], class_id: int | None, limit: int
    ) -> list[ActivationMap]:
        from phidet.architectures.setdet.explain import object_maps

        return object_maps(model, image, class_id, limit)

    def explain_point(
        self, model: SetDet, image: npt.NDArray[np.uint8], point_xy: tuple[float, float]
    ) -> ActivationMap:
        from phidet.architectures.setdet.explain import point_map

        return point_map(model, image, point_xy)

    def summary(self, config: SetDetConfig) -> list[tuple[str, str]]:
        network, decoder = config.feature_network, config.decoder
        graph = network.resolved_graph.name
        return [
            ("backbone", backbone_summary(config.backbone)),
            ("encoder", f"attention within level 5, ×{config.encoder_layers}"),
            ("feature network", f"{graph}, {network.fusion} fusion, {network.channels} channels, ×{network.repeats}"),
            ("decoder", f"{decoder.queries} queries of {decoder.width} channels, {decoder.layers} layers"),
            ("attention", f"{decoder.heads} heads, {decoder.points} points of each level"),
        ]


SETDET = SetDetArchitecture()
