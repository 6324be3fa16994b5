"""Images against a nominal list or an image of a right assembly: from files to places and verdicts.

>>> result = align("board.csv", "photo.jpg", "runs/parts")
>>> [part.reference for part in result.parts if part.verdict == "missing"]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError, InputError
from phidet.data.nominal_file import NominalOptions, read_nominal
from phidet.detections.alignment.alignment import Refine, align_detections, without_doubles
from phidet.detections.alignment.nominal import Nominal, nominal_of
from phidet.detections.alignment.refine import centroid_refiner, template_refiner
from phidet.detections.alignment.registration import register_image
from phidet.detections.alignment.results import Alignment
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import ImageLike, as_pixels
from phidet.images.formats import EXTENSIONS
from phidet.inference.detector import Detector
from phidet.inference.tiles import detect_one

Pixels = npt.NDArray[np.uint8]


class Aligner:
    """A nominal list, a detector and settings, for any number of images.

    Args:
        nominal: a list (CSV, text or JSON: :mod:`phidet.data.nominal_file`), an image of a right assembly, on which
            the same detector finds the nominal parts, or a :class:`Nominal`.
        detector: finds the parts.
        settings: what counts as right.
        postprocess: thresholds of the detector; by default those of :class:`PostprocessSettings`, with room for twice
            as many detections as there are parts.
        options: what the list does not say.
        classes: what labels mean: label, or first letters of references, to class name.
        tile: side of tiles in pixels for sliced inference; ``None`` for whole images.

    Attributes:
        nominal: the parts that are looked for.
        left_out: number of listed parts whose labels are no classes of the detector.
        detector: as given.
        settings: as given.
        postprocess: thresholds in use.

    Raises:
        InputError: a list or image that cannot be read; the message names file, line and column.
        ConfigError: labels that the detector does not know, or settings that do not go together.
    """

    def __init__(
        self,
        nominal: Nominal | str | Path,
        detector: SupportsDetect,
        settings: AlignSettings | None = None,
        postprocess: PostprocessSettings | None = None,
        *,
        options: NominalOptions | None = None,
        classes: dict[str, str] | None = None,
        tile: int | None = None,
    ) -> None:
        self.detector = detector
        self.settings = settings or AlignSettings()
        self.postprocess = postprocess or PostprocessSettings()
        self._tile = tile
        self._template: Pixels | None = None
        # An image of a right assembly is told from a list by its ending, as image files are everywhere.
        if not isinstance(nominal, Nominal) and Path(nominal).suffix.lower() in EXTENSIONS:
            listed = self._read_template(Path(nominal))
        else:
            listed = nominal if isinstance(nominal, Nominal) else read_nominal(Path(nominal), options)
        # An empty list has no labels that could be wrong; that nothing is on it is said where it is aligned.
        self.nominal = listed.with_classes(detector.class_names, classes) if len(listed) else listed
        self.left_out = len(listed) - len(self.nominal)
        from_image = self.settings.refine == "template" or self.settings.pose_from == "image"
        if from_image and self._template is None:
            raise ConfigError(
                "refining by template, and poses from the image, need an image of a right assembly as the nominal list"
            )
        # The detector's own limit would hide parts of a long list; twice as many leave room for false ones.
        most = max(self.postprocess.max_detections, 2 * len(self.nominal))
        self.postprocess = msgspec.structs.replace(self.postprocess, max_detections=most)

    def __call__(self, image: ImageLike, name: str | None = None) -> Alignment:
        """Detects on one image, a path or pixels, and aligns it; ``name`` is for the result.

        Raises:
            InputError: it cannot be read.
        """
        pixels = as_pixels(image)
        shown = name if name is not None else str(image) if isinstance(image, str | Path) else ""
        return self.align(pixels, self._detect(pixels), shown)

    def align(self, pixels: Pixels, found: Detections, name: str = "") -> Alignment:
        """Aligns detections at hand; ``pixels`` are of the image that they were found in."""
        # Refiners look at pixels, and so belong to one image.
        refine: Refine | None = None
        if self.settings.refine == "centroid":
            refine = centroid_refiner(pixels)
        elif self.settings.refine == "template" and self._template is not None:
            refine = template_refiner(pixels, self._template)
        located = None
        if self.settings.pose_from == "image" and self._template is not None:
            located = register_image(self._template, pixels, self.settings)
        return align_detections(self.nominal, found, self.settings, image=name, refine=refine, located=located)

    def _detect(self, pixels: Pixels) -> Detections:
        return detect_one(self.detector, pixels, self._tile, self.postprocess)

    def _read_template(self, path: Path) -> Nominal:
        self._template = as_pixels(path)
        # An image does not say how many parts it has, so there is room for many.
        most = max(self.postprocess.max_detections, 2000)
        self.postprocess = msgspec.structs.replace(self.postprocess, max_detections=most)
        found = without_doubles(self._detect(self._template))
        if not len(found) and self.settings.pose_from == "parts":
            raise InputError(f"{path}: the model finds no parts on the image of a right assembly")
        return nominal_of(found, str(path))


@overload
def align(
    nominal: Nominal | str | Path,
    images: ImageLike,
    model: str | Path | SupportsDetect,
    settings: AlignSettings | None = None,
    *,
    classes: dict[str, str] | None = None,
) -> Alignment: ...


@overload
def align(
    nominal: Nominal | str | Path,
    images: list[Any] | tuple[Any, ...],
    model: str | Path | SupportsDetect,
    settings: AlignSettings | None = None,
    *,
    classes: dict[str, str] | None = None,
) -> list[Alignment]: ...


def align(
    nominal: Nominal | str | Path,
    images: ImageLike | list[Any] | tuple[Any, ...],
    model: str | Path | SupportsDetect,
    settings: AlignSettings | None = None,
    *,
    classes: dict[str, str] | None = None,
) -> Alignment | list[Alignment]:
    """Finds parts on images and compares them with where they should be.

    Args:
        nominal: a pick-and-place list (CSV, text, JSON), an image of a right assembly, or a :class:`Nominal`.
        images: paths, Pillow images, or arrays (H, W, 3) uint8 RGB; one or a list.
        model: a model file, run folder or published name; or a detector.
        settings: what counts as right; those of :class:`AlignSettings` unless given.
        classes: what labels mean: label, or first letters of references ("R"), to class name.

    Returns:
        One :class:`~phidet.detections.alignment.results.Alignment` for an image, a list of them for a list.

    Raises:
        InputError: a list or an image that cannot be read; the message names file, line and column.
        ConfigError: labels that the model does not know.
        MissingExtraError: SciPy is not installed.
    """
    detector = Detector(model) if isinstance(model, str | Path) else model
    aligner = Aligner(nominal, detector, settings, classes=classes)
    # One aligner for all of them: the list and the model are read once.
    if isinstance(images, list | tuple):
        return [aligner(image) for image in images]
    return aligner(images)
