"""Output formats of detections: annotated images and videos, crops, masks, Parquet, and four text formats."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from phidet.core.errors import UnknownNameError
from phidet.detections.sinks.base import Sink

if TYPE_CHECKING:
    from phidet.detections.sinks.annotated import ImageSink


class _Kind(NamedTuple):
    """How a kind of output is opened: a class of a module here, the path that it gets in the folder of outputs,
    whether it gets the model's classes, too, and a folder that it makes beside its file."""

    module: str
    sink: str
    path: str = "."
    takes_classes: bool = False
    folder: str = ""

    @property
    def names(self) -> set[str]:
        """Of the file and the folder that it writes."""
        return {self.path, self.folder} - {".", ""}


_KINDS = {
    "images": _Kind("annotated", "ImageSink"),
    "json": _Kind("json_csv", "JsonSink", "detections.jsonl"),
    "coco": _Kind("coco", "CocoSink", takes_classes=True),
    "yolo": _Kind("yolo", "YoloSink", "labels", takes_classes=True),
    "csv": _Kind("json_csv", "CsvSink", "detections.csv"),
    "parquet": _Kind("parquet", "ParquetSink", "detections.parquet", takes_classes=True),
    "crops": _Kind("crops", "CropSink", "crops"),
    "instances": _Kind("segments", "InstanceSink", "instances"),
    "panoptic": _Kind("segments", "PanopticSink", takes_classes=True, folder="panoptic"),
    "semantic": _Kind("segments", "SemanticSink", "semantic", takes_classes=True),
}
"""By name, so that only those that are asked for are imported: all of them take a while, a run needs one or two."""
KINDS = tuple(_KINDS)
_FORMER = {"pictures": "images"}
"""Kinds by an earlier name, which scripts may still use."""

__all__ = ["KINDS", "Sink", "open_sinks"]


def open_sinks(kinds: Sequence[str], out: Path, class_names: Sequence[str]) -> list[Sink]:
    """A sink of each kind, in the folder ``out``.

    Raises:
        UnknownNameError: a kind that is not in :data:`KINDS`.
        PhidetError: the folder cannot be written to.
    """
    kinds = [_FORMER.get(kind, kind) for kind in kinds]
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("kind of output", kind, KINDS)
    sinks: list[Sink] = []
    try:
        for kind in dict.fromkeys(kinds):
            sinks.append(_open(_KINDS[kind], out, class_names))
            if kind == "images":  # which may lie in folders of any name
                cast("ImageSink", sinks[-1]).leave(name for other in kinds for name in _KINDS[other].names)
    except BaseException:
        # The sinks opened so far hold temporary files, which an unwritable folder must not leave behind.
        for sink in sinks:
            sink.discard()
        raise
    return sinks


def _open(kind: _Kind, out: Path, class_names: Sequence[str]) -> Sink:
    make = getattr(import_module(f"{__package__}.{kind.module}"), kind.sink)
    path = out / kind.path
    return cast("Sink", make(path, class_names) if kind.takes_classes else make(path))
