"""What ``phidet info`` says of a classifier, as plain data."""

from __future__ import annotations

import msgspec

from phidet.architectures.classifier.config import ClassifierConfig
from phidet.architectures.costs import Cost, count_costs, total
from phidet.architectures.efficientdet.published_figures import (
    CLASSIFIERS,
    PublishedClassifier,
)
from phidet.images.prepare import Preprocess


class ClassifierReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``phidet info`` prints of a classifier."""

    name: str
    input_hw: tuple[int, int]
    num_classes: int
    preprocess: Preprocess
    parts: dict[str, Cost]
    total: Cost
    published: PublishedClassifier | None


def describe_classifier(config: ClassifierConfig, input_hw: tuple[int, int] | None = None) -> ClassifierReport:
    """Costs of a classifier at ``input_hw``, its own size by default."""
    size = input_hw or config.image_size_hw
    parts = count_costs(config, size)
    comparable = size == config.image_size_hw and config.num_classes == 1000
    return ClassifierReport(
        name=config.name,
        input_hw=size,
        num_classes=config.num_classes,
        preprocess=config.preprocess,
        parts=parts,
        total=total(parts),
        published=CLASSIFIERS.get(config.name) if comparable else None,
    )
