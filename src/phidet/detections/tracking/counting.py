"""Counts tracks that cross lines and stay in zones.

Each object is one point, its anchor: the middle of its lower edge, where it stands, or its centre. Boxes tremble, so
that an object on a line would cross it in every frame. Therefore an object changes sides only when it is further from
the line than ``margin``, a share of its own size, on one side and then on the other:

- an object that runs along a line, within the margin, is not counted, however often it changes sides;
- one that turns on the line, without getting further than the margin beyond it, is not counted;
- one that crosses and comes back is counted in and out, once each;
- what counts is where the way meets the line last: beyond its ends nothing is counted.

An object is in a zone from the first frame in which its anchor is inside, also where its track begins there, to the
last such frame; it has left when its anchor is further outside than the margin, or when its track has ended.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.structs import require, require_one_of
from phidet.detections.detections import Detections
from phidet.detections.fields import TRACK_ID
from phidet.detections.tracking.places import (
    Place,
    check_names,
    crosses_between_ends,
    distance_to_border,
    is_inside,
    side_of_line,
)

Anchor = Literal["bottom", "centre"]
Kind = Literal["in", "out", "enter", "leave"]
Floats = npt.NDArray[np.float64]
log = logging.getLogger("phidet")


class CountSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is counted, and how.

    Attributes:
        places: lines and zones.
        anchor: which point of a box stands for its object.
        margin: how far an object must be from a line, and outside a zone, in shares of its side, the mean of its
            width and height.
        forget_s: a track that was not seen for longer has ended; no less than the tracker's ``lost_s``.
    """

    places: tuple[Place, ...]
    anchor: Anchor = "bottom"
    margin: float = 0.1
    forget_s: float = 1.0

    def __post_init__(self) -> None:
        check_names(self.places)
        require_one_of("anchor", self.anchor, Anchor)
        require(self.margin >= 0, f"margin must be 0 or more, got {self.margin!r}")
        require(self.forget_s >= 0, f"forget_s must be 0 or more seconds, got {self.forget_s!r}")


class CountEvent(msgspec.Struct, frozen=True):
    """One crossing, arrival or departure.

    Attributes:
        time_s: when; of ``leave``, when it was last inside.
        place: name of the line or zone.
        kind: ``in`` and ``out`` of a line: from the left of its direction to the right, and back (a line that is drawn
            from left to right counts what comes down the image as in); ``enter`` and ``leave`` of a zone.
        track_id: of the object.
        label: name of its class.
        dwell_s: of ``leave``: how long it was inside.
    """

    time_s: float
    place: str
    kind: Kind
    track_id: int
    label: str
    dwell_s: float | None = None


class PlaceTotals(msgspec.Struct):
    """Numbers of one place and class so far: ``in_`` and ``out`` of a line; of a zone, how many entered and left, and
    for how long those that left had stayed, in seconds."""

    in_: int = 0
    out: int = 0
    entered: int = 0
    left: int = 0
    dwell_total_s: float = 0.0
    dwell_longest_s: float = 0.0

    @property
    def inside(self) -> int:
        """How many are in the zone now."""
        return self.entered - self.left


class _Visit(msgspec.Struct):
    """A track's relation to one place: of a line, the side where it settled (0: none yet), the side it is on, and
    whether it passed between the ends when it changed sides last; of a zone, when it came and was last inside."""

    settled: int = 0
    side: int = 0
    passed: bool = False
    entered_s: float | None = None
    inside_s: float = 0.0


class _Known(msgspec.Struct):
    """What is known of one track."""

    label: str
    anchor: Floats
    seen_s: float
    visits: list[_Visit]


class Counter:
    """Counts in one video or stream. Memory is that of the tracks of the last ``forget_s`` seconds.

    Attributes:
        totals: place → class → numbers so far.
    """

    def __init__(self, settings: CountSettings) -> None:
        self.settings = settings
        self.totals: dict[str, dict[str, PlaceTotals]] = {place.name: {} for place in settings.places}
        self._known: dict[int, _Known] = {}
        self._size_hw = (0, 0)
        self._last_s = -math.inf  # of the frame before

    def update(self, tracked: Detections, time_s: float, size_hw: tuple[int, int]) -> list[CountEvent]:
        """What happened with the next frame, in the order of ids and places.

        Args:
            tracked: with the field ``track_id``.
            time_s: of the frame.
            size_hw: of the frame, for places in shares.
        """
        # Who has gone leaves first: somebody whose track was lost is not inside twice.
        # A track waits at least until the next frame, however late that comes: those of the last one are still here.
        events = list(self._forget(min(time_s - self.settings.forget_s, self._last_s)))
        self._last_s = time_s
        places = [place.in_pixels(size_hw) for place in self.settings.places]
        self._warn(size_hw)
        anchors = anchors_of(tracked, self.settings.anchor)
        # The margin grows with the object: boxes of large ones tremble by more pixels.
        sizes = (tracked.boxes_xyxy[:, 2:] - tracked.boxes_xyxy[:, :2]).mean(axis=1).tolist()
        ids = np.asarray(tracked.fields[TRACK_ID]).tolist()
        # By ids, so that the order of detections changes nothing.
        for row in np.argsort(ids).tolist():
            track_id, anchor, margin = ids[row], anchors[row], self.settings.margin * sizes[row]
            known = self._known.get(track_id)
            if known is None:
                visits = [_Visit() for _ in places]
                known = self._known[track_id] = _Known(tracked.labels[row], anchor, time_s, visits)
            for place, shape, visit in zip(self.settings.places, places, known.visits, strict=True):
                if place.is_line:
                    kind = _step_over_line(visit, shape, (known.anchor, anchor), margin)
                    event = None if kind is None else CountEvent(time_s, place.name, kind, track_id, known.label)
                else:
                    event = _step_in_zone(visit, shape, anchor, margin, (time_s, place.name, track_id, known.label))
                if event is not None:
                    events.append(event)
            known.anchor, known.seen_s = anchor, time_s
        for event in events:
            self._add(event)
        return events

    def _warn(self, size_hw: tuple[int, int]) -> None:
        """Once for each size of frames, about places where nothing can be counted."""
        if size_hw == self._size_hw:
            return
        self._size_hw = size_hw
        for place in self.settings.places:
            if (doubt := place.doubt(size_hw)) is not None:
                log.warning("%s", doubt)

    def end(self) -> list[CountEvent]:
        """The video has ended, and with it all tracks: those that were in a zone leave it."""
        events = list(self._forget(float("inf")))
        for event in events:
            self._add(event)
        return events

    def _forget(self, before_s: float) -> Iterator[CountEvent]:
        """Drops tracks that were last seen before; they leave the zones that they were in."""
        for track_id in sorted(t for t, known in self._known.items() if known.seen_s < before_s):
            known = self._known.pop(track_id)
            for place, visit in zip(self.settings.places, known.visits, strict=True):
                if visit.entered_s is not None:
                    yield _left(visit, place.name, track_id, known.label)

    def _add(self, event: CountEvent) -> None:
        totals = self.totals[event.place].setdefault(event.label, PlaceTotals())
        totals.in_ += event.kind == "in"
        totals.out += event.kind == "out"
        totals.entered += event.kind == "enter"
        totals.left += event.kind == "leave"
        if event.dwell_s is not None:
            totals.dwell_total_s += event.dwell_s
            totals.dwell_longest_s = max(totals.dwell_longest_s, event.dwell_s)


def anchors_of(found: Detections, anchor: Anchor) -> Floats:
    """(N, 2) float64: the point that stands for each object."""
    boxes = found.boxes_xyxy.astype(np.float64)
    y = boxes[:, 3] if anchor == "bottom" else (boxes[:, 1] + boxes[:, 3]) / 2
    return np.stack(((boxes[:, 0] + boxes[:, 2]) / 2, y), axis=1)


def _step_over_line(visit: _Visit, line: Floats, way: tuple[Floats, Floats], margin: float) -> Kind | None:
    """Moves an object; ``in`` or ``out`` where it has now crossed."""
    away = side_of_line(line, way[1])
    # Exactly on the line is neither side: it stays on the one where it was.
    side = visit.side if away == 0 else (1 if away > 0 else -1)
    # Where it passed the line shows now, whether it means to only beyond the margin, perhaps some frames later.
    if visit.side and side != visit.side:
        visit.passed = crosses_between_ends(line, *way)
    visit.side = side
    if abs(away) < margin or away == 0 or side == visit.settled:
        return None
    before, visit.settled = visit.settled, side
    if not before or not visit.passed:
        return None
    return "in" if side > 0 else "out"


def _step_in_zone(
    visit: _Visit, polygon: Floats, anchor: Floats, margin: float, about: tuple[float, str, int, str]
) -> CountEvent | None:
    """Moves an object; the event where it has now come or gone."""
    time_s, place, track_id, label = about
    if is_inside(polygon, anchor):
        visit.inside_s = time_s
        if visit.entered_s is None:
            visit.entered_s = time_s
            return CountEvent(time_s, place, "enter", track_id, label)
    elif visit.entered_s is not None and distance_to_border(polygon, anchor) > margin:
        return _left(visit, place, track_id, label)
    return None


def _left(visit: _Visit, place: str, track_id: int, label: str) -> CountEvent:
    # Until it was last inside: how long it took to be sure that it has gone is no part of its stay.
    dwell_s = visit.inside_s - (visit.entered_s or 0.0)
    visit.entered_s = None
    return CountEvent(visit.inside_s, place, "leave", track_id, label, dwell_s)
