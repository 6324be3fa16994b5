"""``phidet doctor``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phidet.architectures.registry import architecture_of, published_config
from phidet.cli.arguments import add_image_size, add_json, add_layout, add_limit, add_model, add_out, seed_number
from phidet.cli.native_noise import without_native_noise
from phidet.cli.tables import or_dash, print_json, table
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.core.words import count, few
from phidet.data.data_folder import LAYOUT_NAMES

if TYPE_CHECKING:
    from phidet.data.doctor.examine import Examination
    from phidet.data.doctor.facts import Report, SplitFacts

EPILOG = """reads COCO JSON, Pascal VOC, YOLO and TFRecord, recognised by what the files hold

examples:
  phidet doctor my-data                               the report
  phidet doctor my-data --out look --fix clean-data   image sheets, and a clean copy
  phidet doctor my-data --model efficientdet-d0 --image-size 640
  phidet doctor my-data --augmented --augment policy=v1 mosaic=0.5   augmented training images

--fix leaves out: images that cannot be decoded or differ in size from their labels; duplicate boxes; exact
copies of images (an image in several splits stays in test or val and leaves train). Near copies stay.

exit code: 0 with warnings or notes only; 3 with errors that would break training: a split that cannot be read or
is empty, no objects, images that cannot be decoded or differ in size from their labels.
"""
_MOST_CLASSES = 12
_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet doctor``."""
    parser.epilog = EPILOG
    parser.add_argument("data", type=Path, metavar="DATA", help="a data folder, or its JSON or YAML file")
    add_model(parser, "whose anchors to try (efficientdet-lite0)", default="efficientdet-lite0")
    add_image_size(parser)
    add_layout(parser)
    parser.add_argument("--fast", action="store_true", help="read headers only; no near copies, no damaged pixels")
    add_out(parser, "FOLDER", "write image sheets and histograms (PNG)")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a clean copy (COCO JSON); DATA is not changed")
    parser.add_argument(
        "--prelabels", type=Path, metavar="FOLDER", help="compare with what 'phidet label' wrote: what people changed"
    )
    parser.add_argument("--augmented", action="store_true", help="write augmented.png: augmented training images")
    parser.add_argument("--recipe", default="auto", metavar="NAME", help="whose augmentation to show (auto)")
    parser.add_argument(
        "--augment",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes to it: policy=v1 mosaic=0.5 flip=0, or a function of your own: MODULE:FUNCTION",
    )
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="which samples the sheets show (0)")
    add_limit(parser, 3, "findings of a kind to print")
    add_json(parser, "everything")


@without_native_noise()
def run(args: argparse.Namespace) -> None:
    """Examines, prints, draws and writes what was asked for; errors end in exit code 3."""
    from phidet.data.doctor.examine import examine

    if args.fix is not None:
        from phidet.data.doctor.fix import check_target

        check_target(args.data, args.fix)  # now, not after minutes
    if args.augment:
        _check_augment(args)
    config = published_config(args.model, "boxes")
    if args.image_size is not None:
        config = architecture_of(config).resized(config, args.image_size)
    # The model is only needed for its anchors and input size: no weights are loaded.
    view = architecture_of(config).doctor_view(config)
    examination = examine(args.data, view, decode=not args.fast, layout=args.layout)
    report = examination.report
    # JSON for programs goes to standard output; everything else there would break their parsers.
    if args.json:
        print_json(report)
    else:
        print(text(report, max(0, args.limit)))
    if args.prelabels is not None:
        from phidet.evaluation.prelabels import compare, read_record

        print(compare(read_record(args.prelabels), list(examination.datasets.values())), file=sys.stderr)
    if args.out is not None:
        _draw(examination, view, args)
    if args.augmented:
        _augmented(config, args)
    if args.fix is not None:
        _fix(examination, args.fix)
    if report.errors:
        raise InputError(f"{count(report.errors, 'error')} in {args.data} that would break training, named above")


def _draw(examination: Examination, view: Any, args: argparse.Namespace) -> None:
    from phidet.data.doctor.charts import write_charts
    from phidet.data.doctor.sheets import write_sheets

    try:
        args.out.mkdir(parents=True, exist_ok=True)
        written = write_charts(examination.report, examination.datasets, view, args.out)
        written += write_sheets(examination, args.out, args.seed)
    except OSError as error:
        raise PhidetError(f"cannot write to {args.out}: {error.strerror or error}") from error
    for path in written:
        print(f"wrote {path}", file=sys.stderr)


def _check_augment(args: argparse.Namespace) -> None:
    """Raises ConfigError for changes that are wrong, or that nothing would be shown of: now, not after minutes."""
    if not args.augmented:
        raise ConfigError("--augment belongs to --augmented: phidet doctor DATA --augmented --augment policy=v1")
    from phidet.training.augmentation.own import imported  # needs PyTorch
    from phidet.training.augmentation.sheet import change_augmentation
    from phidet.training.recipe import Augmentation

    settings = change_augmentation(Augmentation(), args.augment)
    if settings.function is not None:
        imported(settings.function)


def _augmented(config: Any, args: argparse.Namespace) -> None:
    from phidet.data.hold_out import HELD_OUT, can_hold_out, hold_out
    from phidet.data.layouts import open_data
    from phidet.training.augmentation.sheet import change_augmentation, describe, write_augmented
    from phidet.training.recipe import recipe_named

    data = open_data(args.data, args.layout)
    train = data.read(data.train_split())
    if data.val_split() is None and can_hold_out(
        train
    ):  # as a run does: augmentation depends on an image's index in the split
        train, _ = hold_out(train, HELD_OUT, args.seed)
    settings = change_augmentation(
        recipe_named(args.recipe, len(train), architecture_of(config)).augmentation, args.augment
    )
    out = args.out if args.out is not None else Path()
    try:
        path = write_augmented(train, config, settings, out, args.seed)
    except OSError as error:
        raise PhidetError(f"cannot write to {out}: {error.strerror or error}") from error
    print(f"wrote {path}: {describe(settings)}", file=sys.stderr)


def _fix(examination: Examination, out: Path) -> None:
    from phidet.data.doctor.fix import write_fixed

    fixed = write_fixed(examination, out)
    kept = ", ".join(f"{name} {images:,}" for name, images in fixed.splits.items())
    print(
        f"wrote {fixed.out}: images {kept}; left out {fixed.faulty:,} that cannot be used, {fixed.copies:,} copies, "
        f"{fixed.boxes:,} boxes that were there twice",
        file=sys.stderr,
    )


def text(report: Report, limit: int) -> str:
    """The report for people, with up to ``limit`` findings of each kind."""
    parts = [_head(report), _splits(report), _classes(report), _boxes(report), _anchors(report)]
    parts += [_findings(report, limit), _duplicates(report, limit), _advice(report)]
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    unions = [f"{s.name} is {' + '.join(s.made_of)}" for s in report.splits if s.made_of]
    looked = "every image decoded" if report.decoded else "headers only"
    size = f"{report.image_size_hw[0]}×{report.image_size_hw[1]}"
    about = [LAYOUT_NAMES[report.layout], *unions, looked, f"for {report.model} at {size}"]
    return f"{report.path}\n  " + "; ".join(about)


def _splits(report: Report) -> str:
    columns = ["split", "images", "image size", "objects", "per image", "at most", "images without"]
    rows = [
        [
            s.name,
            f"{s.images:,}",
            _sizes(s),
            f"{s.objects:,}",
            f"{s.objects_per_image.mean:.1f}",
            f"{s.objects_per_image.largest:.0f}",
            f"{s.images_without_objects:,}",
        ]
        for s in report.splits
    ]
    for name, counts in (
        ("crowd", [s.crowd for s in report.splits]),
        ("difficult", [s.difficult for s in report.splits]),
        ("made images", [s.made for s in report.splits]),
    ):
        if any(counts):
            columns.append(name)
            # Columns that are zero for all are left out: most data have none of these.
            rows = [[*row, f"{n:,}"] for row, n in zip(rows, counts, strict=True)]
    return table(columns, rows) if rows else ""


def _sizes(split: SplitFacts) -> str:
    if not split.image_sizes:
        return "–"
    first = split.image_sizes[0]
    others = len(split.image_sizes) - 1
    return f"{first.width}×{first.height}" + (f" and {others:,} more" if others else "")


def _classes(report: Report) -> str:
    # Unions of other splits would count every object twice.
    splits = [s for s in report.splits if not s.made_of]
    total = {name: sum(s.classes.get(name, 0) for s in splits) for name in report.classes.names}
    names = sorted(total, key=lambda name: -total[name])
    # The most and the least frequent classes: the ends are what matters in a long list.
    shown = names if len(names) <= _MOST_CLASSES else [*names[: _MOST_CLASSES // 2], "…", *names[-_MOST_CLASSES // 2 :]]
    rows = [
        ["…", *("" for _ in splits)] if n == "…" else [n, *(f"{s.classes.get(n, 0):,}" for s in splits)] for n in shown
    ]
    heading = "class" if len(shown) == len(names) else f"class ({len(names)})"
    return table([heading, *(s.name for s in splits)], rows) if rows and splits else ""


def _boxes(report: Report) -> str:
    size = f"at {report.image_size_hw[0]}×{report.image_size_hw[1]}"
    rows = []
    for s in report.splits:
        shares = [
            f"{value / max(1, bins.total):.0%}"
            for bins in (s.boxes, s.boxes_at_input)
            for value in (bins.small, bins.medium, bins.large)
        ]
        rows.append([s.name, *shares, f"{s.aspects.low:.2g} … {s.aspects.median:.2g} … {s.aspects.high:.2g}"])
    columns = ["boxes", "small", "medium", "large", f"{size}: small", "medium", "large", "width/height (5, 50, 95 %)"]
    return table(columns, rows) if rows else ""


def _anchors(report: Report) -> str:
    coverage = report.coverage
    if coverage is None:
        return ""
    trials = [("as it is", coverage.recall, coverage.mean_best_iou)]
    names = {"scale": "anchor scale {0.anchor_scale:g}", "size": "image size {0.image_size_hw[0]}×{0.image_size_hw[1]}"}
    for trial in coverage.better:
        aspects = ", ".join(f"{a:.2g}" for a in trial.aspects)
        name = names.get(trial.what, "anchor aspects " + aspects).format(trial)
        trials.append((name, trial.recall, trial.mean_best_iou))
    rows = [
        [name, *(or_dash(r, "{:.1%}") for r in (recall.all, recall.small, recall.medium, recall.large)), f"{iou:.2f}"]
        for name, recall, iou in trials
    ]
    columns = ["boxes that an anchor meets", "all", "small", "medium", "large", "mean best IoU"]
    tiny = ", ".join(f"{n:,} below {limit} px" for limit, n in coverage.smaller_than.items())
    foot = f"IoU ≥ 0.5, best of all anchors, sizes in the input; of {coverage.boxes:,} boxes {tiny}"
    return f"{table(columns, rows)}\n{foot}"


def _findings(report: Report, limit: int) -> str:
    lines = []
    for group in report.findings:
        lines.append(f"{group.kind}: {len(group.items):,}")
        lines += [f"  {f.where} ({', '.join(f.splits)}): {f.what}" for f in group.items[:limit]]
        lines += _more(len(group.items), limit)
    for title, found in (
        ("box twice", [f"{b.image} ({b.split}): {b.class_name}, IoU {b.iou:.2f}" for b in report.duplicate_boxes]),
        ("file used by no split", report.unused_files),
    ):
        if found:
            lines += [f"{title}: {len(found):,}", *(f"  {line}" for line in found[:limit]), *_more(len(found), limit)]
    # Paths relative to the data folder keep the lines readable.
    return "\n".join(lines).replace(f"{report.path.rstrip('/')}/", "")  # where and what both name the file


def _duplicates(report: Report, limit: int) -> str:
    lines = []
    for kind in ("same file", "same bytes", "same pixels", "near"):
        groups = [group for group in report.duplicate_images if group.kind == kind]
        if groups:
            lines.append(f"duplicate images, {kind}: {len(groups):,}")
            members = ([f"{m.image} ({m.split})" for m in group.members] for group in groups[:limit])
            lines += [f"  {few(shown, 4)}" for shown in members]
            lines += _more(len(groups), limit)
    return "\n".join(lines)


def _more(total: int, limit: int) -> list[str]:
    return [f"  … {total - limit:,} more (--limit, --json)"] if total > limit else []


def _advice(report: Report) -> str:
    if not report.advice:
        return "Nothing to complain about."
    lines = []
    for advice in report.advice:
        lines += textwrap.wrap(
            advice.text,
            _WIDTH,
            initial_indent=f"{advice.severity:9}",
            subsequent_indent=" " * 9,
            break_long_words=False,
        )
    return "\n".join(lines)
