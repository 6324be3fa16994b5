"""Augmentation by a function of the user's own, checked after every call.

>>> def darker(labelled, rng):
...     return labelled._replace(image=(labelled.image * rng.uniform(0.5, 1)).astype("uint8"))
>>> phidet.train("my-photos", augment=darker)

On the command line it is ``--augment MODULE:FUNCTION``. A name is imported only where the user gives it, never because
a file (a recipe, a run's description) holds it: importing runs code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from traceback import extract_tb
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from phidet.core.errors import ConfigError
from phidet.training.augmentation.mask_tensors import UNKNOWN
from phidet.training.augmentation.operations import Sample, place


class LabelledImage(NamedTuple):
    """What an augmentation gets and returns; arrays are its own, it may write to them.

    Attributes:
        image: (H, W, 3) uint8 RGB: what of the image is seen by the network, before colours and padding. An answer may
            be smaller, but not larger than the network's input.
        boxes_xyxy: (N, 4) float32 in pixels of ``image``, inside it.
        class_ids: (N,) int64, 0…C−1.
        masks: (N, H, W) uint8: 1 is the object, 0 is not, 255 everywhere of an object that has only a box; ``None``
            where the network learns no masks.
    """

    image: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    masks: npt.NDArray[np.uint8] | None = None


class AugmentFunction(Protocol):
    """An augmentation of one's own. All chance must come from ``rng``: then runs with one seed are equal, however many
    processes load images, and a resumed run sees what it would have seen.
    """

    def __call__(self, labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage: ...


class OwnAugmentation:
    """A function of the user's own on its way through training.

    Args:
        function: what to call; of a module, so that processes that load images find it.
        name: "module:function".

    Attributes:
        name: see above.
    """

    def __init__(self, function: AugmentFunction, name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, sample: Sample, limit_hw: tuple[int, int], num_classes: int, rng: np.random.Generator) -> Sample:
        """The sample after the function.

        Args:
            sample: is not changed.
            limit_hw: the largest height and width that an answer may have.
            num_classes: C.
            rng: the only source of chance.

        Raises:
            ConfigError: the function raised something, or its answer is not a labelled image.
        """
        # Copies: the function may write to what it gets, and images may be the cache's.
        given = LabelledImage(
            np.ascontiguousarray(sample.pixels.permute(1, 2, 0).numpy()).copy(),
            sample.boxes_xyxy.numpy().copy(),
            sample.class_ids.numpy().copy(),
            None if sample.masks is None else sample.masks.numpy().copy(),
        )
        try:
            answer = self.function(given, rng)
        except Exception as error:  # whatever other people's code raises
            raise ConfigError(
                f"the augmentation {self.name} failed{_where(error)}: {type(error).__name__}: {error}"
            ) from error
        try:
            return _sample(_checked(answer, limit_hw, num_classes, sample.masks is not None))
        except ValueError as error:
            raise ConfigError(f"the augmentation {self.name} returned {error}") from error


def named(function: AugmentFunction) -> OwnAugmentation:
    """``function`` under its importable name.

    Raises:
        ConfigError: it cannot be called.
    """
    if not callable(function):
        raise ConfigError(f"augment must be a function, or its name as MODULE:FUNCTION, got {function!r}")
    kind = function if hasattr(function, "__qualname__") else type(function)
    return OwnAugmentation(function, f"{kind.__module__}:{kind.__qualname__}")


def imported(name: str) -> OwnAugmentation:
    """The function that ``name``, "module:function", means; modules of the current folder are found, too.

    Raises:
        ConfigError: there is none.
    """
    module, colon, path = name.partition(":")
    if not (colon and module and path):
        raise ConfigError(f"expected an augmentation as MODULE:FUNCTION, as in mypkg.mymod:darker, got {name!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as for python -m; processes that load images inherit it
    try:
        function: Callable[..., Any] = attrgetter(path)(import_module(module))
    except ImportError as error:
        raise ConfigError(f"the augmentation {name} cannot be imported: {error}") from error
    except AttributeError as error:
        raise ConfigError(f"the augmentation {name} cannot be found: {error}") from error
    except Exception as error:  # whatever a module does when it is imported
        raise ConfigError(f"importing {module} failed: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"the augmentation {name} is no function, but a {type(function).__name__}")
    return OwnAugmentation(function, name)


def _where(error: Exception) -> str:
    """Where in the user's own function something was raised; where it was called is nothing to them."""
    # The innermost frame may be a library's: what the user can change is the function's own, the one after ours.
    frames = extract_tb(error.__traceback__)[1:]
    return f" ({Path(frames[0].filename).name}, line {frames[0].lineno})" if frames else ""


def _checked(answer: object, limit_hw: tuple[int, int], num_classes: int, has_masks: bool) -> LabelledImage:
    """``answer`` as a labelled image.

    Raises:
        ValueError: it is none; the message says what it is instead.
    """
    if not isinstance(answer, tuple) or len(answer) not in (3, 4):
        raise ValueError(f"a {type(answer).__name__}, expected a LabelledImage: (image, boxes_xyxy, class_ids, masks)")
    labelled = LabelledImage(*answer)
    for what, array in zip(("an image", "boxes", "class ids"), labelled, strict=False):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{what} as a {type(array).__name__}, expected an array")
    _check_image(labelled.image, limit_hw)
    _check_objects(labelled.boxes_xyxy, labelled.class_ids, num_classes)
    _check_inside(labelled.boxes_xyxy, labelled.image.shape[1], labelled.image.shape[0])
    if (labelled.masks is not None) != has_masks:
        raise ValueError(f"{'masks' if not has_masks else 'no masks'}, unlike what it was given")
    if labelled.masks is not None:
        _check_masks(labelled.masks, (len(labelled.class_ids), *labelled.image.shape[:2]))
    return labelled


def _check_image(image: npt.NDArray[Any], limit_hw: tuple[int, int]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image of shape {image.shape} and {image.dtype}, expected (H, W, 3) uint8")
    height, width = image.shape[:2]
    if height > limit_hw[0] or width > limit_hw[1]:
        raise ValueError(
            f"an image of {width}×{height}, larger than the network's input, {limit_hw[1]}×{limit_hw[0]}: cut it"
        )


def _check_objects(boxes: npt.NDArray[Any], ids: npt.NDArray[Any], num_classes: int) -> None:
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"class ids of shape {ids.shape} and {ids.dtype}, expected (N,) whole numbers")
    if len(ids) and not (ids.min() >= 0 and ids.max() < num_classes):
        raise ValueError(f"class ids {ids.min()}…{ids.max()}, expected 0…{num_classes - 1}")
    if boxes.shape != (len(ids), 4) or not np.issubdtype(boxes.dtype, np.floating):
        raise ValueError(f"boxes of shape {boxes.shape} and {boxes.dtype}, expected ({len(ids)}, 4) float32, as ids")


def _check_masks(masks: object, shape: tuple[int, ...]) -> None:
    if not (isinstance(masks, np.ndarray) and masks.shape == shape and masks.dtype == np.uint8):
        raise ValueError(f"masks that are not {shape} uint8")
    if not np.isin(masks, (0, 1, UNKNOWN)).all():
        raise ValueError(f"masks with other values than 0, 1 and {UNKNOWN}: interpolate them by the nearest pixel")


def _check_inside(boxes: npt.NDArray[Any], width: int, height: int) -> None:
    if not np.isfinite(boxes).all():
        raise ValueError("boxes that are not finite")
    if not len(boxes):
        return
    # A hundredth of a pixel is rounding; more is a mistake, such as a box that was not cut with its image.
    outside = (boxes < -0.01).any(1) | (boxes > np.array([width, height, width, height]) + 0.01).any(1)
    if outside.any():
        shown = ", ".join(f"{v:g}" for v in boxes[outside][0].tolist())
        raise ValueError(f"the box ({shown}) outside of its image of {width}×{height}: cut boxes at its border")
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if turned.any():
        shown = ", ".join(f"{v:g}" for v in boxes[turned][0].tolist())
        raise ValueError(f"the box ({shown}), expected (x1, y1, x2, y2) with x1 ≤ x2 and y1 ≤ y2")


def _sample(labelled: LabelledImage) -> Sample:
    """As torch tensors; boxes of less than a pixel are left out, as after cutting."""
    image, boxes, ids, masks = labelled
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return place(
        pixels,
        torch.from_numpy(np.ascontiguousarray(boxes, np.float32)),
        torch.from_numpy(np.ascontiguousarray(ids, np.int64)),
        None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
    )
