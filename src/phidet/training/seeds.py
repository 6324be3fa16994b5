"""The same training with several seeds, one after the other: what a difference of two runs is worth.

A folder of its own holds ``seed-N``, an ordinary run for each, ``seeds.json``, which ``--resume`` reads, and
``seeds.csv``, the table. The validation images are the same for all, also where they are held out.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from phidet.core.csv_files import write_csv
from phidet.core.errors import ConfigError
from phidet.core.files import write_atomic
from phidet.data.hold_out import RUN
from phidet.training.about import Request
from phidet.training.augmentation.own import OwnAugmentation
from phidet.training.fit import RunSettings
from phidet.training.run import resume, run
from phidet.training.run_folder import make_folder, read_record

log = logging.getLogger("phidet")

RECORD, TABLE = "seeds.json", "seeds.csv"


class SeedsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``seeds.json`` says.

    Attributes:
        request: of every run.
        seeds: one for each run.
        metrics: of the finished runs, by seed.
        save_memory, compile: of the settings.
    """

    request: Request
    seeds: tuple[int, ...]
    metrics: dict[str, dict[str, float]] = {}
    save_memory: bool = False
    compile: bool = False


class Spread(NamedTuple):
    """One metric over all runs.

    Attributes:
        values: of each run.
        mean: of them.
        deviation: their standard deviation as an estimate from so few (n − 1); ``None`` of one run.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None

    def __str__(self) -> str:
        around = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        return f"{self.mean:.4f}{around} ({min(self.values):.4f}–{max(self.values):.4f})"


class SeedsResult(NamedTuple):
    """What is left in ``folder``: metrics of each seed, and their spread by metric."""

    folder: Path
    metrics: Mapping[int, Mapping[str, float]]
    spreads: Mapping[str, Spread]


def train_seeds(
    request: Request, settings: RunSettings, count: int, augment: OwnAugmentation | None = None
) -> SeedsResult:
    """Trains with the seeds ``settings.seed``, ``settings.seed`` + 1, …, each in a folder below ``settings.out``.

    Args:
        request: what, on what; its ``split_seed`` is set, so that held-out images are the same for all.
        settings: where; on one device.
        count: how many seeds, 2 or more.
        augment: an augmentation of the user's own.

    Raises:
        ConfigError: fewer than two, several devices, or a folder that holds something already.
    """
    if count < 2:
        raise ConfigError(f"--seeds must be a whole number ≥ 2, got {count}: a spread needs several runs")
    if request.val_split == "none":
        raise ConfigError("without validation images there is nothing to compare: leave out --val-split none")
    if settings.devices not in ("auto", 1, "1") or settings.nodes != 1:
        raise ConfigError("runs with several seeds follow one another on one device: leave out --devices and --nodes")
    if (settings.out / RECORD).exists():
        raise ConfigError(f"{settings.out} holds runs already: continue them with --resume, or choose another folder")
    # Runs of all seeds are measured on the same images, or they could not be compared.
    split_seed = settings.seed if request.split_seed is None else request.split_seed
    record = SeedsRecord(
        request=msgspec.structs.replace(request, split_seed=split_seed).with_absolute_paths(),
        seeds=tuple(range(settings.seed, settings.seed + count)),
        save_memory=settings.save_memory,
        compile=settings.compile,
    )
    _write(settings.out, record)
    return _go_on(record, settings, augment)


def resume_seeds(
    folder: Path, settings: RunSettings, augment: OwnAugmentation | None = None, data: str | Path | None = None
) -> SeedsResult:
    """Continues what :func:`train_seeds` began in ``folder``: finished runs stay, one that was stopped goes on.

    ``data`` is where the data are now, if they were moved; what is in ``folder`` keeps it.

    Raises:
        CheckpointError: there is nothing, or it is damaged.
    """
    record = read_record(folder / RECORD, SeedsRecord, "nothing to resume")
    if data is not None:
        record = msgspec.structs.replace(record, request=record.request.moved_to(data))
        _write(folder, record)
    # As the runs before, or they could not be compared; each run decides for itself whether it goes on.
    own = {"save_memory": record.save_memory, "compile": record.compile, "out": folder, "resume": False}
    return _go_on(record, msgspec.structs.replace(settings, **own), augment)


def has_seeds(folder: Path) -> bool:
    """Whether ``folder`` holds runs of several seeds."""
    return (folder / RECORD).is_file()


def spreads_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of every metric that all runs have."""
    common = [name for name in (metrics[0] if metrics else {}) if all(name in one for one in metrics)]
    spreads = {}
    for name in common:
        values = tuple(one[name] for one in metrics)
        deviation = statistics.stdev(values) if len(values) > 1 else None
        spreads[name] = Spread(values, statistics.fmean(values), deviation)
    return spreads


def _go_on(record: SeedsRecord, settings: RunSettings, augment: OwnAugmentation | None) -> SeedsResult:
    folder = settings.out
    for number, seed in enumerate(record.seeds, 1):
        if str(seed) in record.metrics:
            continue
        log.info("seed %d, run %d of %d", seed, number, len(record.seeds))
        own = folder / f"seed-{seed}"
        mine = msgspec.structs.replace(settings, out=own, seed=seed, devices=1)
        # A run that was stopped goes on by its own description.
        begun = (own / RUN).exists()
        request = record.request
        trained = resume(own, mine, request.data, augment) if begun else run(request, mine, augment=augment)
        record = msgspec.structs.replace(record, metrics={**record.metrics, str(seed): trained.metrics})
        _write(folder, record)
    return SeedsResult(folder, {int(seed): found for seed, found in record.metrics.items()}, _spreads(record))


def _spreads(record: SeedsRecord) -> dict[str, Spread]:
    return spreads_of([record.metrics[str(seed)] for seed in record.seeds if str(seed) in record.metrics])


def _write(folder: Path, record: SeedsRecord) -> None:
    make_folder(folder)
    spreads = _spreads(record)
    rows: list[list[object]] = [
        [f"seed {seed}", *(record.metrics[str(seed)].get(name) for name in spreads)]
        for seed in record.seeds
        if str(seed) in record.metrics
    ]
    rows.append(["mean", *(spread.mean for spread in spreads.values())])
    rows.append(["standard deviation", *(spread.deviation for spread in spreads.values())])
    write_csv(folder / TABLE, ("run", *spreads), rows)
    # Last: it says which runs are finished.
    write_atomic(folder / RECORD, msgspec.json.format(msgspec.json.encode(record)))
