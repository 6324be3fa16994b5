"""Output formats of detections: annotated images and videos, crops, masks, Parquet, and four text formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from phidet.core.errors import UnknownNameError
from phidet.detections.sinks.annotated import ImageSink
from phidet.detections.sinks.base import Sink
from phidet.detections.sinks.coco import CocoSink
from phidet.detections.sinks.crops import CropSink
from phidet.detections.sinks.json_csv import CsvSink, JsonSink
from phidet.detections.sinks.parquet import ParquetSink
from phidet.detections.sinks.segments import InstanceSink, PanopticSink, SemanticSink
from phidet.detections.sinks.yolo import YoloSink

_SINKS: dict[str, Callable[[Path, Sequence[str]], Sink]] = {
    "images": lambda out, _: ImageSink(out),
    "json": lambda out, _: JsonSink(out / "detections.jsonl"),
    "coco": CocoSink,
    "yolo": lambda out, class_names: YoloSink(out / "labels", class_names),
    "csv": lambda out, _: CsvSink(out / "detections.csv"),
    "parquet": lambda out, class_names: ParquetSink(out / "detections.parquet", class_names),
    "crops": lambda out, _: CropSink(out / "crops"),
    "instances": lambda out, _: InstanceSink(out / "instances"),
    "panoptic": PanopticSink,
    "semantic": lambda out, class_names: SemanticSink(out / "semantic", class_names),
}
"""Kind of output → what makes its sink in a folder, for the model's classes."""
KINDS = tuple(_SINKS)
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
        sinks.extend(_SINKS[kind](out, class_names) for kind in dict.fromkeys(kinds))
    except BaseException:
        # The sinks opened so far hold temporary files, which an unwritable folder must not leave behind.
        for sink in sinks:
            sink.discard()
        raise
    return sinks
