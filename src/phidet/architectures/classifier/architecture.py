"""Image classifiers behind the interface of architectures."""

# What needs PyTorch is imported when it is called.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.architectures.backbones.config import BackboneArchitecture, backbone_summary
from phidet.architectures.backbones.on_backbone import OnBackbone
from phidet.architectures.backbones.published_files import backbone_file
from phidet.architectures.backbones.scaling import CompoundScaling
from phidet.architectures.base import Decoder, Loss
from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.classifier.decode import ImageDecoder
from phidet.architectures.classifier.published import CLASSIFIER_NAMES, classifier_config, scaled_classifier_config
from phidet.architectures.classifier.published_metrics import CLASSIFIERS
from phidet.architectures.config import default_class_names
from phidet.architectures.prepared import Placement, Prepared
from phidet.architectures.published_file import PublishedFile
from phidet.architectures.rows import PredictorRows
from phidet.core.structs import replace

if TYPE_CHECKING:
    from torch import Tensor

    from phidet.architectures.classifier.network import Classifier
    from phidet.architectures.dialect import Dialect
    from phidet.architectures.evidence import ActivationMap


class ClassifierArchitecture(OnBackbone[ClassifierConfig]):
    """A backbone with EfficientNet's head (arXiv 1905.11946)."""

    name = "classifier"
    config_type = ClassifierConfig
    says = frozenset({"classes"})
    published_names = CLASSIFIER_NAMES
    loss_settings = MappingProxyType({"label_smoothing": 0.0})
    predictors = ("linear.",)
    extra_head = (
        "head.conv.weight",
        *(f"head.bn.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")),
        "linear.weight",
        "linear.bias",
    )
    takes_foreign_backbones = False
    pretrained_words = ("imagenet",)

    def published_config(self, name: str, class_names: tuple[str, ...] | None = None) -> ClassifierConfig:
        return classifier_config(name, class_names)

    def summary(self, config: ClassifierConfig) -> list[tuple[str, str]]:
        return [("backbone", backbone_summary(config.backbone))]

    def published_metrics(self, config: ClassifierConfig) -> object | None:
        return CLASSIFIERS.get(config.name) if config.num_classes == 1000 else None

    def output_shapes(self, config: ClassifierConfig) -> dict[str, tuple[int, ...]]:
        return {"class_logits": (config.num_classes,)}

    def prepare(self, config: ClassifierConfig, image: npt.NDArray[np.uint8]) -> Prepared:
        """The middle of the image, as ImageNet is evaluated. Needs PyTorch: its resizing made the published metrics."""
        from phidet.architectures.classifier.middle import classifier_input

        return Prepared(classifier_input(image, config).numpy(), Placement(1.0, (image.shape[0], image.shape[1])))

    def needed_hw(self, config: ClassifierConfig, image_hw: tuple[int, int]) -> tuple[int, int]:
        return image_hw

    def decoder(self, config: ClassifierConfig) -> Decoder:
        return ImageDecoder(config)

    def build(self, config: ClassifierConfig) -> Classifier:
        from phidet.architectures.classifier.network import Classifier

        return Classifier(config)

    def loss(self, config: ClassifierConfig, settings: Mapping[str, Any]) -> Loss:
        from phidet.architectures.classifier.loss import ClassLoss

        return ClassLoss(**settings)

    def named_outputs(self, outputs: Any) -> dict[str, Tensor]:
        return {"class_logits": outputs}

    def dialects(self) -> tuple[Dialect, ...]:
        from phidet.architectures.backbones.dialects import LUKEMELAS, TIMM, TORCHVISION

        return TIMM, LUKEMELAS, TORCHVISION

    def adapt_config(
        self, config: ClassifierConfig, find: Callable[[str], Tensor | None], dialect: Dialect
    ) -> ClassifierConfig:
        """The class count of the file; a file of a backbone without a last layer changes nothing."""
        bias = find("linear.bias")
        if bias is None or bias.numel() == config.num_classes:
            return config
        return replace(config, {"class_names": default_class_names(bias.numel())})

    def weights_key(self, config: ClassifierConfig) -> object:
        return msgspec.structs.replace(config.backbone, drop_path=0.0), config.head_channels

    def predictor_rows(self, name: str, config: ClassifierConfig) -> PredictorRows:
        return PredictorRows()

    def pretrained_file(self, config: ClassifierConfig, start: str, published: str | None) -> PublishedFile | None:
        return backbone_file(config.name) if start == "imagenet" else None

    def scaled_config(self, phi: float, family: object) -> ClassifierConfig:
        """``family`` is a pair (backbone architecture, α, β and γ), as :attr:`Family.architecture` and ``compound``."""
        architecture, compound = cast("tuple[BackboneArchitecture, CompoundScaling]", family)
        return scaled_classifier_config(phi, architecture, compound)

    def class_names(self, config: ClassifierConfig) -> tuple[str, ...]:
        """ImageNet's where the config has a thousand classes without names."""
        if config.class_names != default_class_names(1000):
            return config.class_names
        from phidet.architectures.classifier.explain import imagenet_names

        return imagenet_names()

    def explain(
        self, model: Classifier, image: npt.NDArray[np.uint8], class_id: int | None, limit: int
    ) -> list[ActivationMap]:
        from phidet.architectures.classifier.explain import classifier_maps

        return classifier_maps(model, image, self.class_names(model.config), class_id, limit)


CLASSIFIER = ClassifierArchitecture()
