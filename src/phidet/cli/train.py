"""``phidet train``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phidet.cli.arguments import add_image_size, add_layout, add_model, add_out
from phidet.core.errors import ConfigError

if TYPE_CHECKING:
    from phidet.training.about import Request
    from phidet.training.fit import RunSettings
    from phidet.training.run import TrainedRun

_EPILOG = """examples:
  phidet train my-photos                                    lite0, everything chosen from the data
  phidet train my-photos --model efficientdet-d1 --epochs 50 --set augmentation.mosaic=0.5
  phidet train --resume runs/efficientdet-lite0-1           go on after Ctrl-C, a crash or a power cut
  phidet train /new/place --resume runs/efficientdet-lite0-1     the same, where the data lie elsewhere now
  phidet train my-photos --seeds 3                          three runs, one after the other, and their mean and spread
  phidet train flowers --task classify                      a folder with one folder of images for each class
  phidet train my-photos --task generate                     make images like the objects in them
  phidet train boards --task relations --detector runs/boards-lite0    correct what this detector finds
  torchrun --nproc-per-node 8 -m phidet.cli.main train coco --recipe paper    many devices, or many machines

exit codes: 0 done, 1 diverged or the like, 2 settings, 3 data, 4 weights or disk, 130 interrupted"""


_USUAL = {
    "detect": "efficientdet-lite0",
    "classify": "efficientnet-lite0",
    "generate": "stylegan-64-small",
    "relations": "relations-attention",
}
"""Task → the model that is trained where none is named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet train``."""
    parser.epilog = _EPILOG
    parser.add_argument("data", nargs="?", metavar="DATA", help="a data folder or file, in any layout")
    add_layout(parser)
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder, exactly")
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--task",
        choices=list(_USUAL),
        default="detect",
        help="find objects, name images, make images, or relate what a detector finds",
    )
    add_model(what, "published name, model file or run folder (a small one of the task)")
    what.add_argument(
        "--pretrained",
        default="auto",
        metavar="START",
        help="coco, person (bundled), backbone (ImageNet), none, a weight file (auto: the first of three to be had)",
    )
    add_image_size(what)
    what.add_argument("--train-split", metavar="NAME", help="the split to train on (found by name)")
    what.add_argument("--val-split", metavar="NAME", help="the split to validate on, or none (found, or held out)")
    what.add_argument(
        "--teacher", metavar="MODEL", help="learn from this detector, too: a model, or another's description (.json)"
    )
    what.add_argument(
        "--masks", action="store_true", help="learn masks as well as boxes (published EfficientDets and DETRs)"
    )
    what.add_argument(
        "--semantic", action="store_true", help="learn the class of every pixel (published EfficientDets)"
    )
    what.add_argument("--unlabelled", metavar="FOLDER", help="more images, which only the teacher labels")
    what.add_argument(
        "--detector",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="whose detections to relate: a model, another's description (.json), or detections (.json) of the images "
        "to train on, and of those to validate on",
    )
    what.add_argument(
        "--appearance", action="store_true", help="relations also see what the detector's feature maps hold in a box"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--recipe", default="auto", metavar="NAME", help="auto, small or paper; detr for DETR")
    how.add_argument(
        "--augment",
        metavar="MODULE:FUNCTION",
        help="change training images by a function of your own (docs/augmentation.md)",
    )
    how.add_argument("--epochs", type=int, metavar="N")
    how.add_argument(
        "--batch-size", type=_batch, metavar="N|auto", help="images per step, over all devices, or what fits on the GPU"
    )
    how.add_argument("--learning-rate", type=float, metavar="RATE", help="for 64 images")
    how.add_argument("--precision", choices=["32-true", "bf16-mixed", "16-mixed"])
    how.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any field of the recipe, e.g. loss.gamma=2"
    )
    where = parser.add_argument_group("where")
    add_out(where, "RUN", "the run's folder (runs/MODEL-N)")
    where.add_argument("--seed", type=int, default=0)
    where.add_argument(
        "--seeds", type=int, metavar="N", help="train N times, with N seeds, and say how far they differ"
    )
    where.add_argument("--workers", type=int, metavar="N", help="processes that load images, for each device")
    where.add_argument("--accelerator", default="auto", metavar="KIND", help="cpu, cuda, mps or tpu (auto)")
    where.add_argument("--devices", default="auto", metavar="N", help="how many, or auto")
    where.add_argument("--nodes", type=int, default=1, metavar="N", help="machines, each started with torchrun")
    where.add_argument(
        "--log", nargs="+", default=[], metavar="NAME", help="also tell wandb, mlflow or comet the metrics (nobody)"
    )
    where.add_argument("--compile", action="store_true", help="let torch.compile fuse what it can")
    where.add_argument("--save-memory", action="store_true", help="compute activations twice instead of keeping them")


def run(args: argparse.Namespace) -> None:
    """Trains a model and prints where its files are."""
    from phidet.training.fit import first_process
    from phidet.training.run import next_folder
    from phidet.training.seeds import has_seeds

    # A resumed run goes on in its own folder.
    out = args.resume or args.out
    # Argparse has no default for it, so that --resume can tell whether a model was given.
    model = model_of(args)
    settings = settings_of(args, out or next_folder(Path("runs"), Path(model).stem))
    if args.seeds is not None or (args.resume is not None and has_seeds(args.resume)):
        _train_seeds(args, model, settings)
        return
    try:
        trained = _train(args, model, settings)
        _keep_options(args, settings.out)
    except (KeyboardInterrupt, SystemExit):
        _keep_options(args, settings.out)
        # Only where an epoch was completed is there something to resume.
        if (settings.out / "state.pt").exists():
            print(f"\nthe last whole epoch is kept; go on with: phidet train --resume {settings.out}", file=sys.stderr)
        raise
    # Only the first of several processes has files and metrics to report.
    if not first_process():
        return
    left = "best.safetensors, last.safetensors, curves.png, metrics.csv"
    print(f"wrote {trained.folder}: {left}" if args.resume is None else f"{trained.folder} holds {left}")
    if trained.metrics:
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in trained.metrics.items())
        print(f"best model on the validation images: {metrics}; more in {trained.folder / 'report'}")


def _train_seeds(args: argparse.Namespace, model: str, settings: RunSettings) -> None:
    """Trains with several seeds, and prints a table of them."""
    from phidet.cli.tables import table
    from phidet.training.augmentation.own import imported
    from phidet.training.seeds import resume_seeds, train_seeds

    own = None if args.augment is None else imported(args.augment)
    try:
        if args.resume is not None:
            check_left_out(args)
            done = resume_seeds(args.resume, settings, own, args.data)
        else:
            done = train_seeds(request_of(args, model), settings, args.seeds, own)
    except (KeyboardInterrupt, SystemExit):
        if (settings.out / "seeds.json").exists():
            print(f"\ngo on with: phidet train --resume {settings.out}", file=sys.stderr)
        raise
    names = list(done.spreads)
    rows = [(f"seed {seed}", *(f"{found[name]:.4f}" for name in names)) for seed, found in done.metrics.items()]
    rows.append(("mean", *(f"{spread.mean:.4f}" for spread in done.spreads.values())))
    rows.append(("standard deviation", *(f"{spread.deviation:.4f}" for spread in done.spreads.values())))
    print(table(("run", *names), rows))
    print(f"wrote {done.folder}: seeds.csv, seeds.json, and a run for each seed")


def _keep_options(args: argparse.Namespace, folder: Path) -> None:
    """Writes the options of a run into its folder, as ``--config`` reads them to begin another one like it."""
    from phidet.cli.main import build_parser
    from phidet.cli.options_file import write_options
    from phidet.training.fit import first_process

    command = build_parser("train").chosen
    if args.resume is None and command is not None and first_process() and (folder / "run.json").exists():
        write_options(command, args, str(folder / "options.toml"))


def _train(args: argparse.Namespace, model: str, settings: RunSettings) -> TrainedRun:
    from phidet.training import run as running
    from phidet.training.augmentation.own import imported
    from phidet.training.plan import open_start

    own = None if args.augment is None else imported(args.augment)
    if args.resume is not None:
        check_left_out(args)
        return running.resume(args.resume, settings, args.data, own)
    request = request_of(args, model)
    start = open_start(model)
    # Checked before the data are read, which takes longer.
    if args.task != start.kind.name:
        raise ConfigError(f"{model} is not for --task {args.task}: it needs --task {start.kind.name}")
    return running.run(request, settings, start, own)


def request_of(args: argparse.Namespace, model: str) -> Request:
    """What the options ask for.

    Raises:
        ConfigError: no data.
    """
    from phidet.training.about import Request

    if args.data is None:
        raise ConfigError("say what to train on: phidet train DATA, or --resume RUN")
    return Request(
        data=args.data,
        layout=args.layout,
        model=model,
        pretrained=args.pretrained,
        image_size=args.image_size,
        train_split=args.train_split,
        val_split=args.val_split,
        recipe=args.recipe,
        changes=_changes(args),
        teacher=args.teacher,
        detector=tuple(args.detector),
        unlabelled=args.unlabelled,
        masks=args.masks,
        semantic=args.semantic,
        appearance=args.appearance,
    )


def check_left_out(args: argparse.Namespace) -> None:
    """Raises ConfigError if a resumed run is given options that are part of the run."""
    unset: dict[str, Any] = dict.fromkeys(
        ("layout", "model", "image_size", "train_split", "val_split", "out", "teacher", "unlabelled", "seeds")
    )
    unset |= dict.fromkeys(("epochs", "batch_size", "learning_rate", "precision"))
    unset |= {"recipe": "auto", "seed": 0, "set": [], "pretrained": "auto", "task": "detect", "detector": []}
    unset |= {"masks": False, "semantic": False, "appearance": False}
    given = [name for name, value in unset.items() if getattr(args, name) != value]
    if given:
        flag = "--" + given[0].replace("_", "-")
        raise ConfigError(
            f"--resume goes on with the run's own model and recipe: leave out {flag}, or begin another run from its "
            f"model: phidet train DATA --model {args.resume} {flag} …"
        )


def model_of(args: argparse.Namespace) -> str:
    """The model that was named, or the usual one of the task."""
    return str(args.model or _USUAL[args.task])


def settings_of(args: argparse.Namespace, out: Path) -> RunSettings:
    from phidet.training.fit import RunSettings

    devices = args.devices if args.devices == "auto" else int(args.devices) if args.devices.isdecimal() else None
    if devices is None:
        raise ConfigError(f"--devices must be a number or auto, got {args.devices!r}")
    return RunSettings(
        out=out,
        seed=args.seed,
        workers=args.workers,
        devices=devices,
        accelerator=args.accelerator,
        nodes=args.nodes,
        compile=args.compile,
        save_memory=args.save_memory,
        auto_batch=args.batch_size == "auto",
        log=tuple(args.log),
    )


def _batch(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or auto, got {text!r}") from None


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that were named, nested as the recipe is."""
    import msgspec

    named = {key: getattr(args, key) for key in ("epochs", "batch_size", "learning_rate", "precision")}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value not in (None, "auto")}
    for setting in args.set:
        path, equals, text = setting.partition("=")
        if path.strip() == "augmentation.function":
            raise ConfigError("name a function of your own with --augment MODULE:FUNCTION, not with --set")
        if not equals:
            raise ConfigError(f"--set expects KEY=VALUE, got {setting!r}")
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        *parents, key = path.split(".")
        inner = changes
        for parent in parents:
            # Nested dictionaries from dotted keys, as msgspec converts them into the recipe's structs.
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {path} and --set {parent} exclude each other")
        inner[key] = value
    return changes
