"""``phidet eval --tracks``: HOTA, MOTA and IDF1 on MOTChallenge folders."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.tables import print_json, say_written, table
from phidet.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from phidet.evaluation.tracks.motchallenge import Rows, Video
    from phidet.evaluation.tracks.report import TrackEvaluation


def measure_tracks(args: argparse.Namespace) -> None:
    """Measures tracks that are there, or those of a model."""
    from phidet.evaluation.tracks.motchallenge import read_results, read_sequences
    from phidet.evaluation.tracks.report import measure_videos, write_tracks_report

    if len(args.given) != 1 or bool(args.tracks) == (args.model is not None):
        raise ConfigError(
            "say on which data and which tracks to measure: phidet eval DATA --tracks FOLDER; or with a model, which "
            "then tracks: phidet eval DATA -m MODEL --tracks"
        )
    videos = read_sequences(Path(args.given[0]))
    if args.model is not None:
        evaluation, measured = measure_videos(videos, _tracker(args))
    else:
        place = Path(args.tracks)
        if place.is_file() and len(videos) > 1:
            # One file holds the tracks of one sequence: frames of several would be mixed up.
            raise ConfigError(f"{place} is one file, and {args.given[0]} has {len(videos)} sequences: give a folder")
        evaluation, measured = measure_videos(videos, lambda video: read_results(place, video.name))
    if args.json:
        print_json(evaluation)
    else:
        print(f"{args.model or args.tracks} on {args.given[0]}\n\n{summarise(evaluation)}")
    if args.out is not None:
        say_written(write_tracks_report(args.out, evaluation, measured), args.json)


def _tracker(args: argparse.Namespace) -> Callable[[Video], Rows]:
    """What tracks pedestrians in the images of a sequence, with the settings of ``phidet track``."""
    import numpy as np

    from phidet.detections.fields import TRACK_ID
    from phidet.detections.settings import PostprocessSettings
    from phidet.evaluation.tracks.motchallenge import Rows
    from phidet.images.sources import Unusable, read_sources
    from phidet.inference.detector import Detector
    from phidet.inference.track import TrackSettings, as_video, track_stream

    detector, settings = Detector(args.model, runtime=args.runtime), TrackSettings()
    # MOTChallenge counts people only; a model that knows no such class is taken to find nothing else.
    classes = ("person",) if "person" in detector.class_names else None
    postprocess = PostprocessSettings(score=settings.tracker.low, max_detections=300, classes=classes)

    def track(video: Video) -> Rows:
        if not video.images:
            raise InputError(f"{video.folder} has no images to track in: give the tracks, --tracks FOLDER")
        rows: list[tuple[float, ...]] = []
        items = as_video(read_sources([str(video.images[0].parent)]), video.rate)
        for item in track_stream(detector, items, postprocess, settings):
            if isinstance(item, Unusable):
                raise item.error
            image, found = item
            ids = np.asarray(found.fields[TRACK_ID]).tolist()
            boxes = found.boxes_xyxy.tolist()
            rows += [(image.frame or 0, i, *box) for i, box in zip(ids, boxes, strict=True)]
        table = np.array(rows, np.float64).reshape(-1, 6)
        # Tracks all count; only the truth has boxes that need not be found.
        every = np.ones(len(table), np.bool_)
        return Rows(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:], every, ~every)

    return track


def summarise(evaluation: TrackEvaluation) -> str:
    """A table of the sequences."""
    rows = [*evaluation.sequences.items()]
    if len(rows) > 1:
        rows.append(("all", evaluation.combined))
    header = ("", "HOTA", "DetA", "AssA", "MOTA", "IDF1", "switches", "fragments", "missed", "false", "tracks")
    lines = [
        (name, *(f"{100 * v:.1f}" for v in (m.hota, m.det_a, m.ass_a, m.mota, m.idf1)),
         *(f"{n:,}" for n in (m.switches, m.fragments, m.misses, m.false_boxes)), f"{m.tracks} of {m.true_tracks}")
        for name, m in rows
    ]  # fmt: skip
    return table(header, lines)
