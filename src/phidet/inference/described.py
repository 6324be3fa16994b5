"""Detectors of other projects as ONNX files, which a short JSON file beside the network describes.

>>> detector = DescribedDetector("yolox.json")
>>> detector.detect([image])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from phidet.core.errors import CheckpointError, ConfigError, InputError
from phidet.core.numbers import sigmoid
from phidet.core.structs import from_json, require, require_one_of
from phidet.data.coco_classes import COCO_80
from phidet.detections.boxes import FloatArray, clip, cxcywh_to_xyxy
from phidet.detections.detections import Detections
from phidet.detections.nms import suppress
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import ImageLike, as_pixels, check_pixels
from phidet.images.prepare import Preprocess, fit_scale, prepare, resize
from phidet.inference.detector import Detector
from phidet.inference.runtimes.onnx_runtime import first_line, open_session, session_options

Fit = Literal["corner", "centre", "stretch"]
BoxForm = Literal["xyxy", "cxcywh", "grid"]


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a foreign detector expects and returns.

    Attributes:
        model: the ``.onnx`` file, relative to the description.
        classes: names in the order of the network's outputs, or "coco" for COCO's 80.
        size_hw: of the input in pixels.
        fit: how an image comes into the input: scaled to fit and put top left ("corner") or in the middle ("centre"),
            or "stretch".
        pad: value of the rest, 0–255.
        bgr: whether the channels are blue, green, red.
        mean, std: subtracted from, and dividing, pixels of 0–255, in the network's order of channels.
        boxes: form of the first four values of a row: pixels of the input as corners ("xyxy") or centre and size
            ("cxcywh"); or "grid" for offsets from the cell and logarithms of the size, both in units of the stride, as
            YOLOX (arXiv 2107.08430) returns.
        strides: of the levels of a grid, in the order of the rows.
        objectness: whether the fifth value is a probability that multiplies those of the classes.
        transposed: whether the output is (1, values, rows) instead of (1, rows, values).
        logits: whether probabilities are still to go through a sigmoid.
    """

    model: str
    size_hw: tuple[int, int]
    classes: Literal["coco"] | tuple[str, ...] = "coco"
    fit: Fit = "corner"
    pad: float = 114.0
    bgr: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    boxes: BoxForm = "cxcywh"
    strides: tuple[int, ...] = (8, 16, 32)
    objectness: bool = False
    transposed: bool = False
    logits: bool = False

    def __post_init__(self) -> None:
        require_one_of("fit", self.fit, Fit)
        require_one_of("boxes", self.boxes, BoxForm)
        require(min(self.size_hw) > 0, f"size_hw must be > 0, got {self.size_hw}")
        require(all(s > 0 for s in self.std), f"std must be > 0, got {self.std}")
        require(all(s > 0 for s in self.strides), f"strides must be > 0, got {self.strides}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the outputs."""
        return COCO_80 if self.classes == "coco" else tuple(self.classes)


class DescribedDetector:
    """A detector of another project; has what :class:`phidet.detections.protocol.SupportsDetect` asks for.

    Args:
        path: of the description, JSON with the fields of :class:`Description`.
        threads: of a call.

    Raises:
        InputError: there is no such file.
        ConfigError: it does not describe a detector.
        CheckpointError: the network cannot be loaded.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        try:
            self.description = from_json(path.read_bytes(), Description)
        except OSError as error:
            raise InputError(f"the description {path} cannot be read: {error.strerror or error}") from error
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        network = path.parent / self.description.model
        if not network.is_file():
            raise CheckpointError(
                f"{path} describes {network}, which is not there: 'model' is relative to the description"
            )
        self.session: ort.InferenceSession = open_session(network, session_options(threads))
        taken = self.session.get_inputs()[0]
        # Names in place of numbers are axes of any length.
        given = (1, 3, *self.description.size_hw)
        if len(taken.shape) != 4 or any(isinstance(n, int) and n != m for n, m in zip(taken.shape, given, strict=True)):
            raise ConfigError(f"{path}: {network.name} takes {taken.shape}, and its size_hw describes {list(given)}")
        self.input = taken.name
        self.class_names = self.description.class_names

    def __call__(self, image: ImageLike, settings: PostprocessSettings | None = None) -> Detections:
        """The objects in an image: a path, a Pillow image, or an array (H, W, 3) uint8 RGB.

        Raises:
            InputError, CheckpointError: as :meth:`detect`; the image cannot be read.
        """
        return self._detect(as_pixels(image), settings or PostprocessSettings()).of_image(image)

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        """The objects in each of a batch of images, (H, W, 3) uint8 RGB, in pixels of the image.

        Raises:
            InputError: an array of another kind.
            CheckpointError: the network fails, or returns something other than described, or NaN.
        """
        return [self._detect(check_pixels(array), settings or PostprocessSettings()) for array in arrays]

    def _detect(self, image: npt.NDArray[np.uint8], settings: PostprocessSettings) -> Detections:
        array, scale_xy, offset_xy = self._prepare(image)
        try:
            raw = self.session.run(None, {self.input: array[None]})[0]
        except Exception as error:  # the classes differ from version to version
            raise CheckpointError(f"{self.description.model} cannot be run: {first_line(error)}") from error
        boxes, probabilities = self._decode(np.asarray(raw, np.float32))
        shift, scale = np.tile(offset_xy, 2), np.tile(scale_xy, 2)  # of x1, y1, x2, y2
        boxes = clip(np.asarray((boxes - shift) / scale, np.float32), (image.shape[0], image.shape[1]))
        # As our own decoders: each pair of a row and a class, or of each row its best class.
        if settings.multi_class:
            rows, class_ids = np.nonzero(probabilities >= settings.least_score)
        else:
            class_ids = probabilities.argmax(1)
            rows = np.flatnonzero(probabilities[np.arange(len(class_ids)), class_ids] >= settings.least_score)
            class_ids = class_ids[rows]
        self._check(boxes[rows], probabilities)
        scores = probabilities[rows, class_ids]
        # Suppression compares pairs: only the best ones go into it.
        best = np.argsort(-scores, kind="stable")[: settings.candidates]
        rows, class_ids, scores = rows[best], class_ids[best], scores[best]
        kept, scores = suppress(boxes[rows], scores, class_ids, settings)
        found = Detections(boxes[rows][kept], scores, class_ids[kept], self.class_names, image.shape[:2])
        return found if settings.classes is None else found[np.isin(found.labels, settings.classes)]

    def _check(self, boxes: FloatArray, probabilities: FloatArray) -> None:
        """Whether the answer is made of numbers, and the (N, 4) boxes that are used have the corners in order."""
        # A NaN is neither above nor below a score: unchecked, a broken network would be one that finds nothing.
        if np.isnan(probabilities).any() or np.isnan(boxes).any():
            raise CheckpointError(f"{self.description.model} returns NaN instead of numbers")
        if (boxes[:, 2:] < boxes[:, :2]).any():
            raise CheckpointError(
                f"{self.description.model} returns boxes with x2 < x1 or y2 < y1 when read as described, "
                f"boxes {self.description.boxes!r}: describe another form"
            )

    def _prepare(self, image: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(3, H, W) input, and where the image lies in it: its scale (x, y) and its offset (x, y) in pixels."""
        about, size_hw = self.description, self.description.size_hw
        height, width = image.shape[:2]
        # Of each axis: stretching scales them differently.
        scale = np.full(2, fit_scale((height, width), size_hw), np.float32)
        offset = np.zeros(2, np.float32)
        if about.fit == "stretch":
            scale = np.array([size_hw[1] / width, size_hw[0] / height], np.float32)
            array = resize(image, size_hw).transpose(2, 0, 1)
        else:
            # Padding is 0 after the mean is subtracted, so that a mean of ``pad`` makes it ``pad``.
            array, _ = prepare(image, size_hw, Preprocess(mean_rgb=(about.pad,) * 3, std_rgb=(1.0,) * 3))
            array = array + np.float32(about.pad)
            if about.fit == "centre":
                offset = np.array([(size_hw[1] - width * scale[0]) // 2, (size_hw[0] - height * scale[1]) // 2])
                # The image was put top left, and what is rolled out on one side is padding.
                array = np.roll(array, (int(offset[1]), int(offset[0])), (1, 2))
        # Mean and deviation are in the network's order of channels, so these are turned first.
        channels = array[::-1] if about.bgr else array
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (about.mean, about.std))
        return np.ascontiguousarray((channels - mean) / std, np.float32), scale, offset.astype(np.float32)

    def _decode(self, raw: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(R, 4) boxes in pixels of the input as corners, (R, C) probabilities."""
        about, extra = self.description, 5 if self.description.objectness else 4
        # Checked before anything is read of it: another order of axes would give boxes that only look wrong.
        expected = extra + len(self.class_names)
        if raw.ndim != 3 or raw.shape[1 if about.transposed else 2] != expected:
            raise CheckpointError(
                f"{about.model} returns {raw.shape}, expected rows of {expected} values: 4 for a box, "
                f"{'1 for objectness, ' if about.objectness else ''}{len(self.class_names)} classes"
            )
        values = raw[0].T if about.transposed else raw[0]
        probabilities = values[:, extra:]
        objectness = values[:, 4:5]
        if about.logits:
            probabilities, objectness = sigmoid(probabilities), sigmoid(objectness)
        if about.objectness:
            probabilities = probabilities * objectness
        boxes = self._from_grid(values[:, :4]) if about.boxes == "grid" else values[:, :4]
        if about.boxes != "xyxy":
            boxes = cxcywh_to_xyxy(boxes)
        return boxes, np.clip(probabilities, 0, 1)

    def _from_grid(self, values: FloatArray) -> FloatArray:
        """Centres and sizes in pixels from offsets and logarithms in units of each level's stride."""
        height, width = self.description.size_hw
        cells, strides = [], []
        for stride in self.description.strides:
            rows, columns = np.mgrid[: height // stride, : width // stride].reshape(2, -1)
            cells.append(np.stack([columns, rows], 1))
            strides.append(np.full((len(rows), 1), stride))
        cell, stride_of = np.concatenate(cells), np.concatenate(strides).astype(np.float32)
        if len(cell) != len(values):
            raise CheckpointError(
                f"{self.description.model} returns {len(values)} rows, and strides {self.description.strides} at "
                f"{height}×{width} have {len(cell)} cells"
            )
        # Clipped, as the logarithm of an untrained network's size may overflow.
        sizes = np.exp(np.clip(values[:, 2:], -20, 20)) * stride_of
        return np.concatenate([(values[:, :2] + cell) * stride_of, sizes], 1).astype(np.float32)


class _Names(msgspec.Struct):
    """What every description has, and no other JSON file of models or detections."""

    model: str
    size_hw: tuple[int, int]


def is_description(model: str | Path) -> bool:
    """Whether ``model`` is the description of a detector, and not, for instance, a file of detections."""
    path = Path(model)
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        from_json(path.read_bytes(), _Names)
    except ConfigError:
        return False
    return True


def open_detector(model: str | Path, threads: int | None = None) -> SupportsDetect:
    """The detector that ``model`` names: any model of phidet, or the description (.json) of another project's.

    Raises:
        InputError, ConfigError, CheckpointError, MissingExtraError: as the two classes.
    """
    if Path(model).suffix.lower() == ".json":
        return DescribedDetector(model, threads)
    return Detector(model, threads=threads)
