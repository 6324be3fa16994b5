"""Detections as a file: COCO's results, written for other tools and read from them.

A results file is a list of ``{"image_id", "category_id", "bbox", "score"}``, whose ids mean nothing by themselves.
Beside ``NAME.json`` lies ``NAME-images.json`` (also for ``NAME-results.json``), with the images that were processed and
the classes, as ``phidet detect --save coco`` writes it. Without it the ids are those of the data's own COCO JSON.
Fields of detections that are numbers, such as an appearance, lie in ``NAME-fields.npz``, a row for each result; what
every pixel was found to belong to lies in ``NAME-segments.json``, as results with masks.
"""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.core.files import write_atomic
from phidet.core.structs import in_words
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.detections.fields import Values
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.masks import Masks
from phidet.detections.segments import IS_THING

T = TypeVar("T")


class _Result(msgspec.Struct):
    """An object; ``bbox`` is left, top, width and height in pixels, ``segmentation`` its mask as COCO has it."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    segmentation: Any = None
    is_thing: bool = True


class _Image(msgspec.Struct):
    """An image that was processed; ``source`` is its path."""

    id: int
    file_name: str
    width: int
    height: int
    source: str = ""


class _Category(msgspec.Struct):
    id: int
    name: str


class _Searched(msgspec.Struct):
    """The content of ``NAME-images.json``."""

    categories: list[_Category]
    images: list[_Image]


class ResultsFile(NamedTuple):
    """Detections read from a file.

    Attributes:
        path: the file.
        results: its entries.
        searched: content of the ``-images.json`` beside it; ``None`` without one.
        columns: of the ``-fields.npz`` beside it, name → an array with a row for each entry.
        segments: entries of the ``-segments.json`` beside it; ``None`` without one.
    """

    path: Path
    results: Sequence[_Result]
    searched: _Searched | None
    columns: Mapping[str, npt.NDArray[Any]] = {}
    segments: Sequence[_Result] | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes of the detector, in the order of their ids; ``None`` if unknown."""
        if self.searched is None:
            return None
        return tuple(category.name for category in sorted(self.searched.categories, key=lambda c: c.id))

    def detections_of(self, dataset: Dataset, others: bool = False) -> tuple[Dataset, list[Detections]]:
        """The images of ``dataset`` that were processed, and the detections in each.

        Args:
            dataset: read with :attr:`class_names`, or with its own where these are not known.
            others: leave out detections of images that ``dataset`` does not have, instead of refusing them.

        Raises:
            InputError: the detections belong to other images or classes, or are invalid.
        """
        image_of, class_of = self._names(dataset)
        found: dict[str, list[int]] = defaultdict(list)
        for i, result in enumerate(self.results):
            # Detections of all splits may lie in one file; without being asked for, they are more likely the wrong
            # file.
            if others and result.image_id not in image_of:
                continue
            if result.image_id not in image_of or result.category_id not in class_of:
                key = "image_id" if result.image_id not in image_of else "category_id"
                raise InputError(
                    f"{self.path}, [{i}]: {key} {getattr(result, key)} is not in {dataset.name!r}: are these "
                    "detections of other data, or of another split (--split)?"
                )
            # Results come in any order: gathered by image first.
            found[image_of[result.image_id]].append(i)
        segments: dict[str, list[_Result]] = defaultdict(list)
        for segment in self.segments or ():
            if segment.image_id in image_of and segment.category_id in class_of:
                segments[image_of[segment.image_id]].append(segment)
        searched = set(image_of.values())
        names = [str(name) for name in dataset.names]
        indices = [index for index, name in enumerate(names) if name in searched]
        # Ids of the file and of the data set may differ; the names of the classes connect them.
        of_dataset = {name: dataset.class_names.index(name) for name in class_of.values()}
        ids = {category: of_dataset[name] for category, name in class_of.items()}
        # An image that was not processed is not measured: it would count as one in which nothing was found.
        measured = dataset if len(indices) == len(dataset) else dataset.subset(indices, dataset.name)
        detections = [self._detections(found[names[i]], ids, dataset, i) for i in indices]
        if self.segments is not None:
            for at, i in enumerate(indices):
                whole = segments[names[i]]
                things: dict[str, Values] = {IS_THING: np.array([one.is_thing for one in whole], np.bool_)}
                detections[at] = replace(detections[at], segments=self._made(whole, things, ids, dataset, i))
        return measured, detections

    def _names(self, dataset: Dataset) -> tuple[Mapping[int, str], Mapping[int, str]]:
        """Name of the image by ``image_id``, and of the class by ``category_id``."""
        if self.searched is None:
            if dataset.coco_ids is None:
                raise InputError(
                    f"{self.path} has ids of images and classes, and the data are no COCO JSON that defines them: "
                    f"provide {images_file(self.path).name}, or write the data as COCO JSON with 'phidet convert-data'"
                )
            categories = dataset.coco_ids.categories.items()
            return dataset.coco_ids.images, {i: name for i, name in categories if name in dataset.class_names}
        # Images are recognised by path or by name: the file may have been written elsewhere, or by another tool.
        at = {str(Path(str(s)).resolve()): str(n) for s, n in zip(dataset.sources, dataset.names, strict=True)}
        at |= {str(name): str(name) for name in dataset.names}
        images = {
            image.id: at.get(image.file_name) or at.get(str(Path(image.source).resolve()))
            for image in self.searched.images
        }
        return (
            {i: name for i, name in images.items() if name is not None},
            {category.id: category.name for category in self.searched.categories},
        )

    def _detections(self, rows: Sequence[int], ids: Mapping[int, int], dataset: Dataset, index: int) -> Detections:
        columns: dict[str, Values] = {name: values[list(rows)] for name, values in self.columns.items()}
        return self._made([self.results[row] for row in rows], columns, ids, dataset, index)

    def _made(
        self,
        results: Sequence[_Result],
        fields: dict[str, Values],
        ids: Mapping[int, int],
        dataset: Dataset,
        index: int,
    ) -> Detections:
        """Detections of an image from its entries and their other fields."""
        boxes = np.array([result.bbox for result in results], np.float64).reshape(-1, 4)
        # COCO has left, top, width and height; here it is corners.
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([result.score for result in results], np.float64)
        classes = np.array([ids[result.category_id] for result in results], np.int64)
        size_hw = dataset.size_hw(index)
        # Detections checks boxes, scores and classes; what it says does not know the file.
        try:
            if any(result.segmentation is not None for result in results):
                # An object without a mask among others is one of no pixels.
                fields[MASKS] = Masks.from_coco([result.segmentation or [] for result in results], size_hw)
            return Detections(boxes, scores, classes, dataset.class_names, size_hw, fields)  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"{self.path}, detections of {dataset.names[index]}: {error}") from error


def _beside(results: Path, ending: str) -> Path:
    return results.with_name(f"{results.stem.removesuffix('-results')}-{ending}")


def images_file(results: Path) -> Path:
    """The path of the images file beside a results file: ``found-images.json`` of ``found.json``."""
    return _beside(results, "images.json")


def fields_file(results: Path) -> Path:
    """The path of the fields file beside a results file: ``found-fields.npz`` of ``found.json``."""
    return _beside(results, "fields.npz")


def segments_file(results: Path) -> Path:
    """The path of the segments file beside a results file: ``found-segments.json`` of ``found.json``."""
    return _beside(results, "segments.json")


def read_results(path: Path) -> ResultsFile:
    """Reads a results file and the files of images and fields beside it.

    Raises:
        InputError: it cannot be read, or is not COCO's.
    """
    images = images_file(path)
    searched = _decoded(images, _Searched, '{"categories", "images"}') if images.is_file() else None
    what = 'a list of {"image_id", "category_id", "bbox", "score"}'
    results = _decoded(path, list[_Result], what)
    beside = segments_file(path)
    segments = _decoded(beside, list[_Result], what) if beside.is_file() else None
    return ResultsFile(path, results, searched, _columns(fields_file(path), len(results)), segments)


def _columns(path: Path, count: int) -> dict[str, npt.NDArray[Any]]:
    """The fields of so many results; none where there is no file of them."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    wrong = {name: len(values) for name, values in columns.items() if len(values) != count}
    if wrong:
        raise InputError(f"{path} has {max(wrong.values())} rows, the detections beside it are {count}: remove it")
    return columns


def write_results(path: Path, dataset: Dataset, detections: Sequence[Detections]) -> list[Path]:
    """Writes ``detections``, one for each image of ``dataset``; beside them the images file that defines the ids,
    fields that are numbers, and segments.

    Ids are those of the data's own COCO JSON; otherwise images and classes are numbered from 1.

    Raises:
        PhidetError: a file cannot be written.
    """
    own = dataset.coco_ids
    image_ids = {name: i for i, name in enumerate(map(str, dataset.names), 1)}
    category_ids = {name: c for c, name in enumerate(dataset.class_names, 1)}
    if own is not None:
        # Reversed, so that of a file listed twice the first id is used.
        image_ids = {name: i for i, name in reversed(list(own.images.items()))}
        known = {name: i for i, name in own.categories.items()}
        # Classes that the JSON lacks get ids after the existing ones.
        free = max(own.categories, default=0) + 1
        others = [name for name in dataset.class_names if name not in known]
        category_ids = known | {name: free + i for i, name in enumerate(others)}
    ids = [category_ids[name] for name in dataset.class_names]
    names = [str(name) for name in dataset.names]
    results = [r for name, found in zip(names, detections, strict=True) for r in found.to_coco(image_ids[name], ids)]
    searched = _Searched(
        [_Category(i, name) for name, i in zip(dataset.class_names, ids, strict=True)],
        [
            _Image(image_ids[name], name, width, height, str(Path(str(source)).absolute()))
            for name, (height, width), source in zip(names, dataset.sizes_hw.tolist(), dataset.sources, strict=True)
        ],
    )
    # The images file first: without it the ids of the results have no meaning.
    write_atomic(images_file(path), msgspec.json.encode(searched))
    columns = _numbers([found for found in detections if len(found)])
    wholes = [
        (name, found.segments) for name, found in zip(names, detections, strict=True) if found.segments is not None
    ]
    segments = [one for name, whole in wholes for one in whole.to_coco(image_ids[name], ids)]
    beside = {
        fields_file(path): _packed(columns) if columns else None,
        segments_file(path): msgspec.json.encode(segments) if wholes else None,
    }
    for file, content in beside.items():
        if content is None:
            file.unlink(missing_ok=True)  # of other detections that were here before
        else:
            write_atomic(file, content)
    write_atomic(path, msgspec.json.encode(results))
    return [path, images_file(path), *(file for file, content in beside.items() if content is not None)]


def _packed(columns: dict[str, npt.NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **columns)  # type: ignore[arg-type]  # takes any names
    return content.getvalue()


def _numbers(detections: Sequence[Detections]) -> dict[str, npt.NDArray[Any]]:
    """The fields of all detections that hold numbers."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in detections[0].fields if detections else ():
        values = [found.fields.get(name) for found in detections]
        arrays = [one for one in values if isinstance(one, np.ndarray) and one.dtype.kind in "iufb"]
        if len(arrays) == len(values):
            columns[name] = np.concatenate(arrays)
    return columns


def _decoded(path: Path, kind: type[T], expected: str) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = in_words(error) if isinstance(error, msgspec.ValidationError) else error
        raise InputError(f"{path} is not COCO's results: expected {expected}; {said}") from error
