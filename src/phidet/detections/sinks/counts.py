"""Counts of lines and zones as files: each event with its time, the totals, and a heat map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.csv_files import csv_bytes
from phidet.core.files import AtomicFile, write_atomic, write_atomic_with
from phidet.core.words import count
from phidet.detections.detections import Detections
from phidet.detections.sinks.base import FolderSink, ObjectSink, readable
from phidet.detections.tracking.counting import Anchor, Counter, CountEvent, CountSettings, anchors_of
from phidet.detections.tracking.heat_map import HeatMap
from phidet.images.sources import SourceImage

EVENT_COLUMNS = ("source", "frame", "time_s", "place", "kind", "track_id", "label", "dwell_s")
TOTAL_COLUMNS = (*("source", "place", "label", "in", "out", "entered", "left", "dwell_mean_s", "dwell_longest_s"),)


class CountSink(ObjectSink):
    """``counts.jsonl`` and ``counts.csv``, a line for each event, and ``totals.csv``, one for each place and class.

    Args:
        out: the folder; ``None`` to count and write nothing.
        settings: what is counted.
        begun: called with the counter of each video.

    Attributes:
        counter: of the video that is being read; other sinks may draw its totals.
        latest: the events of the last frame.
    """

    def __init__(self, out: Path | None, settings: CountSettings, begun: Callable[[Counter], None]) -> None:
        self._out, self._settings, self._begun = out, settings, begun
        self.counter = Counter(settings)
        self.latest: list[CountEvent] = []
        self._previous: SourceImage | None = None
        self._events = 0
        self._totals: list[tuple[object, ...]] = []
        self._files: list[AtomicFile] = []
        if out is not None:
            self._files.append(AtomicFile(out / "counts.jsonl"))
            try:
                self._files.append(AtomicFile(out / "counts.csv"))
            except BaseException:
                self.discard()
                raise
            self._files[1].write(csv_bytes([EVENT_COLUMNS]))

    def add(self, item: SourceImage, found: Detections) -> None:
        if not item.continues(self._previous):
            self._end_video()
            self.counter = Counter(self._settings)
            self._begun(self.counter)
        self._previous = item
        height, width = item.size_hw
        self.latest = self.counter.update(found, item.time_s or 0.0, (height, width))
        self._write(item, self.latest)

    def keep(self) -> str:
        self._end_video()
        for file in self._files:
            file.keep()
        if self._out is None:
            return ""
        write_atomic(self._out / "totals.csv", csv_bytes([TOTAL_COLUMNS, *self._totals]))
        return f"{self._out / 'counts.csv'} ({count(self._events, 'event')})"

    def discard(self) -> None:
        for file in self._files:
            file.discard()

    def _write(self, item: SourceImage, events: list[CountEvent]) -> None:
        self._events += len(events)
        for entry in (event_json(item, event) for event in events):
            row = ["" if entry[name] is None else entry[name] for name in EVENT_COLUMNS]
            for file, line in zip(self._files, (msgspec.json.encode(entry) + b"\n", csv_bytes([row])), strict=False):
                file.write(line)

    def _end_video(self) -> None:
        if self._previous is None:
            return
        self._write(self._previous, self.counter.end())
        for place, classes in self.counter.totals.items():
            for label, t in sorted(classes.items()):
                # Of those that left only: how long the others will stay is not known.
                mean = round(t.dwell_total_s / t.left, 3) if t.left else ""
                row = (readable(self._previous.source), place, label, t.in_, t.out, t.entered, t.left, mean)
                self._totals.append((*row, round(t.dwell_longest_s, 3) if t.left else ""))
        self._previous = None


class HeatMapSink(FolderSink):
    """``heat/NAME.png`` for each video: where its objects spent their time, over its last frame."""

    what = "heat map"

    def __init__(self, folder: Path, anchor: Anchor = "bottom") -> None:
        super().__init__(folder)
        self._anchor, self._map = anchor, HeatMap()
        self._previous: SourceImage | None = None
        self._image: npt.NDArray[np.uint8] | None = None
        self._anchors = np.zeros((0, 2))

    def add(self, item: SourceImage, found: Detections) -> None:
        if not item.continues(self._previous):
            self._end_video()
        elif self._previous is not None and item.time_s is not None:
            # A frame's objects count for as long as it is shown, which is known when the next one comes.
            seconds = max(0.0, item.time_s - (self._previous.time_s or 0.0))
            height, width = self._previous.size_hw
            self._map.add(self._anchors, seconds, (height, width))
        self._previous, self._image, self._anchors = item, item.image, anchors_of(found, self._anchor)
        self._name = self._names.of(item, item.name.with_suffix(""))

    def keep(self) -> str:
        self._end_video()
        return super().keep()

    def _end_video(self) -> None:
        if self._previous is None or self._image is None:
            return
        height, width = self._image.shape[:2]
        self._map.add(self._anchors, self._previous.duration_s or 0.0, (height, width))
        drawn = self._map.draw(self._image)
        write_atomic_with(self._folder / f"{self._name}.png", partial(drawn.save, format="png"))
        self._files += 1
        self._map, self._previous = HeatMap(), None


def event_json(item: SourceImage, event: CountEvent) -> dict[str, object]:
    """``source``, ``frame`` and the event; times in seconds to the microsecond."""
    entry = {"source": readable(item.source), "frame": item.frame} | msgspec.structs.asdict(event)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in entry.items()}
