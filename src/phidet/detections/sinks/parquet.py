"""Parquet: a row for each image, also for those that could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from phidet.core.files import raising_write_errors
from phidet.core.words import count
from phidet.detections.detections import Detections
from phidet.detections.parquet import objects_column, pyarrow, size_columns, with_names
from phidet.detections.sinks.base import FileSink, readable
from phidet.images.sources import SourceImage, Unusable

_ROWS = 1_024  # that wait to be written together


class _Row(NamedTuple):
    source: str
    frame: int | None
    time_s: float | None
    size_hw: tuple[int, int] | None
    found: Detections
    error: str | None


class ParquetSink(FileSink):
    """``detections.parquet``: source, frame and time of the frame, the image's size, its objects, and the error of an
    image that could not be read (:mod:`phidet.detections.parquet`).

    Raises:
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._pa = pyarrow("--save parquet")
        self._names = tuple(class_names)
        super().__init__(path)
        self._rows: list[_Row] = []
        self._images = 0
        self._writer: Any = None

    def add(self, item: SourceImage, found: Detections) -> None:
        height, width = item.size_hw
        time_s = None if item.time_s is None else round(item.time_s, 6)
        self._append(_Row(readable(item.source), item.frame, time_s, (height, width), found, None))

    def skip(self, unusable: Unusable) -> None:
        error = readable(str(unusable.error))
        self._append(_Row(readable(unusable.source), None, None, None, Detections.empty(), error))

    def keep(self) -> str:
        self._write()
        with raising_write_errors(self._file.path):
            self._writer.close()
        self._file.keep()
        return f"{self._file.path} ({count(self._images, 'image')})"

    def _append(self, row: _Row) -> None:
        self._rows.append(row)
        self._images += 1
        if len(self._rows) >= _ROWS:
            self._write()

    def _write(self) -> None:
        """Writes the waiting rows, as a row group."""
        pa, rows = self._pa, self._rows
        columns = {
            "source": pa.array([row.source for row in rows], pa.string()),
            "frame": pa.array([row.frame for row in rows], pa.int64()),
            "time_s": pa.array([row.time_s for row in rows], pa.float64()),
            **size_columns(pa, [row.size_hw for row in rows]),
            "detections": objects_column(pa, [row.found for row in rows]),
            "error": pa.array([row.error for row in rows], pa.string()),
        }
        table = with_names(pa.table(columns), self._names)
        with raising_write_errors(self._file.path):
            # The first rows bring the schema, which is the same for all.
            if self._writer is None:
                self._writer = pa.parquet.ParquetWriter(self._file.file, table.schema, compression="zstd")
            self._writer.write_table(table)
        self._rows = []
