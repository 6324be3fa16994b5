"""``phidet label``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_model, add_out, add_score
from phidet.cli.native_noise import without_native_noise

if TYPE_CHECKING:
    from phidet.data.dataset import Dataset
    from phidet.detections.detections import Detections

FORMATS = ("coco", "yolo", "cvat", "label-studio")
EPILOG = """\
writes into --out, which appears as a whole or not at all:
  next.csv             the images, those first that are worth most to label next: where the model expects most mistakes
  prelabels.json       what was written, for 'phidet doctor CORRECTED --prelabels OUT'
  coco.json            COCO; CVAT imports it, too
  yolo/                data.yaml, labels and copies of the images
  cvat.xml             CVAT for images 1.1
  label-studio.json    tasks with predictions; label-studio.xml is the labelling interface for them

examples:
  phidet label more-photos -m runs/first --out start --to cvat
  phidet label more-photos -m yolox.json --out start        another project's detector, see docs/train.md
  phidet doctor corrected --prelabels start                 what people changed

Images are named by their paths below IMAGES. Label Studio reads them from its own disk: --image-prefix is put before
each path."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet label``."""
    from phidet.data.writers.annotation_tools import LOCAL_FILES

    parser.epilog = EPILOG
    parser.add_argument("images", type=Path, metavar="IMAGES", help="a folder of images, searched recursively")
    add_model(parser, "what finds objects: a model, or the description (.json) of another project's detector")
    add_out(parser, "FOLDER", "the folder to write; it must not exist, or be empty (prelabels)")
    parser.add_argument("--to", nargs="+", choices=FORMATS, default=["coco"], help="what to write (coco)")
    add_score(parser, "lowest score of a pre-label")
    parser.add_argument("--image-prefix", default=LOCAL_FILES, metavar="TEXT", help=f"for label-studio ({LOCAL_FILES})")


@without_native_noise()
def run(args: argparse.Namespace) -> None:
    """Labels a folder of images, and prints what was written."""
    from phidet.core.errors import ConfigError
    from phidet.data.summary import log_left_out
    from phidet.data.unlabelled import read_unlabelled
    from phidet.data.writers.files import atomic_folder
    from phidet.detections.thresholds import stored_thresholds
    from phidet.evaluation.detect_dataset import detect_dataset
    from phidet.evaluation.measure import COCO_SETTINGS
    from phidet.evaluation.prelabels import expected_mistakes, labelled
    from phidet.inference.described import open_detector
    from phidet.inference.stream import needed_by

    # A detector gives a hundred boxes of any image at that score: nobody wants to delete them by hand.
    if args.score == 0:
        raise ConfigError("--score must be above 0 and at most 1, got 0")
    model = args.model or "person"
    detector = open_detector(model)
    score = stored_thresholds(detector, model) if args.score == "auto" else args.score
    images = read_unlabelled(args.images, detector.class_names)
    log_left_out(images)
    out = args.out or Path("prelabels")
    with atomic_folder(out) as folder:
        images, detections = detect_dataset(detector, images, COCO_SETTINGS, needed=needed_by(detector))
        # By paths below the folder: labelling tools know the images by those.
        data = labelled(images.renamed(_relative(images, args.images)), detections, score)
        written = _write(data, folder, args, str(model))
        mistakes = [expected_mistakes(found) for found in detections]
        (folder / "next.csv").write_bytes(_ranking(data, mistakes, detections))
    objects = len(data.all_annotations.class_ids)
    print(f"found {objects:,} objects in {len(data):,} images, {len(data.problems):,} left out")
    print(f"wrote {out}: next.csv, {', '.join(written)}")


def _relative(images: Dataset, folder: Path) -> list[str]:
    from phidet.detections.sinks.base import readable

    root = folder.resolve()
    paths = [Path(str(images.source(i))).resolve() for i in range(len(images))]
    names = [path.relative_to(root) if path.is_relative_to(root) else path for path in paths]
    return [readable(name.as_posix()) for name in names]  # as text that files of labels can hold


def _write(data: Dataset, folder: Path, args: argparse.Namespace, model: str) -> list[str]:
    """Writes the formats that were asked for; returns the names of the files."""
    import msgspec

    from phidet.data.writers.annotation_tools import cvat_xml, label_studio_config, label_studio_json
    from phidet.data.writers.coco import coco_json
    from phidet.data.writers.yolo import write_yolo
    from phidet.evaluation.prelabels import RECORD, record_of

    files = {RECORD: msgspec.json.encode(record_of(data, model, args.score))}
    if "coco" in args.to:
        files["coco.json"] = coco_json(data, dict(enumerate(data.names.tolist())), data.problems)
    if "cvat" in args.to:
        files["cvat.xml"] = cvat_xml(data)
    if "label-studio" in args.to:
        files["label-studio.json"] = label_studio_json(data, model, args.image_prefix)
        files["label-studio.xml"] = label_studio_config(data.class_names)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if "yolo" in args.to:
        write_yolo({"train": data}, folder / "yolo")
        return [*files, "yolo"]
    return list(files)


def _ranking(data: Dataset, mistakes: list[float], detections: list[Detections]) -> bytes:
    """``next.csv``: the image with the most expected mistakes first; of equals, by name."""
    from phidet.core.csv_files import csv_bytes
    from phidet.evaluation.prelabels import LOWEST_SCORE

    names = data.names.tolist()
    order = sorted(range(len(names)), key=lambda i: (-round(mistakes[i], 6), names[i]))
    rows: list[tuple[object, ...]] = [("rank", "image", "expected_mistakes", "prelabels", "detections")]
    for rank, i in enumerate(order, start=1):
        count = int((detections[i].scores >= LOWEST_SCORE).sum())
        rows.append((rank, names[i], f"{mistakes[i]:.3f}", len(data.annotations(i).class_ids), count))
    return csv_bytes(rows, "\n")
