"""Tracks by a network that says which detections are the same object in the next frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID
from phidet.detections.graphs.frames import FRAME, join_frames, matches_of
from phidet.detections.tracking.settings import TrackerSettings
from phidet.inference.relations import Relations

_ROW = "row"
_SEEN = "seen_s"


class RelationsTracker:
    """In the place of :class:`~phidet.detections.tracking.tracker.Tracker`, one for each video.

    The objects that have a track, where each was last seen, and the detections of the next frame are one graph; the
    network's answers pair them. Neither motion nor overlap is assumed, so objects may move by more than their size as
    long as their neighbours tell where they went.

    Args:
        relations: trained on frames.
        settings: ``low``, ``start`` and ``lost_s`` are used.

    Raises:
        ConfigError: a network that was trained on single images.
    """

    def __init__(self, relations: Relations, settings: TrackerSettings) -> None:
        if FRAME not in relations.config.fields or "together" not in relations.config.answers:
            raise ConfigError(
                "the network was not trained on frames of videos, whose images have video_id and frame_id and whose "
                "objects have track_id"
            )
        self._relations, self._settings = relations, settings
        self._next_id = 1
        self._tracks: Detections | None = None  # where each was last seen, with its id and time

    def update(self, found: Detections, time_s: float, image: npt.NDArray[np.uint8] | None = None) -> Detections:
        """The objects of the next frame that have a track, with the field ``track_id``."""
        settings = self._settings
        # The network was trained on detections from its own lowest score on.
        found = found.filter(max(settings.low, self._relations.settings().least_score))
        ids = np.full(len(found), -1, np.int64)
        if self._tracks is not None and len(self._tracks) and len(found):
            rows, columns = self._pairs(self._tracks, _marked(found, ids, time_s))
            ids[columns] = np.asarray(self._tracks.fields[TRACK_ID])[rows]
        # What was paired goes on; of the rest, only what is sure begins a track.
        new = np.flatnonzero((ids < 0) & (found.scores >= settings.start))
        ids[new] = self._next_id + np.arange(len(new))
        self._next_id += len(new)
        kept = ids >= 0
        self._remember(_marked(found[kept], ids[kept], time_s), time_s)
        return found[kept].with_fields({TRACK_ID: ids[kept]})

    def predict(self, time_s: float) -> Detections:
        """Not possible.

        Raises:
            ConfigError: always: the network says nothing of frames that it has no detections of.
        """
        raise ConfigError("a network on frames cannot say where objects are between detections: detect on every frame")

    def _pairs(self, tracks: Detections, found: Detections) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of ``tracks`` and of ``found`` that are one object."""
        related = self._relations.relate(join_frames(tracks, found))
        assert related.together is not None
        # The network sorts anew; the numbers of the rows go with the detections.
        nodes = related.graph.detections.fields
        matched = matches_of(np.asarray(nodes[FRAME]), related.graph.edges, related.together)
        rows, columns = np.asarray(nodes[_ROW])[matched]
        return rows, columns

    def _remember(self, seen: Detections, time_s: float) -> None:
        """Keeps what was seen, and for some time what was not."""
        if self._tracks is not None and len(self._tracks):
            ids, seen_s = (np.asarray(self._tracks.fields[name]) for name in (TRACK_ID, _SEEN))
            lost = ~np.isin(ids, np.asarray(seen.fields[TRACK_ID])) & (time_s - seen_s <= self._settings.lost_s)
            seen = join_frames(seen, self._tracks[lost])
        self._tracks = seen.with_fields({_ROW: np.arange(len(seen))})


def _marked(found: Detections, ids: npt.NDArray[np.int64], time_s: float) -> Detections:
    """The detections with what is remembered of them."""
    return found.with_fields({TRACK_ID: ids, _SEEN: np.full(len(found), time_s), _ROW: np.arange(len(found))})
