"""phidet: object detection that scales with one number, φ.

>>> import phidet
>>> model = phidet.create_model("efficientdet-d0", num_classes=3)
>>> detections = phidet.Detector("person")("photo.jpg")

Everything is imported when it is first used; what needs PyTorch names the extra to install where that is missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from phidet.core.errors import MissingExtraError, PhidetError
from phidet.core.extras import __version__, extra_of
from phidet.core.moved import install as keep_old_module_paths
from phidet.core.privacy import disable_usage_reports

if TYPE_CHECKING:
    from phidet.detections.alignment.settings import AlignSettings
    from phidet.detections.detections import Detections
    from phidet.detections.results import ImageResult, read_results
    from phidet.detections.settings import PostprocessSettings
    from phidet.detections.tracking.settings import TrackerSettings
    from phidet.detections.tracking.tracker import Tracker
    from phidet.inference.align import align
    from phidet.inference.detector import Detector
    from phidet.inference.relations import Relations
    from phidet.training.run import train
    from phidet.weights.convert import convert
    from phidet.weights.create import create_classifier, create_model
    from phidet.weights.native import load_model, save_model


disable_usage_reports()
keep_old_module_paths()

_LAZY = {
    "align": "phidet.inference.align",
    "AlignSettings": "phidet.detections.alignment.settings",
    "train": "phidet.training.run",
    "Detections": "phidet.detections.detections",
    "Detector": "phidet.inference.detector",
    "ImageResult": "phidet.detections.results",
    "PostprocessSettings": "phidet.detections.settings",
    "Relations": "phidet.inference.relations",
    "Tracker": "phidet.detections.tracking.tracker",
    "TrackerSettings": "phidet.detections.tracking.settings",
    "create_model": "phidet.weights.create",
    "create_classifier": "phidet.weights.create",
    "load_model": "phidet.weights.native",
    "save_model": "phidet.weights.native",
    "convert": "phidet.weights.convert",
    "read_results": "phidet.detections.results",
}

__all__ = [
    "AlignSettings",
    "Detections",
    "Detector",
    "ImageResult",
    "MissingExtraError",
    "PhidetError",
    "PostprocessSettings",
    "Relations",
    "Tracker",
    "TrackerSettings",
    "__version__",
    "align",
    "convert",
    "create_classifier",
    "create_model",
    "load_model",
    "read_results",
    "save_model",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'phidet' has no attribute {name!r}")
    try:
        return getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is not None:
            raise MissingExtraError(f"phidet.{name}", extra) from None
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
