"""``phidet tune``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from phidet.cli import train
from phidet.core.errors import ConfigError

_EPILOG = """\
Takes the options of 'phidet train' and varies fields of the recipe: --search KEY=A,B,C for one of these values,
KEY=LOW..HIGH for a number between, KEY=xLOW..HIGH for a multiple of the recipe's own. The first run is the recipe as it
is. Each run is an ordinary one, in a folder of its own; runs are compared on the validation images, so measure the best
one on others.

examples:
  phidet tune my-photos --epochs 20 --runs 12
  phidet tune my-photos --minutes 120 --search learning_rate=x0.3..3 augmentation.mixup=0,0.2
  phidet tune --resume runs/efficientdet-lite0-tune-1 --runs 20

needs an extra: pip install 'phidet[tune]'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet tune``."""
    train.add_arguments(parser)
    parser.epilog = _EPILOG
    search = parser.add_argument_group("search")
    search.add_argument("--runs", type=int, default=12, metavar="N", help="how many, those before a resume too (12)")
    search.add_argument("--minutes", type=float, metavar="M", help="begin no further run after so many minutes")
    search.add_argument(
        "--search", nargs="+", metavar="KEY=VALUES", help="fields of the recipe (rate, weight decay, mosaic, freeze)"
    )


def run(args: argparse.Namespace) -> None:
    """Searches, and prints the runs, the best first."""
    from phidet.cli.tables import table
    from phidet.training.augmentation.own import imported
    from phidet.training.run import next_folder
    from phidet.training.tune import SEARCH, Budget, resume_tune, tune

    if args.seeds is not None:
        raise ConfigError("--seeds is for phidet train: train the best settings with it")
    model = train.model_of(args)
    out = args.resume or args.out or next_folder(Path("runs"), f"{Path(model).stem}-tune")
    settings, budget = train.settings_of(args, out), Budget(runs=args.runs, minutes=args.minutes)
    own = None if args.augment is None else imported(args.augment)
    try:
        if args.resume is not None:
            train.check_left_out(args)
            if args.search is not None:
                raise ConfigError("--resume goes on with the search's own fields: leave out --search")
            found = resume_tune(out, settings, budget, own, args.data)
        else:
            found = tune(train.request_of(args, model), settings, budget, args.search or SEARCH, own)
    except (KeyboardInterrupt, SystemExit):
        print(f"\ngo on with: phidet tune --resume {out}", file=sys.stderr)
        raise
    if not found.tried:
        print(f"no run was finished; go on with: phidet tune --resume {out}")
        return
    keys = list(found.tried[0].changes)
    rows = [(f"run-{t.number}", *(_short(t.changes[key]) for key in keys), f"{t.value:.4f}") for t in found.tried]
    print(table(("run", *keys, found.metric), rows))
    changed = " ".join(f"--set {key}={_short(value)}" for key, value in found.tried[0].changes.items())
    print(f"wrote {found.folder}: tune.csv, and a run for each; the best one: {changed}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)
