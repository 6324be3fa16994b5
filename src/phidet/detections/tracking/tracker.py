"""The tracker: from the detections of each frame to the same objects with track ids.

>>> tracker = phidet.Tracker()
>>> for frame in frames:
...     tracked = tracker.update(detector(frame.image), frame.time_s)
...     tracked.fields["track_id"]

ByteTrack (Zhang et al., *ByteTrack: Multi-Object Tracking by Associating Every Detection Box*, arXiv 2110.06864,
algorithm 1): good detections are matched to tracks first, then the weak ones to tracks that are left, by the overlap
with boxes that Kalman filters predict. Departures: time is in seconds, see :mod:`phidet.detections.tracking.motion`;
classes are kept apart; and ids are given when a track is confirmed.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError, InputError
from phidet.core.files import write_atomic
from phidet.core.words import few
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID
from phidet.detections.tracking.assignment import assign, import_solver
from phidet.detections.tracking.camera import CameraMotion, CameraState
from phidet.detections.tracking.motion import Motion
from phidet.detections.tracking.settings import TrackerSettings

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Table = npt.NDArray[np.void]
_TRACK = np.dtype(
    [
        ("id", np.int64),  # 0: not confirmed
        ("class_id", np.int64),
        ("score", np.float32),  # of the last detection
        ("born_s", np.float64),  # first seen
        ("seen_s", np.float64),  # last seen
        ("row", np.int64),  # among the detections of the current frame; −1: not seen
        ("motion", np.float64, (6, 4)),  # Motion.state
    ]
)
_COLUMNS = _TRACK.names or ()
log = logging.getLogger("phidet")


class Tracker:
    """Follows objects from frame to frame.

    The answers do not depend on the order of detections; equal calls give equal answers. Ids are 1, 2, … in the order
    in which tracks are confirmed, and are never used again.

    Args:
        settings: thresholds and times.

    Raises:
        MissingExtraError: the ``track`` extra is not installed.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        import_solver()
        self.settings = settings or TrackerSettings()
        self._camera = CameraMotion() if self.settings.camera_motion else None
        self._time_s: float | None = None
        self._next_id = 1
        self._names: tuple[str, ...] = ()
        self._size_hw: tuple[int, int] | None = None
        self._tracks: Table = np.zeros(0, _TRACK)

    def update(self, found: Detections, time_s: float, image: npt.NDArray[np.uint8] | None = None) -> Detections:
        """The objects of the next frame that belong to a confirmed track.

        Args:
            found: all detections of the frame, weak ones, too: from a score of ``settings.low`` on. Tracks of
                classes that have another name than before end.
            time_s: of the frame, by the clock of the source.
            image: the frame, (H, W, 3) uint8 RGB, which ``camera_motion`` needs.

        Returns:
            Detections as they were found, with the field ``track_id``, int64.

        Raises:
            InputError: a time before the last one, or no frame where one is needed.
        """
        if not isinstance(found, Detections):
            raise InputError(f"expected the Detections of a frame, got a {type(found).__name__}")
        seconds = self._step(time_s)
        self._end_tracks_of_other_classes(found.names)
        settings = self.settings
        motion = self._predicted(seconds, found.image_size_hw, image)
        tracks = self._tracks.copy()
        tracks["motion"] = motion.state
        waits_s = np.where(tracks["id"] > 0, settings.lost_s, settings.tentative_s)
        # At a low frame rate the next frame comes later than that; each track may at least be seen in it.
        in_last_frame = tracks["row"] >= 0
        tracks = tracks[in_last_frame | (time_s - tracks["seen_s"] <= waits_s)]

        order = _canonical_order(found)
        is_good, begins = self._reached(found)
        good, weak = order[is_good[order]], order[~is_good[order]]
        weak = weak[found.scores[weak] >= settings.low]
        matches = _Matches(found, tracks, seconds)
        # Tracks without an id come last: they may be mistakes, which must not take a detection from an object.
        for group in (np.flatnonzero(tracks["id"] > 0), np.flatnonzero(tracks["id"] == 0)):
            matches.add(group, good, settings.overlap)
            matches.add(group, weak, settings.low_overlap)

        _see(tracks, *matches.pairs, found, time_s)
        seen = np.flatnonzero(tracks["row"] >= 0)
        tracks["motion"][seen] = (
            Motion(tracks["motion"][seen]).correct(found.boxes_xyxy[tracks["row"][seen]], settings).state
        )
        new = good[~matches.taken[good] & begins[good]]
        tracks = np.concatenate((tracks, _begun(found, new, time_s, settings)))
        self._confirm(tracks, time_s)
        self._tracks, self._time_s = tracks, time_s
        self._names, self._size_hw = found.names, found.image_size_hw

        shown = tracks[(tracks["row"] >= 0) & (tracks["id"] > 0)]
        shown = shown[np.argsort(shown["row"])]  # in the order of the detections
        return found[shown["row"]].with_fields({TRACK_ID: shown["id"].copy()})

    __call__ = update

    def predict(self, time_s: float) -> Detections:
        """Where the confirmed tracks that were seen in the last ``update`` are believed at ``time_s``.

        Changes nothing: for frames between those that are detected on. Scores are those of the last detections.

        Raises:
            InputError: a time before that of the last ``update``.
        """
        seconds = self._step(time_s)
        # Those that were lost already are not shown: where they would be is no more than a guess.
        shown = self._tracks[(self._tracks["id"] > 0) & (self._tracks["row"] >= 0)]
        boxes = Motion(shown["motion"]).predict(seconds, self.settings).boxes_xyxy.astype(np.float32)
        if self._size_hw is not None:
            boxes = np.clip(boxes, 0, np.array(self._size_hw[::-1] * 2, np.float32))
        fields = {TRACK_ID: shown["id"].copy()}
        return Detections(boxes, shown["score"], shown["class_id"], self._names, self._size_hw, fields)

    def save(self, path: str | Path) -> None:
        """Writes settings and tracks as JSON, atomically; :meth:`load` continues from there, to the last bit.

        Raises:
            PhidetError: it cannot be written there.
        """
        state = _State(
            settings=self.settings,
            time_s=self._time_s,
            next_id=self._next_id,
            names=self._names,
            size_hw=self._size_hw,
            tracks={name: self._tracks[name].tolist() for name in _COLUMNS},
            camera=None if self._camera is None else self._camera.state(),
        )
        write_atomic(Path(path), msgspec.json.encode(state))

    @classmethod
    def load(cls, path: str | Path) -> Tracker:
        """A tracker as :meth:`save` left it.

        Raises:
            InputError: there is no such file, or it was not written by ``save``.
        """
        path = Path(path)
        try:
            state = msgspec.json.decode(path.read_bytes(), type=_State)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except (msgspec.DecodeError, ConfigError) as error:
            raise InputError(f"{path} is not a state that Tracker.save wrote: {error}") from error
        tracker = cls(state.settings)
        tracker._time_s, tracker._next_id = state.time_s, state.next_id
        tracker._names, tracker._size_hw = state.names, state.size_hw
        tracker._tracks = _table(state.tracks, path)
        if tracker._camera is not None and state.camera is not None:
            tracker._camera = CameraMotion.from_state(state.camera)
        return tracker

    def _step(self, time_s: float) -> float:
        """Seconds since the last frame."""
        if not math.isfinite(time_s) or (self._time_s is not None and time_s < self._time_s):
            raise InputError(f"expected the time of a later frame than {self._time_s} s, got {time_s}")
        return 0.0 if self._time_s is None else time_s - self._time_s

    def _end_tracks_of_other_classes(self, names: tuple[str, ...]) -> None:
        """Another model, after ``load`` or in a server: what has number 0 there may be another thing. Ids go on."""
        if not (self._names and names) or names == self._names:
            return
        same = [i for i, pair in enumerate(zip(self._names, names, strict=False)) if pair[0] == pair[1]]
        kept = np.isin(self._tracks["class_id"], same)
        if not kept.all():
            message = "the classes were %s and are %s: tracks of those that changed end"
            log.warning(message, few(self._names), few(names))
        self._tracks = self._tracks[kept]

    def _reached(self, found: Detections) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(N,) which detections are matched first, and (N,) which may begin a track.

        Raises:
            InputError: a class beyond those of ``class_scores``.
        """
        own = self.settings.class_scores
        if own is None:
            return found.scores >= self.settings.high, found.scores >= self.settings.start
        if len(found) and found.class_ids.max() >= len(own):
            raise InputError(f"class_scores has {len(own)} classes, got an object of class {found.class_ids.max()}")
        reached = found.scores >= np.array(own, np.float64)[found.class_ids]
        return reached, reached

    def _predicted(
        self, seconds: float, size_hw: tuple[int, int] | None, image: npt.NDArray[np.uint8] | None
    ) -> Motion:
        """Where all tracks are believed after ``seconds``, in pixels of the new frame."""
        motion = Motion(self._tracks["motion"]).predict(seconds, self.settings)
        if self._size_hw and size_hw and self._size_hw != size_hw:
            # A stream that goes on in another size, as cameras do when the network gets slow.
            motion = motion.moved(np.diag([size_hw[1] / self._size_hw[1], size_hw[0] / self._size_hw[0], 1.0])[:2])
        if self._camera is not None:
            if image is None:
                raise InputError("camera_motion needs the frame: tracker.update(found, time_s, image)")
            motion = motion.moved(self._camera.update(image))
        return motion

    def _confirm(self, tracks: Table, time_s: float) -> None:
        """Gives ids to tracks that have earned one; better detections get the smaller number."""
        waiting = (tracks["id"] == 0) & (tracks["row"] >= 0)
        again = (tracks["born_s"] < time_s) & (time_s - tracks["born_s"] >= self.settings.confirm_s)
        earned = np.flatnonzero(waiting & (again | (tracks["score"] >= self.settings.sure)))
        earned = earned[np.argsort(-tracks["score"][earned], kind="stable")]
        tracks["id"][earned] = np.arange(self._next_id, self._next_id + len(earned))
        self._next_id += len(earned)


def _see(tracks: Table, which: Indices, rows: Indices, found: Detections, time_s: float) -> None:
    """Notes which tracks were seen in which detections, and that the others were not."""
    tracks["row"] = -1
    tracks["row"][which] = rows
    tracks["seen_s"][which] = time_s
    tracks["score"][which] = found.scores[rows]


def _begun(found: Detections, rows: Indices, time_s: float, settings: TrackerSettings) -> Table:
    """New tracks of some detections."""
    tracks = np.zeros(len(rows), _TRACK)
    tracks["class_id"], tracks["score"], tracks["row"] = found.class_ids[rows], found.scores[rows], rows
    tracks["born_s"] = tracks["seen_s"] = time_s
    tracks["motion"] = Motion.begin(found.boxes_xyxy[rows], settings).state
    return tracks


class _Matches:
    """Pairs of tracks and detections, found in several stages."""

    def __init__(self, found: Detections, tracks: Table, seconds: float) -> None:
        # At a low frame rate a box need not meet the one before at all. So both grow by the way that is uncertain, as
        # with buffered IoU (arXiv 2211.14317), whose margin is fixed; here it is nothing at 25 frames a second.
        motion = Motion(tracks["motion"])
        reach = motion.reach(seconds)[:, None]
        overlaps = pairwise_iou(motion.boxes_xyxy[:, None] + reach, found.boxes_xyxy.astype(np.float64) + reach)[:, 0]
        same_class = tracks["class_id"][:, None] == found.class_ids[None, :]
        self._similarity: Floats = np.where(same_class, overlaps, 0.0)
        self._matched = np.zeros(len(tracks), np.bool_)
        self.taken = np.zeros(len(found), np.bool_)
        self._pairs: list[tuple[Indices, Indices]] = []

    def add(self, which: Indices, rows: Indices, least: float) -> None:
        """Matches those of the tracks ``which`` and of the detections ``rows`` that are left."""
        which, rows = which[~self._matched[which]], rows[~self.taken[rows]]
        if not (len(which) and len(rows)):
            return
        of_which, of_rows = assign(self._similarity[np.ix_(which, rows)], least)
        self._matched[which[of_which]] = self.taken[rows[of_rows]] = True
        self._pairs.append((which[of_which], rows[of_rows]))

    @property
    def pairs(self) -> tuple[Indices, Indices]:
        """Tracks and the rows of their detections."""
        nothing = np.zeros(0, np.int64)
        which, rows = (np.concatenate([nothing, *(pair[side] for pair in self._pairs)]) for side in (0, 1))
        return which, rows


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """What is saved."""

    settings: TrackerSettings
    time_s: float | None
    next_id: int
    names: tuple[str, ...]
    size_hw: tuple[int, int] | None
    tracks: dict[str, list[Any]]
    camera: CameraState | None
    format: int = 1


def _table(columns: dict[str, list[Any]], path: Path) -> Table:
    """The tracks that were saved.

    Raises:
        InputError: not the columns of tracks.
    """
    tracks = np.zeros(len(columns.get("id", ())), _TRACK)
    try:
        for name in _COLUMNS:
            # Assigning a shorter list of one would repeat it.
            if len(columns[name]) != len(tracks):
                raise ValueError
            tracks[name] = columns[name]
    except (KeyError, ValueError, TypeError):
        raise InputError(f"{path} is damaged: its columns are not those of tracks") from None
    return tracks


def _canonical_order(found: Detections) -> Indices:
    """An order of the detections that depends on nothing but themselves, nor on left and right where that can be."""
    x1, y1, x2, y2 = found.boxes_xyxy.T
    return np.lexsort((x1, x2 - x1, y2, y1, found.class_ids, -found.scores))
