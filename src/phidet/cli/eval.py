"""``phidet eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

from phidet.core.errors import ConfigError, InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet eval``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "Classes are matched by their names; objects of classes that the model does not know are left out."
    parser.add_argument("model", metavar="MODEL", help="a model file, the folder of a run, or a name")
    parser.add_argument("data", type=Path, metavar="DATA", help="a data folder or file, in any layout")
    parser.add_argument("--split", metavar="NAME", help="which split (the validation split)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write figures and pictures here")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images at a time")
    parser.add_argument("--runtime", default="auto", choices=["auto", "onnxruntime", "openvino", "litert", "torch"])
    parser.add_argument("--json", action="store_true", help="figures as JSON")


def run(args: argparse.Namespace) -> None:
    """Measures a detector, or a classifier on an image folder."""
    from phidet.cli.figures import summarise
    from phidet.data.hold_out import validation_data
    from phidet.evaluation.detect_dataset import detect_dataset
    from phidet.evaluation.report_folder import measure, write_evaluation
    from phidet.inference.detector import Detector

    if args.batch < 1:
        raise ConfigError(f"--batch must be a whole number ≥ 1, got {args.batch}")
    if _is_classifier(args.model):
        _classifier(args)
        return
    detector = Detector(args.model, runtime=args.runtime)
    split, dataset = validation_data(args.model, args.data, detector.class_names, args.split)
    dataset, found = detect_dataset(detector, dataset, batch_size=args.batch)
    evaluation = measure(detector.config.name, str(args.data), dataset, found)
    if args.json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(evaluation)).decode())
    else:
        print(f"{args.model} on {args.data}, split {split}, {detector.runtime_name}\n")
        print(summarise(evaluation.coco))
        if evaluation.voc_ap50 is not None:
            print(f"\nVOC AP50 {evaluation.voc_ap50:.3f}; best F1 at score {evaluation.best_score:.2f}")
    if args.out is not None:
        for path in write_evaluation(args.out, evaluation, dataset, found):
            print(f"wrote {path}")


def _is_classifier(model: str) -> bool:
    from phidet.inference.runtimes.open_model import model_file

    path = model_file(model)
    if path is None or path.suffix != ".safetensors" or not path.is_file():
        return False  # a file for other runtimes, which needs no PyTorch
    from phidet.training.run import kind_of

    return kind_of(model) == "classify"


def _classifier(args: argparse.Namespace) -> None:
    import msgspec
    from lightning_fabric import Fabric

    from phidet.architectures.classifier.network import Classifier
    from phidet.cli.tables import or_dash, table
    from phidet.data.class_folders import open_class_folders
    from phidet.data.hold_out import check_unchanged, has_held_out, trained_on
    from phidet.evaluation.classification_report import write_classification
    from phidet.training.classify import read_class_folders
    from phidet.training.evaluate import classify_all
    from phidet.training.run import load_run_model

    model = load_run_model(args.model)
    assert isinstance(model, Classifier)
    folder = open_class_folders(args.data)
    about = trained_on(Path(args.model), args.data)
    if about is not None and has_held_out(about, folder) and args.split in (None, "val"):
        train, dataset = read_class_folders(args.data, about["seed"])
        split = "held out by the run"
        check_unchanged(about, len(train), args.data)
        if dataset.class_names != tuple(model.config.class_names):
            raise InputError(
                f"{args.data} has the classes {', '.join(dataset.class_names)}, {args.model} learned "
                f"{', '.join(model.config.class_names)}: put the folders back as they were"
            )
    else:
        split = args.split or folder.val_split() or folder.splits[0]
        dataset = folder.read(split, model.config.class_names)
    answers = classify_all(model, dataset, Fabric(devices=1), args.batch)
    report = answers.report(dataset)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        top1, top5 = (or_dash(value, "{:.3f}") for value in (report.top1, report.top5))
        print(f"{args.model} on {args.data}, split {split}: {report.images} pictures, top-1 {top1}, top-5 {top5}\n")
        print(table(("class", "top-1"), [(name, or_dash(v, "{:.3f}")) for name, v in report.per_class.items()]))
    if args.out is not None:
        for path in write_classification(args.out, report, dataset, answers):
            print(f"wrote {path}")
