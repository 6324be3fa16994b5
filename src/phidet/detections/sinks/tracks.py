"""What a tracker found, as files: MOTChallenge's text, COCO's video results, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from phidet.core.files import AtomicFile
from phidet.core.words import count
from phidet.detections.boxes import xyxy_to_xywh
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID
from phidet.detections.sinks.base import FileSink, FolderSink, Names, ObjectSink, readable
from phidet.detections.sinks.coco import JsonList
from phidet.images.sources import SourceImage


class MotSink(FolderSink):
    """``mot/NAME.txt`` for each video, as MOTChallenge's tools read it: a line for each object of each frame.

    Frame (from 1), id, left, top, width, height, score, and three times −1. Left and top count pixels from 1, as in
    MOTChallenge's own files. The format has no place for a class: to have one, track it alone.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file: AtomicFile | None = None
        self._previous: SourceImage | None = None

    def add(self, item: SourceImage, found: Detections) -> None:
        if not item.continues(self._previous):
            self._end()
            name = self._names.of(item, item.name.with_suffix(""))
            self._file = AtomicFile(self._folder / f"{name}.txt")
        self._previous = item
        assert self._file is not None
        frame = (item.frame or 0) + 1
        boxes = xyxy_to_xywh(found.boxes_xyxy.astype(np.float64)) + np.array((1, 1, 0, 0))
        ids = np.asarray(found.fields[TRACK_ID]).tolist()
        for track_id, (left, top, width, height), score in zip(ids, boxes.tolist(), found.scores.tolist(), strict=True):
            line = f"{frame},{track_id},{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.4g},-1,-1,-1\n"
            self._file.write(line.encode())

    def keep(self) -> str:
        self._end()
        return super().keep()

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _end(self) -> None:
        if self._file is not None:
            self._file.keep()  # if that fails, discard can still delete the temporary file
            self._file = None
            self._files += 1


class CocoVideoSink(ObjectSink):
    """``coco-tracks.json``, COCO's results with ``track_id`` and ``video_id``, and ``coco-videos.json``, with videos,
    the frames that were looked at and categories, as TAO and other video data sets have them.
    """

    def __init__(self, out: Path, class_names: Sequence[str]) -> None:
        categories = [{"id": c, "name": name} for c, name in enumerate(class_names, start=1)]
        head = b'{"categories": ' + msgspec.json.encode(categories) + b',\n"images": [\n'
        with ExitStack() as begun:  # discards the file opened first if the other one cannot be
            self._results = JsonList(out / "coco-tracks.json", b"[\n", b"\n]\n")
            begun.callback(self._results.file.discard)
            self._images = JsonList(out / "coco-videos.json", head, b"")
            begun.pop_all()
        self._videos: list[dict[str, Any]] = []
        self._names = Names()
        self._previous: SourceImage | None = None
        self._image_id = 0

    def add(self, item: SourceImage, found: Detections) -> None:
        height, width = item.size_hw
        if not item.continues(self._previous):
            name = readable(str(self._names.of(item, item.name)))
            video = {"id": len(self._videos) + 1, "name": name, "source": readable(item.source)}
            self._videos.append(video | {"width": width, "height": height})
        self._previous = item
        self._image_id += 1
        where = {"video_id": len(self._videos), "frame_index": item.frame or 0}
        time = {} if item.time_s is None else {"time_s": round(item.time_s, 6)}
        name = f"{self._videos[-1]['name']}/{item.frame or 0:06d}"
        image = {"id": self._image_id, "width": width, "height": height, "file_name": name}
        self._images.append(image | where | time)
        for result in found.to_coco(self._image_id):
            self._results.append(result | {"video_id": len(self._videos)})

    def keep(self) -> str:
        self._images.file.write(b'\n],\n"videos": ' + msgspec.json.encode(self._videos) + b"}\n")
        return f"{self._results.keep()}, {self._images.keep()}"

    def discard(self) -> None:
        self._results.file.discard()
        self._images.file.discard()


class TrackTableSink(FileSink):
    """``tracks.csv``: a line for each track, when it ends: when it was seen, how often, from where to where.

    Positions are centres of boxes in pixels; ``score`` is the mean. In memory are the tracks of the last seconds only.
    """

    COLUMNS = (
        *("source", "track_id", "label", "first_frame", "last_frame", "first_s", "last_s", "frames", "score"),
        *("first_x", "first_y", "last_x", "last_y"),
    )
    _QUIET_S = 60.0  # a track that was not seen for so long has ended, whatever the tracker's settings

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tracks: dict[int, dict[str, Any]] = {}
        self._ended = 0
        self._previous: SourceImage | None = None
        self._write_rows([self.COLUMNS])

    def add(self, item: SourceImage, found: Detections) -> None:
        if not item.continues(self._previous):
            self._end(float("inf"))
        self._previous = item
        now = item.time_s or 0.0
        ids = np.asarray(found.fields[TRACK_ID]).tolist()
        for track_id, one in zip(ids, found, strict=True):
            x1, y1, x2, y2 = one.box_xyxy
            here = {"last_x": (x1 + x2) / 2, "last_y": (y1 + y2) / 2, "last_frame": item.frame or 0, "last_s": now}
            if track_id not in self._tracks:
                first = {key.replace("last", "first"): value for key, value in here.items()}
                about = {"source": readable(item.source), "track_id": track_id, "label": one.label}
                self._tracks[track_id] = about | first | {"frames": 0, "score": 0.0}
            track = self._tracks[track_id]
            track |= here | {"frames": track["frames"] + 1, "score": track["score"] + one.score}
        self._end(now - self._QUIET_S)

    def keep(self) -> str:
        self._end(float("inf"))
        self._file.keep()
        return f"{self._file.path} ({count(self._ended, 'track')})"

    def _end(self, before_s: float) -> None:
        """Writes the tracks that were last seen before ``before_s``, or at all."""
        ended = [track for track in self._tracks.values() if track["last_s"] < before_s]
        for track in ended:
            del self._tracks[track["track_id"]]
            track["score"] = track["score"] / track["frames"]
        self._ended += len(ended)
        self._write_rows([_rounded(track[name]) for name in self.COLUMNS] for track in ended)


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
