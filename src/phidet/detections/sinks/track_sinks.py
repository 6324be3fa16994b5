"""Opens the outputs of ``phidet track``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from phidet.core.errors import PhidetError
from phidet.detections.detections import Detections
from phidet.detections.sinks.annotated import ImageSink
from phidet.detections.sinks.base import Sink
from phidet.detections.sinks.counts import CountSink, HeatMapSink
from phidet.detections.sinks.json_csv import JsonSink
from phidet.detections.sinks.parquet import ParquetSink
from phidet.detections.sinks.tracks import CocoVideoSink, MotSink, TrackTableSink
from phidet.detections.tracking.counting import Counter, CountSettings
from phidet.detections.tracking.draw import TrackDrawer
from phidet.images.sound import copy_sound
from phidet.images.sources import SourceImage

TRACK_KINDS = ("video", "json", "csv", "parquet", "mot", "coco", "counts", "heat")
"""What may be written."""
log = logging.getLogger("phidet")


class TrackOutputs:
    """The sinks of one run, the one that counts first, since drawings and reports show its totals.

    Args:
        kinds: of :data:`TRACK_KINDS`.
        out: the folder.
        class_names: of the model.
        counting: lines and zones, counted also where no kind writes them; ``None`` for none.
        sound: whether drawn videos get the sound of their sources.

    Raises:
        PhidetError: the folder cannot be written to.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        out: Path,
        class_names: Sequence[str],
        counting: CountSettings | None = None,
        *,
        sound: bool = False,
    ) -> None:
        self.sinks: list[Sink] = []
        self.counts: CountSink | None = None
        self.drawer = TrackDrawer()
        anchor = "bottom" if counting is None else counting.anchor
        makers: dict[str, Callable[[], Sink]] = {
            "video": lambda: ImageSink(out, self._draw, _add_sound if sound else None),
            "json": lambda: JsonSink(out / "tracks.jsonl"),
            "csv": lambda: TrackTableSink(out / "tracks.csv"),
            "parquet": lambda: ParquetSink(out / "tracks.parquet", class_names),
            "mot": lambda: MotSink(out / "mot"),
            "coco": lambda: CocoVideoSink(out, class_names),
            "heat": lambda: HeatMapSink(out / "heat", anchor),
        }
        try:
            if counting is not None:
                self.counts = CountSink(out if "counts" in kinds else None, counting, self._show)
                self.sinks.append(self.counts)
            self.sinks.extend(makers[kind]() for kind in kinds if kind != "counts")
        except BaseException:
            # The sinks opened so far hold temporary files, which an unwritable folder must not leave behind.
            for sink in self.sinks:
                sink.discard()
            raise

    def _show(self, counter: Counter) -> None:
        self.drawer.counter = counter

    def _draw(self, item: SourceImage, found: Detections) -> Image.Image:
        return self.drawer.draw(item.image, found, item.time_s or 0.0)


def _add_sound(video: Path, source: str) -> None:
    """Adds a source's sound; a video without it is still a result."""
    try:
        if Path(source).is_file() and not copy_sound(video, Path(source)):
            log.warning("%s has no sound", source)
    except PhidetError as error:
        log.warning("%s", error)
