"""A search over a few fields of the recipe, within a budget of runs and time: what ``phidet tune`` does.

Optuna (its tree-structured Parzen estimator) proposes, phidet trains; what counts is the metric on validation images.
The first run is that of the recipe as it is; runs that diverge are left out. ``study.log`` holds the proposals and
their values, ``run-N`` an ordinary run for each; everything resumes from there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from phidet.architectures.base import resolved_loss
from phidet.core.csv_files import write_csv
from phidet.core.errors import ConfigError, MissingExtraError, TrainingDivergedError
from phidet.core.files import write_atomic
from phidet.core.structs import require
from phidet.data.hold_out import RUN
from phidet.training.about import Request
from phidet.training.augmentation.own import OwnAugmentation
from phidet.training.fit import RunSettings
from phidet.training.plan import open_start
from phidet.training.recipe import Recipe, replace
from phidet.training.run import TrainedRun, resume, run
from phidet.training.run_folder import make_folder, read_record

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

log = logging.getLogger("phidet")

RECORD, STUDY, TABLE = "tune.json", "study.log", "tune.csv"
SEARCH = ("learning_rate=x0.3..3", "weight_decay=0.001..0.2", "augmentation.mosaic=0,0.25,0.5", "freeze=none,early")
"""What is searched where nothing else is said."""
Value = float | int | str | bool | None


class Field(NamedTuple):
    """A field of the recipe and what it may be.

    Attributes:
        key: of the recipe, with dots, as for ``--set``.
        choices: one of these; or, where there are none:
        low, high: a number between them, on a logarithmic scale where both are above 0.
        relative: low and high are factors of the recipe's own value.
        whole: only whole numbers, as the recipe's own value is one.
    """

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    relative: bool = False
    whole: bool = False


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop: after so many runs, or when so many minutes are over, but never in the middle of a run."""

    runs: int = 12
    minutes: float | None = None

    def __post_init__(self) -> None:
        require(self.runs >= 1, f"runs must be a whole number ≥ 1, got {self.runs}")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes must be above 0, got {self.minutes:g}")


class TuneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``tune.json`` says: what every run has in common, the search, and the seed of all runs."""

    request: Request
    search: tuple[str, ...]
    seed: int


class Tried(NamedTuple):
    """A finished run: its number, what was changed, and the metric."""

    number: int
    changes: Mapping[str, Value]
    value: float


class TuneResult(NamedTuple):
    """What was found in ``folder``: all finished runs, the best first, by ``metric``."""

    folder: Path
    metric: str
    tried: tuple[Tried, ...]


def parse_field(text: str) -> Field:
    """ "freeze=none,early", "weight_decay=0.001..0.2", or relative to the recipe's own value "learning_rate=x0.3..3".

    Raises:
        ConfigError: none of these.
    """
    key, equals, values = text.partition("=")
    if not (equals and key and values):
        raise ConfigError(f"expected KEY=A,B,C or KEY=LOW..HIGH, got {text!r}")
    if ".." in values:
        relative = values.startswith("x")
        try:
            low, high = (float(part) for part in values.removeprefix("x").split(".."))
        except ValueError:
            # No range, which is refused below.
            low, high = 1.0, 0.0
        if not low < high or (relative and low <= 0):
            raise ConfigError(f"expected a range LOW..HIGH of two numbers, got {text!r}")
        return Field(key, low=low, high=high, relative=relative)
    return Field(key, tuple(_value(part) for part in values.split(",")))


def tune(
    request: Request,
    settings: RunSettings,
    budget: Budget,
    search: Sequence[str] = SEARCH,
    augment: OwnAugmentation | None = None,
) -> TuneResult:
    """Searches; ``settings.out`` gets a folder for each run.

    Args:
        request: what every run has in common.
        settings: where, and the seed of all runs.
        budget: when to stop.
        search: which fields, see :func:`parse_field`.
        augment: an augmentation of the user's own, for all runs.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: a wrong field, no validation images, a test split to choose by, or a folder in use.
        UnknownNameError: a field that there is not.
    """
    _optuna()
    split = request.val_split or ""
    if split == "none":
        raise ConfigError("settings are chosen by validation images: leave out --val-split none")
    if "test" in split.lower():
        raise ConfigError(
            f"settings that are chosen by {split!r} make its later metrics too good: choose by validation images"
        )
    if (settings.out / RECORD).exists():
        raise ConfigError(f"{settings.out} holds a search already: continue it with --resume, or choose another folder")
    # Held-out images are the same in every run, because the seed is.
    record = TuneRecord(request=request.with_absolute_paths(), search=tuple(search), seed=settings.seed)
    _fields_of(record)  # before the folder is made, so that a mistake leaves none behind
    make_folder(settings.out)
    _write(settings.out, record)
    return _search(record, settings, budget, augment)


def resume_tune(
    folder: Path,
    settings: RunSettings,
    budget: Budget,
    augment: OwnAugmentation | None = None,
    data: str | Path | None = None,
) -> TuneResult:
    """Goes on with the search in ``folder``, up to ``budget.runs`` runs together, and finishes one that was stopped.

    ``data`` is where the data are now, if they were moved; the search keeps it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    _optuna()
    record = read_record(folder / RECORD, TuneRecord, "no search")
    if data is not None:
        record = msgspec.structs.replace(record, request=record.request.moved_to(data))
        _write(folder, record)
    return _search(record, msgspec.structs.replace(settings, out=folder, seed=record.seed), budget, augment)


def _write(folder: Path, record: TuneRecord) -> None:
    write_atomic(folder / RECORD, msgspec.json.format(msgspec.json.encode(record)))


def _search(record: TuneRecord, settings: RunSettings, budget: Budget, augment: OwnAugmentation | None) -> TuneResult:
    optuna, folder = _optuna(), settings.out
    own, fields = _fields_of(record)
    study = _open_study(folder, record.seed)
    # First the recipe as it is, which everything else is compared with.
    if not study.trials:
        study.enqueue_trial({field.key: _nearest(field, _field_of(own, field.key)) for field in fields})
    begun_s = monotonic()
    left = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]  # stopped in the middle
    metric = "ap"
    # A proposal counts as a trial before it has run: the one that waits, the recipe itself, is asked for by itself.
    while left or len(study.trials) < budget.runs or any(t.state.name == "WAITING" for t in study.trials):
        if budget.minutes is not None and monotonic() - begun_s > 60 * budget.minutes:
            log.info("the time is over: --resume %s goes on", folder)
            break
        if left:
            number, params = left[0].number, left.pop(0).params
        else:
            trial = study.ask()
            number, params = trial.number, {field.key: _suggest(trial, field) for field in fields}
        log.info("run %d: %s", number, ", ".join(f"{key} = {value}" for key, value in params.items()))
        try:
            trained = _train(record, params, msgspec.structs.replace(settings, out=folder / f"run-{number}"), augment)
        except TrainingDivergedError as error:
            # An answer as well, of a rate that is too high: worse than any other. Were it none, the search would
            # come back to this run whenever it goes on, and never get past it.
            log.warning("run %d is left out: %s", number, str(error).partition(":")[0])
            study.tell(number, state=optuna.trial.TrialState.PRUNED)
            continue
        if not trained.metrics:
            raise ConfigError("the validation images have no objects, so that no setting is better than another")
        metric = next(iter(trained.metrics))
        study.tell(number, trained.metrics[metric])
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    tried = sorted((Tried(t.number, t.params, float(t.values[0])) for t in done), key=lambda t: (-t.value, t.number))
    keys = [field.key for field in fields]
    rows = [[t.number, *(t.changes.get(key) for key in keys), t.value] for t in tried]
    write_csv(folder / TABLE, ("run", *keys, metric), rows)
    return TuneResult(folder, metric, tuple(tried))


def _train(
    record: TuneRecord, params: Mapping[str, Value], settings: RunSettings, augment: OwnAugmentation | None
) -> TrainedRun:
    if (settings.out / RUN).exists():
        return resume(settings.out, settings, record.request.data, augment)
    changes = _nested(params, record.request.changes)
    return run(msgspec.structs.replace(record.request, changes=changes), settings, augment=augment)


def _nested(params: Mapping[str, Value], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` and ``params``, whose keys with dots are changes inside of a change."""
    found: dict[str, Any] = msgspec.to_builtins(changes)
    for key, value in params.items():
        *parents, last = key.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return found


def _fields_of(record: TuneRecord) -> tuple[Recipe, list[Field]]:
    """The recipe without a change of the search (where the number of images decides, that of 1,000), and the fields.

    Raises:
        ConfigError: a value that the recipe does not take: said before the first run, not in the middle of the search.
        UnknownNameError: a field that there is not.
    """
    request, start = record.request, open_start(record.request.model)
    own = replace(start.kind.recipe(request.recipe, 1000, start.architecture), request.changes)
    own = replace(own, {"loss": resolved_loss(start.architecture, own.loss)})
    fields = [_absolute(parse_field(text), own) for text in record.search]
    for field in fields:
        for value in field.choices or (field.low, field.high):
            replace(own, _nested({field.key: value}, {}))
    return own, fields


def _field_of(recipe: Recipe, key: str) -> Any:
    """The value of a field.

    Raises:
        ConfigError: there is none of that name.
    """
    value: Any = msgspec.to_builtins(recipe)
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ConfigError(f"the recipe has no field {key!r}")
        value = value[part]
    return value


def _absolute(field: Field, recipe: Recipe) -> Field:
    own = _field_of(recipe, field.key)
    if field.choices:
        return field
    number = isinstance(own, int | float) and not isinstance(own, bool)
    if field.relative and not (number and own > 0):
        raise ConfigError(f"{field.key} is {own!r}, of which there are no multiples: give a range without x")
    if not number:
        raise ConfigError(f"{field.key} is {own!r}, which is no number: give its values as {field.key}=A,B,C")
    factor, whole = own if field.relative else 1, isinstance(own, int)
    low, high = field.low * factor, field.high * factor
    if whole:
        low, high = round(low), round(high)
    return field._replace(low=low, high=high, relative=False, whole=whole)


def _nearest(field: Field, own: Any) -> Any:
    """What comes nearest to the recipe's own value of what is searched."""
    if field.choices:
        return own if own in field.choices else field.choices[0]
    return min(max(own, field.low), field.high)


def _suggest(trial: Trial, field: Field) -> Value:
    if field.choices:
        chosen: Value = trial.suggest_categorical(field.key, list(field.choices))
        return chosen
    if field.whole:
        return trial.suggest_int(field.key, int(field.low), int(field.high), log=field.low > 0)
    return trial.suggest_float(field.key, field.low, field.high, log=field.low > 0)


def _open_study(folder: Path, seed: int) -> Study:
    optuna = _optuna()
    from optuna.storages import JournalStorage  # noqa: PLC0415 - an extra of its own
    from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A journal is one file that only grows: no server, no database, and a run that is killed leaves it whole.
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY)))
    how = {"study_name": "phidet", "direction": "maximize", "load_if_exists": True}
    study: Study = optuna.create_study(storage=storage, **how)
    # Another seed after each run: a search that goes on would else propose again what it has proposed. Four runs at
    # random, of the usual ten: a whole budget is about a dozen.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=4)
    return study


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415 - an extra of its own
    except ModuleNotFoundError as error:
        raise MissingExtraError("phidet tune", "tune") from error
    return optuna


def _value(text: str) -> Value:
    try:
        value: Value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text.strip()
    return value
