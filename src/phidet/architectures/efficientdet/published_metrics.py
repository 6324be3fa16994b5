"""The metrics and costs that the papers and the official repository publish, to stand beside ours."""

from __future__ import annotations

import msgspec


class PublishedDetector(msgspec.Struct, frozen=True):
    """EfficientDet, arXiv 1911.09070 v7, table 2, and the official repository for Lite and validation AP.

    Attributes:
        parameters: with the 90-slot COCO head.
        multiply_adds_billion: at the model's input size.
        ap_test, ap_val: COCO AP on test-dev and val.
        v100_ms: batch 1 on a V100, in milliseconds.
    """

    parameters: int | None
    multiply_adds_billion: float | None
    ap_test: float | None
    ap_val: float
    v100_ms: float | None


DETECTORS: dict[str, PublishedDetector] = {
    "efficientdet-d0": PublishedDetector(3_880_067, 2.54, 34.6, 34.3, 10.2),
    "efficientdet-d1": PublishedDetector(6_625_898, 6.10, 40.5, 40.2, 13.5),
    "efficientdet-d2": PublishedDetector(8_097_039, 11.0, 43.9, 43.5, 17.7),
    "efficientdet-d3": PublishedDetector(12_032_296, 24.9, 47.2, 46.8, 28.0),
    "efficientdet-d4": PublishedDetector(20_723_675, 55.2, 49.7, 49.3, 42.8),
    "efficientdet-d5": PublishedDetector(33_653_315, 130.0, 51.5, 51.2, 72.5),
    "efficientdet-d6": PublishedDetector(51_871_782, 226.0, 52.6, 52.1, 92.8),
    "efficientdet-d7": PublishedDetector(51_871_782, 325.0, 53.7, 53.4, 122.0),
    "efficientdet-d7x": PublishedDetector(77_147_166, 410.0, 55.1, 54.4, 153.0),
    "efficientdet-lite0": PublishedDetector(3_243_470, None, None, 26.4, None),
    "efficientdet-lite1": PublishedDetector(None, None, None, 31.5, None),
    "efficientdet-lite2": PublishedDetector(None, None, None, 35.1, None),
    "efficientdet-lite3": PublishedDetector(None, None, None, 38.8, None),
    "efficientdet-lite3x": PublishedDetector(None, None, None, 42.6, None),
    "efficientdet-lite4": PublishedDetector(None, None, None, 43.2, None),
}


NECKS: dict[str, tuple[float, float, float]] = {
    "fpn": (42.29, 1.0, 1.0),
    "panet": (44.08, 1.0, 1.0),
    "nas-fpn": (43.16, 0.71, 0.72),
    "fully-connected-fpn": (43.06, 1.24, 1.21),
    "bifpn/sum": (43.94, 0.88, 0.67),
    "bifpn/fast": (44.39, 0.88, 0.68),
}
"""EfficientDet, section 6.2: AP, and parameters and multiply-adds relative to repeated top-down FPN."""
