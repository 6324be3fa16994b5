"""Reads what phidet wrote: JSON, JSON lines, COCO's results, CSV and Parquet, of one file or of a folder of parts.

>>> for result in phidet.read_results("detections/detections.jsonl"):
...     print(result.source, len(result.detections))
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from phidet.core.addresses import is_address, without_password
from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.fields import RESERVED, Values
from phidet.detections.foreign import Source, extra_fields, from_coco
from phidet.detections.masks import FIELD
from phidet.detections.parquet import detections_in, names_in, pyarrow
from phidet.detections.tables import BOX, masks_of, names_of

_ROWS = 1_024  # of Parquet at once


class ImageResult(NamedTuple):
    """What a file says of one image or frame.

    Attributes:
        source: where the image came from, or its id.
        detections: what was found; empty where the image could not be used.
        frame: number of a video's frame, from 0.
        time_s: of the frame.
        error: why the image could not be used.
    """

    source: str
    detections: Detections
    frame: int | None = None
    time_s: float | None = None
    error: str | None = None


def read_results(path: Path | str) -> Iterator[ImageResult]:
    """The results in a file that phidet wrote, in its order; only a part of it is in memory at a time.

    Args:
        path: ``.jsonl`` or ``.json`` (also one that :meth:`Detections.to_json` made), ``coco-results.json`` with
            ``coco-images.json`` beside it, ``.csv``, ``.parquet``, or a folder of Parquet files. What each is, is seen
            in its content. The names of classes that were not found are known from COCO's results and Parquet only.

    Raises:
        InputError: there is no such file, it is not on this machine, phidet did not write it, or it is damaged; also
            later, where that is seen later.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    if is_address(str(path)):
        raise InputError(
            f"expected a file or folder of this machine, got {without_password(str(path))}: copy it here, or read its "
            "Parquet files with pandas, polars or DuckDB"
        )
    path = Path(path)
    if path.is_dir():
        # Hidden files are unfinished ones, or notes of whatever wrote the folder.
        parts = sorted(p for p in path.rglob("*.parquet") if not p.name.startswith((".", "_")))
        if not parts:
            raise InputError(f"expected Parquet files in {path}, found none")
        return (result for part in parts for result in _raising(part, _parquet))
    try:
        with path.open("rb") as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return _raising(path, _reader_of(path, head))


def _reader_of(path: Path, head: bytes) -> Callable[[Path], Iterator[ImageResult]]:
    if head.startswith(b"PAR1"):
        pyarrow("phidet.read_results of Parquet")
        return _parquet
    if head.startswith(b"["):
        return _json_list
    if head.startswith(b"{"):
        return _json_lines
    if head.startswith(b"source,"):
        return _csv
    if not head:
        return _nothing  # JSON lines of no image
    raise InputError(
        f"{path} is not what phidet writes: expected JSON, JSON lines, COCO's results, CSV with a header, or Parquet"
    )


def _raising(path: Path, read: Callable[[Path], Iterator[ImageResult]]) -> Iterator[ImageResult]:
    """What ``read`` reads, with ``path`` in the messages of what is wrong with it."""
    try:
        yield from read(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{path} is damaged, or phidet did not write it: {what}") from error


def _nothing(_: Path) -> Iterator[ImageResult]:
    return iter(())


def _json_lines(path: Path) -> Iterator[ImageResult]:
    with path.open("rb") as file:
        # Whether the first line is a document by itself tells lines from one document.
        first = file.readline()
        file.seek(0)
        try:
            msgspec.json.decode(first)
        except msgspec.DecodeError:  # one document over several lines
            yield _document(msgspec.json.decode(file.read()))
            return
        for line in file:
            if line.strip():
                yield _document(msgspec.json.decode(line))


def _json_list(path: Path) -> Iterator[ImageResult]:
    """COCO's results, or a list of documents."""
    entries = msgspec.json.decode(path.read_bytes())
    if entries and "bbox" not in entries[0]:
        yield from map(_document, entries)
        return
    yield from _coco(path, entries)


def _document(document: Mapping[str, Any]) -> ImageResult:
    """One image: :class:`phidet.detections.detections.DetectionsJson`, with where it came from."""
    source, error = document.get("source", ""), document.get("error")
    where = {"frame": document.get("frame"), "time_s": document.get("time_s")}
    if error is not None:
        return ImageResult(source, Detections.empty(), error=error)
    rows = document["detections"]
    size = document["image_size_hw"]
    size_hw = None if size is None else (size[0], size[1])
    fields: dict[str, Values] = extra_fields(rows, frozenset(RESERVED))
    if any("mask" in row for row in rows):
        fields[FIELD] = masks_of([row.get("mask") for row in rows], size_hw)
    boxes = np.array([row["box_xyxy"] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row["score"] for row in rows], np.float32)
    classes = np.array([row["class_id"] for row in rows], np.int64)
    names = names_of(classes.tolist(), [row["label"] for row in rows]) if rows else ()
    return ImageResult(source, Detections(boxes, scores, classes, names, size_hw, fields), **where)


def _coco(path: Path, results: list[dict[str, Any]]) -> Iterator[ImageResult]:
    """COCO's results; the file beside it has images without objects, sizes and names, where it is there."""
    beside = path.with_name(f"{path.stem.removesuffix('-results')}-images.json")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    if not beside.is_file():
        for image_id, found in by_image.items():
            yield ImageResult(str(image_id), Detections(*from_coco(found, Source())))
        return
    searched = msgspec.json.decode(beside.read_bytes())
    categories = sorted(searched["categories"], key=lambda category: category["id"])
    names, ids = [c["name"] for c in categories], [c["id"] for c in categories]
    for image in searched["images"]:
        size_hw = (image["height"], image["width"])
        objects = Detections(*from_coco(by_image.get(image["id"], []), Source(names, size_hw), ids))
        yield ImageResult(image.get("source") or image["file_name"], objects, image.get("frame"))


def _csv(path: Path) -> Iterator[ImageResult]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        # Images without objects have no rows; those of an image follow each other.
        for (source, frame, time_s), of_image in groupby(rows, lambda r: (r["source"], r["frame"], r["time_s"])):
            found = list(of_image)
            boxes = np.array([[row[name] for name in BOX] for row in found], np.float32)
            scores = np.array([row["score"] for row in found], np.float32)
            classes = np.array([int(row["class_id"]) for row in found], np.int64)
            names = names_of(classes.tolist(), [row["label"] for row in found])
            size_hw = (int(found[0]["image_height"]), int(found[0]["image_width"]))
            objects = Detections(boxes, scores, classes, names, size_hw)
            yield ImageResult(source, objects, int(frame) if frame else None, float(time_s) if time_s else None)


def _parquet(path: Path) -> Iterator[ImageResult]:
    pa = pyarrow("phidet.read_results of Parquet")
    with pa.parquet.ParquetFile(path) as file:
        names = names_in(file.schema_arrow)
        if names is None:
            raise InputError("phidet did not write it")
        for batch in file.iter_batches(_ROWS):
            columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name not in _OBJECTS}
            # Of detect's files the source, of batch's the id.
            sources = columns.get("source") or columns.get("id") or []
            nothing = [None] * batch.num_rows
            rest = (columns.get(name, nothing) for name in ("frame", "time_s", "error"))
            yield from (
                ImageResult(str(source), found, *others)
                for source, found, *others in zip(sources, detections_in(batch, names), *rest, strict=True)
            )


_OBJECTS = frozenset({"detections"})
