"""``phidet export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from phidet.cli.arguments import add_image_size, add_layout, add_out, add_split
from phidet.cli.kinds import says
from phidet.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from phidet.architectures.model import Model
    from phidet.data.dataset import Dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet export``."""
    parser.epilog = (
        "Every export is run and compared with PyTorch before it is put in place.\n"
        "A published model is downloaded if need be; its export goes into the cache, where 'phidet detect -m' looks."
    )
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file, the folder of a run, or a published name")
    parser.add_argument("--to", default="onnx", metavar="KIND", help="onnx (default), openvino or tflite")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="weights in 16 bits: half the file, arithmetic in 32")
    precision.add_argument("--int8", action="store_true", help="weights and maps in 8 bits; needs --calibrate")
    parser.add_argument(
        "--calibrate", type=Path, metavar="DATA", help="images like those that the model will be used on"
    )
    parser.add_argument("--nms", action="store_true", help="decode and suppress inside the graph, for other runtimes")
    add_image_size(parser)
    parser.add_argument("--eval", type=Path, metavar="DATA", help="report the AP of the export beside the model's")
    add_split(parser, "--eval")
    add_layout(parser)
    add_out(parser, "OUT", "the file to write (beside the model)")


def run(args: argparse.Namespace) -> None:
    """Exports a model, and prints what was written and how close it is to PyTorch."""
    if _without_pytorch(args):
        return
    from phidet.architectures.header import Precision
    from phidet.architectures.registry import architecture_of
    from phidet.data.hold_out import validation_data
    from phidet.data.layouts import open_data
    from phidet.export.export import SUFFIXES, ExportOptions, export
    from phidet.export.source import load_detector, target_of

    precision: Precision = "int8" if args.int8 else "fp16" if args.half else "fp32"
    if args.eval is not None and args.nms:
        raise ConfigError("--eval measures with suppression outside the graph: leave out --nms")
    if "samples" in says(args.model):
        _export_generator(args)
        return
    # From here on in PyTorch: every export is compared with it before it is put in place.
    model = load_detector(args.model)
    if args.image_size is not None:
        model.config = architecture_of(model.config).resized(model.config, args.image_size)
    suffix = SUFFIXES.get(args.to, ".onnx")
    kind = "-int8" if args.int8 else "-nms" if args.nms else ""  # a plain "best.onnx" is what detect finds by default
    target = args.out or target_of(args.model, f"{kind}{suffix}")
    measured = None
    if args.eval is not None:  # now, not after minutes
        measured = validation_data(args.model, open_data(args.eval, args.layout), model.config.class_names, args.split)
    data = None if args.calibrate is None else _calibration_data(args, model.config.class_names)
    report = export(model, target, ExportOptions(args.to, precision, args.nms), data)
    print(f"wrote {' and '.join(str(path) for path in report.paths)} ({report.megabytes:.1f} MB, {precision})")
    print(f"checked: {report.agreement}")
    if report.advice:
        print(f"note: {report.advice}")
    if measured is not None:
        _evaluate(model, report.paths[0], measured.split, measured.dataset)


def _without_pytorch(args: argparse.Namespace) -> bool:
    """Whether PyTorch is not here, and a published model was converted without it."""
    from importlib.util import find_spec

    if find_spec("torch") is not None or Path(args.model).exists():
        return False
    from phidet.export.published import published_detector, write_published

    published = published_detector(args.model)
    # All else needs the model in PyTorch: to trace it, to calibrate it, or to compare it.
    others = (args.to != "onnx", args.int8, args.nms, args.eval is not None, args.image_size is not None)
    if published is None or any(others):
        return False
    if args.out is not None:
        published = published._replace(target=args.out)
    print(f"wrote {write_published(published, args.half)} (not compared with PyTorch, which is not installed)")
    return True


def _export_generator(args: argparse.Namespace) -> None:
    from phidet.export.generator_file import export_generator
    from phidet.export.source import target_of
    from phidet.inference.runtimes.open_model import find_model
    from phidet.weights.native import load_model

    if args.to != "onnx" or args.int8 or args.nms or args.eval is not None or args.calibrate is not None:
        raise ConfigError("a generator is exported to ONNX, in 32 bits or with --half: leave out the other options")
    target = args.out or target_of(args.model, ".onnx")
    written = export_generator(load_model(find_model(args.model, ".safetensors")), target, args.half)
    print(f"wrote {' and '.join(str(path) for path in written.paths)}")
    print(f"checked: images differ from PyTorch's by at most {written.difference} of 255")


def _calibration_data(args: argparse.Namespace, class_names: tuple[str, ...]) -> Dataset:
    from phidet.data.layouts import open_data, read_images

    try:
        folder = open_data(args.calibrate, args.layout)
    # Calibration needs no labels: a plain folder of images is accepted as well.
    except InputError:
        if args.layout is not None or not args.calibrate.is_dir():
            raise
        return read_images(args.calibrate)
    return folder.read(folder.train_split(), class_names)


def _evaluate(model: Model, exported: Path, split: str, dataset: Dataset) -> None:
    """Prints the metrics of the model, in PyTorch, and of its export."""
    from phidet.cli.tables import or_dash, table
    from phidet.evaluation.coco_metrics import evaluate_coco
    from phidet.evaluation.detect_dataset import detect_dataset
    from phidet.inference.detector import Detector
    from phidet.inference.runtimes.torch_runtime import TorchNetwork

    rows = []
    for name, detector in (("PyTorch", Detector(TorchNetwork(model))), (exported.name, Detector(exported))):
        report = evaluate_coco(*detect_dataset(detector, dataset))
        rows.append((name, *(or_dash(value, "{:.4f}") for value in (report.ap, report.ap50, report.ap75))))
    print(table((f"on {split}", "AP", "AP50", "AP75"), rows))
