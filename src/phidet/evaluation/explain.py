"""Class activation maps: which parts of an image a classification or a single detection is based on.

For a classifier the map is exact (CAM, arXiv 1512.04150): the last layer is linear in the average of the last map, so
the class's logit is the average of all positions' contributions, plus the bias. For a detection it is the
first-order part of its class logit: gradient times activation, for every input map of the feature network.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.architectures.evidence import ActivationMap
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.core.errors import ConfigError, UnknownNameError
from phidet.detections.sheet import Tile, draw_sheet
from phidet.images.decode import ImageLike, as_pixels


def explain(model: Model, image: ImageLike, class_name: str | None = None, limit: int = 3) -> list[ActivationMap]:
    """Maps of a classifier's best classes, or of a detector's best detections.

    Args:
        model: as loaded; in evaluation mode afterwards.
        image: (H, W, 3) uint8 RGB, a Pillow image, or a path.
        class_name: only this class; of a classifier, even where it is not among the best.
        limit: maximum number of maps.

    Raises:
        UnknownNameError: the model has no such class.
        InputError: the image cannot be read.
        ConfigError: ``limit`` is less than 1, or the model's architecture cannot be explained.
    """
    if limit < 1:
        raise ConfigError(f"the number of maps must be ≥ 1, got {limit}")
    architecture = architecture_of(model.config)
    names = architecture.class_names(model.config)
    if class_name is not None and class_name not in names:
        raise UnknownNameError("class", class_name, names)
    class_id = None if class_name is None else names.index(class_name)
    return architecture.explain(model.eval(), as_pixels(image), class_id, limit)


def overlay(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """An (H, W, 3) image overlaid with an (H, W) heat map in 0…1: grey where it is 0, coloured above."""
    # Lightened as well, so that the map's colours also show on dark images.
    grey = image.astype(np.float32).mean(2, keepdims=True).repeat(3, 2) * 0.7 + 40
    # The darkest quarter of the colour map is skipped: it would read as shadow.
    colour = matplotlib.colormaps["inferno"](0.25 + 0.75 * heat)[..., :3] * 255
    share = np.clip(heat[..., None] * 1.3, 0, 0.75)
    mixed: npt.NDArray[np.uint8] = (grey * (1 - share) + colour * share).clip(0, 255).astype(np.uint8)
    return mixed


def comparison(
    image: npt.NDArray[np.uint8], name: str, maps: Sequence[tuple[str, Sequence[ActivationMap]]]
) -> Image.Image:
    """A sheet of the image and the maps of each (model name, maps): one model's in rows, several side by side."""
    height, width = image.shape[:2]
    original = Tile(name, f"{width}×{height}", image)
    columns = [
        [_tile(image, model, one) for one in found] or [_NOTHING._replace(subtitle=model)] for model, found in maps
    ]
    if len(columns) == 1:
        return draw_sheet(_HEADING, [original, *columns[0]], columns=min(4, 1 + len(columns[0])))
    # A column for each model, filled up with empty tiles: sheets are drawn row by row.
    rows = max((len(column) for column in columns), default=1)
    grid = [[original], *columns]
    tiles = [column[row] if row < len(column) else _EMPTY for row in range(rows) for column in grid]
    return draw_sheet(_HEADING, tiles, columns=len(grid))


def _tile(image: npt.NDArray[np.uint8], model: str, one: ActivationMap) -> Tile:
    boxes = np.array([one.box_xyxy] if one.box_xyxy is not None else [], np.float32).reshape(-1, 4)
    seen = overlay(image, one.heat)
    return Tile(f"{one.label}, {one.score:.0%}", model, seen, boxes, [""] * len(boxes), [1] * len(boxes))


_HEADING = "Class activation maps"
_EMPTY = Tile("", "", np.full((1, 1, 3), 255, np.uint8))
_NOTHING = _EMPTY._replace(title="nothing found")
