"""Files that lie in the data folder and that no split uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from phidet.data.dataset import Dataset
from phidet.data.layouts import DataFolder
from phidet.images.formats import EXTENSIONS

_LABELS = {"yolo": ".txt", "voc": ".xml"}


def unused_files(folder: DataFolder, datasets: Sequence[Dataset], mentioned: Iterable[str]) -> list[str]:
    """Images that no split lists, and labels (YOLO, VOC) without an image, relative to the data folder.

    Args:
        folder: the data.
        datasets: its splits.
        mentioned: ``where`` of the problems; what is named there is not named again.
    """
    if folder.path.is_file() or folder.layout == "tfrecord":
        return []
    sources = [dataset.source(i) for dataset in datasets for i in range(len(dataset))]
    used = {source.resolve() for source in sources if isinstance(source, Path)}
    known = {file_of(where).stem for where in mentioned}
    found = []
    stems = known | {path.stem for path in used}
    for path in sorted(folder.path.rglob("*")):
        if path.suffix.lower() in EXTENSIONS:
            unused = path.stem not in known and path.resolve() not in used
        else:
            unused = path.suffix == _LABELS.get(folder.layout) and path.stem not in stems and _holds_labels(path)
        if unused and path.is_file():
            found.append(str(path.relative_to(folder.path)))
    return found


def file_of(where: str) -> Path:
    """The file in a problem's ``where``, without the line, index or id in it."""
    return Path(where.rsplit(", ", 1)[0])


def _holds_labels(path: Path) -> bool:
    """Whether a file that is named like labels looks like them, and is no list of images, of classes or a read-me."""
    if path.suffix == ".xml":
        return path.parent.name == "Annotations"
    return any(parent.name == "labels" for parent in path.parents) and path.stem != "classes"
