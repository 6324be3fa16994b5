"""``phidet align``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_json, add_model, add_out, add_runtime, seed_number
from phidet.cli.report import StatusLine
from phidet.core.errors import ConfigError, InputError, NoPoseError, NotRightError, PhidetError
from phidet.core.words import count

if TYPE_CHECKING:
    from PIL.Image import Image

    from phidet.detections.alignment.results import Alignment
    from phidet.detections.alignment.statistics import AxisStatistics, SeriesStatistics
    from phidet.detections.protocol import SupportsDetect
    from phidet.detections.sinks.base import Names
    from phidet.images.sources import SourceImage, Unusable
    from phidet.inference.align import Aligner

OUT = Path("alignment")
EPILOG = """\
NOMINAL is a pick-and-place (centroid) list as KiCad, Altium or Eagle write it, JSON, or an image of a right assembly.
IMAGE is an image, a folder or a quoted pattern; a series is taken in the order of names. The labels of the list must be
classes of the model: --label-column says which column they are in, --classes what they mean.

what is written into the folder of --out:
  parts.csv        a line for each part of each image: verdict, places in the list's unit and in pixels, deviations
                   and their uncertainty
  statistics.csv   for a series, a line for each part: mean, sigma, Cp and Cpk of the tolerance, drift
  alignment.json   both, and the pose of each image
  images/          the images with verdicts and enlarged deviations drawn; not with --no-images

examples:
  phidet align board.csv photo.jpg -m runs/parts
  phidet align board-pos.csv photos -m runs/parts --classes R=resistor,C=capacitor --tolerance 0.2
  phidet align board.csv photos -m runs/parts --relations runs/relations-attention-1 --score 0.5
  phidet align golden.jpg line/*.jpg -m runs/parts --refine template --tolerance 1.5

exit code: 0 everything on every image is right; 8 a part is not; 9 an image's pose was not found, or is ambiguous, so
that it was not judged; 3 an image or the list cannot be read; 2 settings. Of several the first of 3, 9, 8.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet align``."""
    parser.epilog = EPILOG
    parser.usage = "%(prog)s NOMINAL IMAGE [IMAGE …] -m MODEL [options]"
    parser.add_argument("nominal", metavar="NOMINAL", help="a list of parts, or an image of a right assembly")
    parser.add_argument("sources", nargs="+", metavar="IMAGE", help="images of the same design; see below")
    add_model(parser, "an export (.onnx, .xml, .tflite), a model file, a run's folder, a published name")
    add_out(parser, "FOLDER", f"where to write ({OUT})")
    parser.add_argument("--no-images", action="store_true", help="draw nothing")
    add_json(parser, "a JSON line for each image,")
    listed = parser.add_argument_group("the list")
    listed.add_argument("--label-column", metavar="NAME", help="column of the parts' labels (Class, Label, else Value)")
    listed.add_argument(
        "--classes", metavar="A=B,…", help="label, or first letters of references, = class of the model"
    )
    listed.add_argument("--unit", choices=("mm", "mil", "inch"), help="of places, where the list does not say (mm)")
    listed.add_argument("--side", choices=("auto", "top", "bottom"), default="auto", help="that is seen (auto)")
    pose = parser.add_argument_group("the pose")
    pose.add_argument(
        "--pose",
        choices=("similarity", "affine", "homography"),
        default="homography",
        help="the most general that is tried; the simplest that explains the places is taken (homography)",
    )
    pose.add_argument(
        "--pose-from",
        choices=("parts", "image"),
        default="parts",
        help="image: corners and edges of the image NOMINAL, for models that find little on a right board (parts)",
    )
    pose.add_argument("--distortion", action="store_true", help="lenses distort: fit one radial coefficient")
    pose.add_argument("--mirrored", choices=("auto", "no", "yes"), default="auto", help="the drawing in images (auto)")
    pose.add_argument("--least-share", type=float, default=0.35, metavar="S", help="of parts to agree, 0…1 (0.35)")
    pose.add_argument("--seed", type=seed_number, default=0, metavar="N", help="of the search (0)")
    judged = parser.add_argument_group("what is right")
    judged.add_argument(
        "--tolerance", type=float, metavar="T", help="largest deviation, in the list's unit (by scatter)"
    )
    judged.add_argument("--reach", type=float, metavar="D", help="where a moved part is looked for (¾ of the spacing)")
    judged.add_argument("--partial", action="store_true", help="parts outside the image are no fault")
    judged.add_argument(
        "--refine",
        choices=("none", "centroid", "template"),
        default="none",
        help="places finer than boxes: centroid, or comparison with the image NOMINAL (none)",
    )
    found = parser.add_argument_group("the detector")
    found.add_argument("--score", type=float, default=0.3, metavar="S", help="lowest score, 0…1 (0.3)")
    found.add_argument(
        "--confirm",
        type=float,
        metavar="S",
        help="lowest score that confirms a part of its class in its place: what is unsure is not missing (--score)",
    )
    found.add_argument(
        "--relations", metavar="FILE", help="correct what is found by relations: an export of --task relations"
    )
    found.add_argument("--tile", type=int, metavar="N", help="also detect on overlapping tiles of N pixels")
    add_runtime(found)


def run(args: argparse.Namespace) -> None:
    """Aligns every image; prints a line for each, writes the report; the verdict is the exit code."""
    from phidet.cli.native_noise import without_native_noise
    from phidet.data.nominal_file import NominalOptions, doubtful_unit
    from phidet.detections.alignment.settings import AlignSettings
    from phidet.detections.settings import PostprocessSettings
    from phidet.images.sources import check_sources_outside
    from phidet.inference.align import Aligner
    from phidet.inference.tiles import check_tile

    if args.model is None:
        raise ConfigError("say which model finds the parts: phidet align NOMINAL IMAGE -m MODEL")
    out = args.out or OUT
    # Before anything is written: an image in the output folder could be overwritten.
    check_sources_outside([args.nominal, *args.sources], out)
    settings = AlignSettings(
        pose=args.pose,
        pose_from=args.pose_from,
        distortion=args.distortion,
        side=args.side,
        mirrored=args.mirrored,
        tolerance=args.tolerance,
        reach=args.reach,
        least_share=args.least_share,
        score=0.0 if args.confirm is None else args.score,
        refine=args.refine,
        partial=args.partial,
        seed=args.seed,
    )
    # Two scores: the detector gives everything above the lower one, and the alignment lets that only confirm parts.
    if args.confirm is not None and not args.confirm <= args.score:
        raise ConfigError(f"--confirm must be at most --score, {args.score:g}, got {args.confirm:g}")
    postprocess = PostprocessSettings(score=args.score if args.confirm is None else args.confirm)
    check_tile(args.tile, postprocess)
    with without_native_noise():
        aligner = Aligner(
            args.nominal,
            _detector(args),
            settings,
            postprocess,
            options=NominalOptions(args.unit, args.label_column),
            classes=_mapping(args.classes),
            tile=args.tile,
        )
        report = _Report(args.json)
        if aligner.left_out:
            report.note(f"{aligner.left_out} listed parts are left out: their labels are no classes of the model")
        doubt = None if args.unit else doubtful_unit(aligner.nominal)
        if doubt is not None:
            report.note(doubt)
        # All of them, as capability and drift are those of the whole series.
        series = list(_series(aligner, args, out, report))
    _finish(series, report, out, settings.tolerance)


def _detector(args: argparse.Namespace) -> SupportsDetect:
    """What finds the parts; corrected by relations, where they are given."""
    from phidet.inference.detector import Detector

    detector = Detector(args.model, runtime=args.runtime)
    if args.relations is None:
        return detector
    from phidet.inference.relations import RelatedDetector, open_relations

    if args.tile is not None:
        raise ConfigError("--relations are between the parts of a whole image: leave out --tile")
    relations, seen = open_relations(args.relations, detector, args.model)
    return RelatedDetector(seen, relations)


def _series(aligner: Aligner, args: argparse.Namespace, out: Path, report: _Report) -> Iterator[Alignment]:
    """Each image's alignment, reported and drawn."""
    from phidet.detections.alignment.drawing import draw_alignment
    from phidet.detections.sinks.base import Names
    from phidet.images.sources import Unusable, read_sources
    from phidet.inference.stream import detect_stream

    names = Names()
    items = read_sources(args.sources, out, report.note)
    # One image at a time, so that each line appears as soon as its image is judged.
    for item in detect_stream(aligner.detector, items, aligner.postprocess, 1, args.tile):
        if isinstance(item, Unusable):
            report.failed(item)
            continue
        image, found = item
        try:
            name = image.source if image.frame is None else f"{image.source}#{image.frame}"
            alignment = aligner.align(image.image, found, name)
        except PhidetError as error:
            report.failed(Unusable(image.source, error))
            continue
        report.aligned(alignment)
        if not args.no_images:
            _write_image(out / "images", names, image, draw_alignment(image.image, alignment))
        yield alignment


def _write_image(folder: Path, names: Names, image: SourceImage, drawn: Image) -> None:
    """Writes a drawn image under the original's name; a frame of a video with its number."""
    from phidet.detections.sinks.annotated import writable_name, write_image

    still = image.frame is None
    name = names.of(image, writable_name(image.name, drawn.size)) if still else names.png_of_frame(image)
    write_image(folder, name, drawn)


def _finish(series: Sequence[Alignment], report: _Report, out: Path, tolerance: float | None) -> None:
    """Writes the report and raises what the exit code says."""
    from phidet.detections.alignment.files import write_json, write_parts, write_statistics
    from phidet.detections.alignment.statistics import series_statistics

    # The report is written whatever the verdict is; only then the exit code tells it.
    statistics = series_statistics(series, tolerance)
    written = [write_parts(out / "parts.csv", series)]
    if len(series) > 1:
        written.append(write_statistics(out / "statistics.csv", statistics))
    written.append(write_json(out / "alignment.json", series, statistics))
    report.done(statistics, written)
    # The first that applies, as --help says: what was not read, what was not judged, what is wrong.
    if report.errors:
        raise InputError(f"{count(len(report.errors), 'image')} could not be used")
    lost = sum(one.pose is None for one in series)
    if lost:
        raise NoPoseError(f"{lost} of {len(series)} images could not be judged: no pose that is certain")
    wrong = sum(not one.right for one in series)
    if wrong:
        raise NotRightError(f"{wrong} of {len(series)} images show something that is not right")


class _Report:
    """Output during a run: a line for each image on standard output, notes and progress on standard error."""

    def __init__(self, json_lines: bool) -> None:
        self.errors: list[PhidetError] = []
        self._json, self._done, self._progress = json_lines, 0, StatusLine()

    def aligned(self, alignment: Alignment) -> None:
        """Reports an image."""
        import msgspec

        self._done += 1
        self._progress.clear()
        print(msgspec.json.encode(alignment).decode() if self._json else _line(alignment), flush=True)
        self._progress.show(f"{self._done} images")

    def failed(self, unusable: Unusable) -> None:
        """Reports an image that cannot be used."""
        self.errors.append(unusable.error)
        self.note(str(unusable.error))

    def note(self, text: str) -> None:
        """Prints a note on standard error."""
        self._progress.note(text)

    def done(self, statistics: SeriesStatistics, written: Sequence[Path]) -> None:
        """The series in a table, if it is one, and what was written."""
        self._progress.clear()
        if statistics.images > 1 and not self._json:
            print(f"\n{_summary(statistics)}\n")
        print(f"wrote {', '.join(str(path) for path in written)}", file=sys.stderr)


def _line(one: Alignment) -> str:
    """An image in a line: counts, and the faulty parts by name."""
    from phidet.detections.alignment.results import FAULTS
    from phidet.detections.sinks.base import readable

    if one.pose is None:
        return f"{readable(one.image)}: no pose ({one.reason}): {one.message}"
    groups = []
    for verdict, number in one.counts().items():
        text = f"{number} {verdict}"
        if verdict in FAULTS:
            names = [
                (part.reference or f"{part.found_label}")
                + (f" by {part.deviation:.3g} {one.unit}" if verdict == "displaced" else "")
                + (f" ({part.found_label})" if verdict == "wrong label" else "")
                for part in one.parts
                if part.verdict == verdict
            ]
            shown = names if len(names) <= 8 else [*names[:8], f"and {len(names) - 8} more"]
            text += f": {', '.join(shown)}"
        groups.append(text)
    return f"{readable(one.image)}: {'; '.join(groups)}"


def _summary(statistics: SeriesStatistics) -> str:
    """The parts of a series that matter most: those with faults, drift, or the least Cpk."""
    from phidet.cli.tables import or_dash, table

    def cpk(axis: AxisStatistics | None) -> float:
        return axis.cpk if axis is not None and axis.cpk is not None else float("inf")

    def spread(axis: AxisStatistics | None) -> float:
        return axis.sigma if axis is not None and axis.sigma is not None else 0.0

    # Faults first, then the parts that are nearest to their tolerance, then those that scatter most.
    parts = sorted(
        statistics.parts,
        key=lambda part: (
            -sum(part.faults.values()),
            min(cpk(part.x), cpk(part.y)),
            -max(spread(part.x), spread(part.y)),
        ),
    )
    rows = []
    for part in parts[:12]:
        axes = [part.x, part.y]
        rows.append(
            [
                part.reference,
                str(part.measured),
                ", ".join(f"{n} {verdict}" for verdict, n in part.faults.items()) or "–",
                *(or_dash(None if axis is None else axis.mean, "{:.3f}") for axis in axes),
                *(or_dash(None if axis is None else axis.sigma, "{:.3f}") for axis in axes),
                *(or_dash(None if axis is None else axis.cpk, "{:.2f}") for axis in axes),
                ", ".join(name for name, axis in zip("xy", axes, strict=True) if axis is not None and axis.drifts)
                or "–",
            ]
        )
    unit = statistics.unit
    header = ["part", "measured", "faults", f"x {unit}", f"y {unit}", "σx", "σy", "Cpk x", "Cpk y", "drifts"]
    drifting = [name for name, axis in statistics.board.items() if axis.drifts]
    lines = [table(header, rows)]
    if len(parts) > len(rows):
        lines.append(f"and {len(parts) - len(rows)} more parts in statistics.csv")
    lines.append(
        f"{statistics.images} images: {statistics.right} right, {statistics.located - statistics.right} with faults, "
        f"{statistics.images - statistics.located} without a pose"
        + (f"; the board's {', '.join(drifting)} drifts" if drifting else "")
    )
    return "\n".join(lines)


def _mapping(text: str | None) -> dict[str, str]:
    """ "R=resistor,C=capacitor" as a dictionary.

    Raises:
        ConfigError: not of that form.
    """
    mapping: dict[str, str] = {}
    for pair in (text or "").split(","):
        key, sign, value = (part.strip() for part in pair.partition("="))
        if pair.strip() and not (key and sign and value):
            raise ConfigError(f"--classes: expected LABEL=CLASS separated by commas, got {pair!r}")
        # A comma at the end is forgiven.
        if key:
            mapping[key] = value
    return mapping
