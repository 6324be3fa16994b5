"""VOC's masks: ``SegmentationObject/NAME.png`` numbers the objects of ``Annotations/NAME.xml`` in their order from 1;
``SegmentationClass/NAME.png`` numbers the classes. 0 is background, 255 is not labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from phidet.core.errors import InputError
from phidet.data.listing import same_name, visible
from phidet.data.mask_labels import NO_MASK, MaskLabel, image_label
from phidet.data.text import read_lines
from phidet.images.decode import encoding
from phidet.images.label_image import palette_colour

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
VOID = 255
NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's own classes, which are 1 to 20 in its images of classes."""


class VocMasks:
    """The label images below one root.

    Args:
        root: the folder with ``Annotations`` in it.
        class_names: of the data.
    """

    def __init__(self, root: Path, class_names: Sequence[str]) -> None:
        self._files = {
            folder: {same_name(file.stem): file for file in visible(root, f"{folder}/*.png")}
            for folder in (OBJECTS, CLASSES)
        }
        self._numbers, self._colours = _class_numbers(root, class_names)

    def of(self, stem: str, number: int, class_name: str, box_xyxy: Sequence[float]) -> MaskLabel:
        """The mask of an object.

        Args:
            stem: of its annotation file.
            number: its place among the objects of the file, from 1.
            class_name: its class.
            box_xyxy: its box, which says what belongs to it where only classes are labelled.
        """
        file = self._files[OBJECTS].get(same_name(stem))
        if file is not None:
            # Annotation tools write palettes or the palette's colours.
            return image_label(file, _code(palette_colour(number)) if _is_coloured(file) else number)
        file = self._files[CLASSES].get(same_name(stem))
        if file is None or class_name not in self._numbers:
            return NO_MASK
        value = _code(self._colours[class_name]) if _is_coloured(file) else self._numbers[class_name]
        return image_label(file, value, box_xyxy)


def _class_numbers(
    root: Path, class_names: Sequence[str]
) -> tuple[Mapping[str, int], Mapping[str, tuple[int, int, int]]]:
    """Number and colour of each class: those of CVAT's ``labelmap.txt``, of VOC, or in the order of the names."""
    # Data of some of VOC's own classes keep VOC's numbers; any others are numbered by name, as tools do.
    names: Sequence[str] = NAMES if set(class_names) <= set(NAMES) else sorted(class_names)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    colours = {name: palette_colour(number) for name, number in numbers.items()}
    file = root / "labelmap.txt"
    if file.is_file():
        # Lines "name:r,g,b:parts:actions", the background among them; numbers count from the first line.
        rows = [line.split(":") for line in read_lines(file) if not line.startswith("#")]
        for number, row in enumerate(row for row in rows if row[0]):
            rgb = row[1].split(",") if len(row) > 1 else []
            numbers[row[0]] = number
            if len(rgb) == 3 and all(part.strip().isdigit() for part in rgb):
                red, green, blue = map(int, rgb)
                colours[row[0]] = red, green, blue
    return numbers, colours


def _is_coloured(file: Path) -> bool:
    try:
        return encoding(file).mode in ("RGB", "RGBA")
    except InputError:
        return False  # reported when the masks are asked for


def _code(rgb: tuple[int, int, int]) -> int:
    return rgb[0] + 256 * rgb[1] + 65_536 * rgb[2]
