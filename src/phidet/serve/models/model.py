"""The interface of a loaded model for the server, and its implementation by a detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from phidet.core.errors import CheckpointError
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from phidet.detections.thresholds import Thresholds
from phidet.images.decode import Decoded
from phidet.inference.detector import Detector

MODEL_FILES = ("*.onnx", "*.xml", "*.tflite")
"""What a version folder may hold: ONNX, OpenVINO with the ``.bin`` beside it, or TFLite. None runs code when read."""


class Model(Protocol):
    """What is served. ``detect`` may be called by several threads at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes."""

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """The network's input."""

    @property
    def max_detections(self) -> int:
        """Limit of detections in an image; answers are padded to it."""

    @property
    def finds(self) -> frozenset[str]:
        """What answers have beside boxes: "masks", "segments"."""

    @property
    def runtime_name(self) -> str:
        """Name of the runtime that runs it."""

    @property
    def thresholds(self) -> Thresholds | None:
        """The best score of each class, where the model stores them."""

    def detect(self, images: Sequence[Decoded]) -> list[Detections]:
        """One batch of images of any sizes; each answer is the same alone or in a batch."""

    def close(self) -> None:
        """Gives memory and threads back."""


Load = Callable[[Path], Model]
"""Opens the model file of a version folder; may raise anything."""


def model_file(version_folder: Path, base_path: Path) -> Path:
    """The one model file in a version folder. Hidden files (``._model.onnx`` of macOS) are ignored.

    Raises:
        CheckpointError: none or several, or a link that leads out of ``base_path``.
    """
    files = (path for pattern in MODEL_FILES for path in version_folder.glob(pattern))
    found = sorted(path for path in files if not path.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(f"{version_folder} must hold one model file ({' or '.join(MODEL_FILES)}), found {names}")
    # A link could otherwise make the server load files from anywhere on the machine.
    if not found[0].resolve().is_relative_to(base_path.resolve()):
        raise CheckpointError(f"{found[0]} leads out of {base_path}: models are loaded only from their folder")
    return found[0]


class DetectorModel:
    """A :class:`phidet.inference.detector.Detector` with the settings that the server gives to every image."""

    def __init__(self, detector: Detector, settings: PostprocessSettings) -> None:
        self._detector = detector
        self._settings = settings
        self.class_names = detector.class_names
        self.image_size_hw = detector.config.image_size_hw
        # Fixed when the model is loaded: it decides the shapes of all answers.
        self.max_detections = settings.max_detections
        self.finds = detector.architecture.finds(detector.config)
        self.runtime_name = detector.runtime_name
        self.thresholds = detector.thresholds
        detector.check(settings)
        self.needed_hw = detector.needed_hw

    def detect(self, images: Sequence[Decoded]) -> list[Detections]:
        """As :meth:`Model.detect`."""
        return self._detector.detect(images, self._settings)

    def close(self) -> None:
        """As :meth:`Model.close`."""
        self._detector.close()


def detector_loader(settings: PostprocessSettings, open_detector: Callable[[Path], Detector] = Detector) -> Load:
    """What opens model files for the server.

    Args:
        settings: of every image.
        open_detector: says how models run, as ``partial(Detector, threads=2)``.
    """
    return lambda path: DetectorModel(open_detector(path), settings)
