"""Measures the sequences of a MOTChallenge folder, and writes metrics and strips of mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from phidet.core.csv_files import write_csv
from phidet.core.files import write_atomic, write_atomic_with
from phidet.core.numbers import evenly_spaced
from phidet.evaluation.tracks.metrics import Measurement, TrackMetrics
from phidet.evaluation.tracks.mistakes import TrackMistake, draw_strips, find_mistakes
from phidet.evaluation.tracks.motchallenge import Frames, Rows, Video, compared
from phidet.images.decode import read_image

_STRIPS = 30  # of one sequence


class TrackEvaluation(msgspec.Struct, frozen=True):
    """Metrics of each sequence by its name, and of all of them together, over all boxes."""

    sequences: dict[str, TrackMetrics]
    combined: TrackMetrics


class MeasuredVideo(msgspec.Struct, frozen=True):
    """A sequence with what was compared and what went wrong."""

    video: Video
    frames: Frames
    mistakes: list[TrackMistake]


def measure_videos(
    videos: Sequence[Video], tracks_of: Callable[[Video], Rows]
) -> tuple[TrackEvaluation, list[MeasuredVideo]]:
    """Measures the tracks of each sequence.

    Raises:
        InputError: tracks that are missing, damaged or of another video.
        MissingExtraError: the ``track-eval`` extra is not installed.
    """
    measurement = Measurement()
    metrics: dict[str, TrackMetrics] = {}
    measured: list[MeasuredVideo] = []
    for video in videos:
        frames = compared(video, tracks_of(video))
        truth, found = (frames.true_ids, frames.true_boxes), (frames.ids, frames.boxes)
        metrics[video.name] = measurement.add(video.name, truth, found)
        measured.append(MeasuredVideo(video, frames, find_mistakes(frames)))
    return TrackEvaluation(metrics, measurement.combined()), measured


def write_tracks_report(out: Path, evaluation: TrackEvaluation, measured: Sequence[MeasuredVideo]) -> list[Path]:
    """``tracks.json`` and ``tracks.csv``, the metrics; ``mistakes.csv``; ``mistakes/NAME.png`` where there are images.

    Raises:
        PhidetError: the folder cannot be written to.
        InputError: an image cannot be read.
    """
    write_atomic(out / "tracks.json", msgspec.json.format(msgspec.json.encode(evaluation)) + b"\n")
    rows = [(name, *msgspec.structs.astuple(metrics)) for name, metrics in evaluation.sequences.items()]
    rows.append(("all", *msgspec.structs.astuple(evaluation.combined)))
    write_csv(out / "tracks.csv", ("sequence", *TrackMetrics.__struct_fields__), rows)
    # Frames are numbered from 1 in files, as MOTChallenge does.
    mistakes = [
        (each.video.name, m.kind, m.frame + 1, m.before + 1, m.true_id, *m.ids)
        for each in measured
        for m in each.mistakes
    ]
    columns = ("sequence", "kind", "frame", "last_found", "object", "track_before", "track_after")
    write_csv(out / "mistakes.csv", columns, mistakes)
    written = [out / name for name in ("tracks.json", "tracks.csv", "mistakes.csv")]
    for each in measured:
        if not each.video.images or not each.mistakes:
            continue
        # From the whole video, and not from its beginning only.
        shown = [each.mistakes[i] for i in evenly_spaced(len(each.mistakes), _STRIPS)]
        sheet = draw_strips(each.frames, shown, lambda frame, video=each.video: read_image(video.images[frame]))  # type: ignore[misc]
        path = out / "mistakes" / f"{each.video.name}.png"
        written.append(write_atomic_with(path, partial(sheet.save, format="png")))
    return written
