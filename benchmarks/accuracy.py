"""Fine-tuning on small data sets: phidet's recipe, variants of it, and effdet, by AP on a part that decides nothing.

    python benchmarks/accuracy.py DATA --out OUT                      # DATA has bccd, playing-cards, …; see SETS
    python benchmarks/accuracy.py DATA --out OUT --variant mixup:augmentation.mixup=0.2 --variant early:freeze=early
    python benchmarks/accuracy.py DATA --out OUT --sets bccd,balloon --seeds 2 --epochs 30 --jobs 4 --minutes 30
    python benchmarks/accuracy.py DATA --out OUT --scale 0.4 --epochs 10 --variant person:pretrained=person   # a CPU

Each row (a set, a side, a seed) is a training in a process of its own, ``--jobs`` of them side by side; OUT/rows has a
JSON for each, so that a second call goes on where the first one was stopped, even by kill -9; it refuses rows of other
settings. With ``--minutes``, rows that would end too late, by the time of those that are done, are not begun. The last
model counts, never the best on the part that is measured. effdet has the same initial weights (phidet's, converted),
its own augmentation, labels and loss; its weights are measured by phidet, so that both sides are measured by the same
code.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image

import phidet
from phidet.architectures.model import Model
from phidet.architectures.registry import architecture_of
from phidet.data.dataset import Dataset
from phidet.data.layouts import open_data
from phidet.evaluation.coco_metrics import evaluate_coco
from phidet.training.evaluate import detect
from phidet.training.fit import RunSettings, fit
from phidet.training.recipe import recipe_named, replace
from phidet.training.task import Task

PEER, OURS = "effdet", "phidet"
METRICS = ("ap", "ap50", "ap_small", "ap_medium", "ap_large")


class DataSet(NamedTuple):
    """Where a set is, what is learned from and what is measured on, input side in pixels, images at most."""

    folder: str
    train: str
    test: str
    size: int = 320
    most: int | None = None


SETS = {
    "bccd": DataSet("bccd", "trainval", "test"),
    "playing-cards": DataSet("playing-cards", "train", "test"),
    "deeppcb": DataSet("deeppcb", "train", "val"),
    "deeppcb-512": DataSet("deeppcb", "train", "val", 512),
    "balloon": DataSet("balloon", "train", "val"),
    "coco-person": DataSet("coco-person", "train", "val"),
    "coco-80-500": DataSet("coco-80", "train", "val", most=500),
}


class Row(NamedTuple):
    """A training: of a set, by a side (:data:`OURS`, :data:`PEER` or a variant's name), with a seed."""

    set: str
    side: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.set}.{self.side}.{self.seed}"


# ---- one row, in a process of its own


def read(root: Path, about: DataSet) -> tuple[Dataset, Dataset]:
    """What is learned from and what is measured on."""
    folder = open_data(root / about.folder)
    train = folder.read(about.train)
    if about.most is not None:
        chosen = np.random.default_rng(0).permutation(len(train))[: about.most]
        train = train.subset(np.sort(chosen).tolist(), f"{about.train}, {about.most} images")
    return train, folder.read(about.test, train.class_names)


def input_size(args: argparse.Namespace, about: DataSet) -> int:
    """The set's, or ``args.scale`` of it to the nearest multiple of 32; pixels."""
    share: float = args.scale
    return max(32, 32 * round(share * about.size / 32))


def initial(args: argparse.Namespace, row: Row, train: Dataset, start: str) -> Model:
    """The network before training."""
    torch.manual_seed(row.seed)
    return phidet.create_model(
        args.model,
        class_names=train.class_names,
        image_size=input_size(args, SETS[row.set]),
        pretrained=None if start == "none" else start,
        replace_head=True,
    )


def train_ours(args: argparse.Namespace, row: Row, train: Dataset, folder: Path) -> Model:
    """By phidet's automatic recipe with the variant's changes."""
    changes: dict[str, Any] = {"epochs": args.epochs, **nested(variants(args.variant).get(row.side, ""))}
    model = initial(args, row, train, changes.pop("pretrained", args.pretrained))
    if args.batch_size is not None:
        changes["batch_size"] = args.batch_size
    architecture = architecture_of(model.config)
    recipe = replace(recipe_named("auto", len(train), architecture), changes)
    settings = RunSettings(out=folder, seed=row.seed, workers=args.workers, accelerator=args.accelerator, devices=1)
    return fit(model, Task(model.config, train, None), recipe, settings)


def train_peer(args: argparse.Namespace, row: Row, train: Dataset, folder: Path) -> Model:
    """By effdet's own loader, labels, loss and average, with the settings of its training script."""
    import effdet  # noqa: PLC0415 - a peer
    from effdet.anchors import AnchorLabeler, Anchors  # noqa: PLC0415
    from effdet.data.loader import DetectionFastCollate  # noqa: PLC0415
    from timm.utils.model_ema import ModelEmaV2  # noqa: PLC0415

    size = input_size(args, SETS[row.set])
    ours = initial(args, row, train, args.pretrained)
    folder.mkdir(parents=True, exist_ok=True)
    phidet.save_model(ours, folder / "start.safetensors")
    phidet.convert(folder / "start.safetensors", folder / "start.pth", to="effdet")
    config = effdet.get_efficientdet_config("tf_" + args.model.replace("-", "_"))
    config.image_size, config.num_classes = (size, size), len(train.class_names)
    network = effdet.EfficientDet(config, pretrained_backbone=False)
    network.load_state_dict(torch.load(folder / "start.pth", weights_only=True))
    device = Fabric(accelerator=args.accelerator, devices=1).device
    bench = effdet.DetBenchTrain(network, create_labeler=False).train().to(device)
    labeler = AnchorLabeler(Anchors.from_config(config), config.num_classes, match_threshold=0.5)
    batch = min(args.batch_size or 8, len(train))
    loader: Any = torch.utils.data.DataLoader(
        PeerImages(train, size, row.seed), batch, shuffle=True, drop_last=True, num_workers=args.workers,
        collate_fn=DetectionFastCollate(anchor_labeler=labeler), generator=torch.Generator().manual_seed(row.seed),
        persistent_workers=args.workers > 0,
    )  # fmt: skip
    # As its train.py: SGD with momentum 0.9 (not Nesterov's) and rate 0.01 for a batch of 32, five epochs of warm-up, a
    # cosine, no average unless asked for: its own has no warm-up, and would still be near the start after a short run.
    rate = args.peer_rate * batch / 32
    optimizer = torch.optim.SGD(bench.parameters(), lr=rate, momentum=0.9, weight_decay=4e-5)
    average = ModelEmaV2(bench, decay=args.peer_decay) if args.peer_decay else None  # type: ignore[no-untyped-call]
    preprocess = ours.config.preprocess
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (preprocess.mean_rgb, preprocess.std_rgb))
    total, warm = args.epochs * len(loader), min(5, args.epochs / 4) * len(loader)
    for step, (images, target) in enumerate(itertools.chain.from_iterable(itertools.repeat(loader, args.epochs))):
        share = step / warm if step < warm else 0.5 * (1 + np.cos(np.pi * (step - warm) / max(total - warm, 1)))
        for group in optimizer.param_groups:
            group["lr"] = rate * float(share)
        on_device = {name: values.to(device) for name, values in target.items()}
        bench((images.to(device).float() - mean) / std, on_device)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(bench.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(bench)  # type: ignore[no-untyped-call]
    trained = bench if average is None else average.module
    torch.save(trained.model.state_dict(), folder / "last.pth")
    return phidet.create_model(
        args.model, class_names=train.class_names, image_size=size, pretrained=folder / "last.pth"
    )


class PeerImages(torch.utils.data.Dataset[Any]):
    """Our labels through effdet's transforms: boxes as (y1, x1, y2, x2), classes from 1."""

    def __init__(self, dataset: Dataset, size: int, seed: int) -> None:
        from effdet.data.transforms import transforms_coco_train  # noqa: PLC0415 - a peer

        self.dataset, self.seed = dataset, seed
        self.transform = transforms_coco_train((size, size), use_prefetcher=True)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seen = self.dataset.annotations(index)
        seen = seen.take(~seen.crowd)
        image = Image.fromarray(self.dataset.image(index))
        target = {
            "bbox": seen.boxes_xyxy[:, [1, 0, 3, 2]].copy(),
            "cls": seen.class_ids + 1,
            "img_idx": index,
            "img_size": image.size,
        }
        return self.transform(image, target)


def run_row(args: argparse.Namespace, row: Row) -> None:
    """Trains, measures, and writes the row's file."""
    warnings.filterwarnings("ignore")
    train, test = read(args.data, SETS[row.set])
    folder = args.out / "runs" / row.name
    begun = time.perf_counter()
    if row.side != PEER and (folder / "run.json").exists():
        # What was stopped in the middle begins again: a row is minutes, and its seconds should be those of one go.
        folder.rename(folder.with_name(f"{folder.name}.stopped-{int(time.time())}"))
    model = (train_peer if row.side == PEER else train_ours)(args, row, train, folder)
    seconds = time.perf_counter() - begun
    fabric = Fabric(accelerator=args.accelerator, devices=1)
    model.to(fabric.device).eval()
    report = evaluate_coco(*detect(model, test, fabric, workers=args.workers))
    done = {metric: getattr(report, metric) for metric in METRICS}
    done |= {"seconds_per_epoch": seconds / args.epochs, "seconds": time.perf_counter() - begun, "epochs": args.epochs}
    done |= {"images": len(train), "measured_on": len(test), "device": str(fabric.device)}
    done |= {"settings": settings_of(args, row)}
    part = args.out / "rows" / f".{row.name}.json"
    part.write_bytes(msgspec.json.encode(done))
    part.rename(args.out / "rows" / f"{row.name}.json")


def settings_of(args: argparse.Namespace, row: Row) -> dict[str, Any]:
    """What decides a row's result, beside the row itself: rows that differ in it do not belong into one table."""
    settings = {name: getattr(args, name) for name in ("model", "pretrained", "epochs", "batch_size", "scale")}
    if row.side == PEER:
        return {**settings, "peer_rate": args.peer_rate, "peer_decay": args.peer_decay}
    return {**settings, "changes": variants(args.variant).get(row.side, "")}


def ends_with_parent() -> None:
    """Ends this process when the one that began it is gone, even by kill -9: the next call begins its row again."""

    def wait() -> None:
        # Until the parent's end of the pipe is closed; unbuffered, as a lock would be in the way of ending normally.
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# ---- all rows


def variants(texts: list[str]) -> dict[str, str]:
    """Name → changes as they were given, ``KEY=VALUE,KEY=VALUE``."""
    found = {OURS: ""}
    for text in texts:
        name, colon, changes = text.partition(":")
        if not (colon and name and name not in (OURS, PEER)) or "." in name:
            raise SystemExit(f"expected --variant NAME:KEY=VALUE,KEY=VALUE, got {text!r}")
        found[name] = changes
    return found


def nested(changes: str) -> dict[str, Any]:
    """ "augmentation.mixup=0.2,freeze=early" as the recipe's nested fields."""
    result: dict[str, Any] = {}
    for change in filter(None, changes.split(",")):
        key, _, text = change.partition("=")
        *parents, last = key.split(".")
        inner = result
        for parent in parents:
            inner = inner.setdefault(parent, {})
        try:
            inner[last] = json.loads(text)
        except json.JSONDecodeError:
            inner[last] = text
    return result


def wanted_rows(args: argparse.Namespace) -> list[Row]:
    """All rows; seeds outermost, so that a budget of time cuts seeds off and not sets."""
    sides = [*variants(args.variant), *([] if args.no_peer else [PEER])]
    return [Row(s, side, seed) for seed in range(args.seeds) for s in args.sets for side in sides]


def finished(out: Path) -> dict[Row, dict[str, Any]]:
    """Rows that are done."""
    found = {}
    for path in sorted((out / "rows").glob("*.json")):
        if not path.name.startswith("."):
            name, side, seed = path.stem.rsplit(".", 2)
            found[Row(name, side, int(seed))] = json.loads(path.read_text())
    return found


def check_alike(args: argparse.Namespace) -> None:
    """Refuses to go on in a folder whose rows were made with other settings; older rows say only their epochs.

    Raises:
        SystemExit: there is such a row.
    """
    wanted = set(wanted_rows(args))
    for row, values in finished(args.out).items():
        now = settings_of(args, row)
        before = {"scale": 1.0, **values.get("settings", {"epochs": values["epochs"]})}
        other = [name for name, value in before.items() if row in wanted and now.get(name) != value]
        if other:
            said = ", ".join(f"{name} {before[name]!r}, not {now.get(name)!r}" for name in other)
            raise SystemExit(f"{args.out} has {row.name} with {said}: choose another --out, or the settings of before")


def expected_seconds(row: Row, done: dict[Row, dict[str, Any]]) -> float:
    """By rows of the same set, else by all; 0 where nothing is known yet."""
    alike = [values["seconds"] for other, values in done.items() if other.set == row.set]
    seconds = alike or [values["seconds"] for values in done.values()] or [0.0]
    return float(max(seconds))


def run_all(args: argparse.Namespace) -> None:
    """Runs what is missing, ``args.jobs`` processes at once."""
    (args.out / "rows").mkdir(parents=True, exist_ok=True)
    left = [row for row in wanted_rows(args) if row not in finished(args.out)]
    # A row that failed is not tried again in this call; the next one does.
    running: dict[subprocess.Popen[bytes], Row] = {}
    begun = time.monotonic()
    while left or running:
        while left and len(running) < args.jobs:
            row = left.pop(0)
            over = time.monotonic() - begun + expected_seconds(row, finished(args.out))
            if args.minutes is not None and over > 60 * args.minutes:
                print(f"left out, too late: {row.name}", flush=True)
                continue
            log = (args.out / "rows" / f"{row.name}.log").open("wb")
            command = [sys.executable, __file__, *sys.argv[1:], "--row", *map(str, row)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
            started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
            running[started] = row
        for process in [process for process in running if process.poll() is not None]:
            row = running.pop(process)
            print(f"{'done' if process.returncode == 0 else 'FAILED'}: {row.name}", flush=True)
        if running:
            time.sleep(0.5)


def around(values: list[float]) -> str:
    """ "0.545 ± 0.002"."""
    if not values:
        return "–"
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def table(args: argparse.Namespace) -> Iterator[str]:
    """A line for each set and side, and the mean over the sets that every side has."""
    done = finished(args.out)
    sides = [*variants(args.variant), PEER]
    yield "| set | side | seeds | " + " | ".join(METRICS) + " | s per epoch |"
    yield "|-|-|-|" + "-|" * (len(METRICS) + 1)
    means: dict[str, dict[str, float]] = {side: {} for side in sides}
    for name, side in itertools.product(args.sets, sides):
        rows = [values for row, values in done.items() if (row.set, row.side) == (name, side)]
        if rows:
            cells = [around([v for r in rows if (v := r[metric]) is not None]) for metric in METRICS]
            speed = statistics.median(r["seconds_per_epoch"] for r in rows)
            yield f"| {name} | {side} | {len(rows)} | {' | '.join(cells)} | {speed:.1f} |"
            means[side][name] = statistics.fmean(r["ap"] or 0.0 for r in rows)
    measured = [side for side in sides if means[side]]
    common = set(args.sets).intersection(*(means[side] for side in measured)) if measured else set()
    if common:
        for side in measured:
            yield f"| mean of {len(common)} | {side} | | {statistics.fmean(means[side][s] for s in common):.3f} |"


def main() -> None:
    """Runs one row, or all that are missing; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that has the sets")
    parser.add_argument("--out", type=Path, default=Path("accuracy"))
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS), help=", ".join(SETS))
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME:KEY=VALUE,…", help="of the recipe, or pretrained="
    )
    parser.add_argument("--no-peer", action="store_true", help="without effdet")
    parser.add_argument("--model", default="efficientdet-lite0")
    parser.add_argument(
        "--pretrained",
        default="backbone",
        help="where all sides start that do not say it: backbone, coco, none, a file",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="images at S of the sets' sizes (1)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    parser.add_argument("--batch-size", type=int, metavar="N", help="of both sides (the recipe's; 8)")
    parser.add_argument("--peer-rate", type=float, default=0.01, help="effdet's rate for a batch of 32 (0.01)")
    parser.add_argument("--peer-decay", type=float, default=0.0, help="of effdet's average (0: none)")
    parser.add_argument("--workers", type=int, default=1, help="processes that load images, for each row (1)")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at once (1)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on a CPU, for each row (1)")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin nothing that would end later")
    parser.add_argument("--row", nargs=3, metavar=("SET", "SIDE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.sets if name not in SETS]
    if unknown:
        raise SystemExit(f"there is no set {unknown[0]!r}: expected {', '.join(SETS)}")
    if args.row is not None:
        ends_with_parent()
        run_row(args, Row(args.row[0], args.row[1], int(args.row[2])))
        return
    check_alike(args)
    run_all(args)
    lines = list(table(args))
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
