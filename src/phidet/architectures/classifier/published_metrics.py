"""Metrics reported in EfficientNet's paper (arXiv 1905.11946)."""

from __future__ import annotations

import msgspec


class PublishedClassifier(msgspec.Struct, frozen=True):
    """EfficientNet, arXiv 1905.11946 v5, table 2: parameters and multiply-adds as printed, ImageNet top-1 in %."""

    parameters_million: float
    multiply_adds_billion: float
    top1: float


CLASSIFIERS: dict[str, PublishedClassifier] = {
    "efficientnet-b0": PublishedClassifier(5.3, 0.39, 77.1),
    "efficientnet-b1": PublishedClassifier(7.8, 0.70, 79.1),
    "efficientnet-b2": PublishedClassifier(9.2, 1.0, 80.1),
    "efficientnet-b3": PublishedClassifier(12.0, 1.8, 81.6),
    "efficientnet-b4": PublishedClassifier(19.0, 4.2, 82.9),
    "efficientnet-b5": PublishedClassifier(30.0, 9.9, 83.6),
    "efficientnet-b6": PublishedClassifier(43.0, 19.0, 84.0),
    "efficientnet-b7": PublishedClassifier(66.0, 37.0, 84.3),
}
