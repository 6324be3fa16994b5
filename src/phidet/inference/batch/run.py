"""A run over all parts of an input: which are to be done, who does them, and what came of it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import msgspec

from phidet.core.bundled import BUNDLED
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.core.files import raising_write_errors
from phidet.core.machine import usable_cores
from phidet.detections.parquet import pyarrow
from phidet.detections.settings import PostprocessSettings
from phidet.inference.batch.parts import Columns, Part, Plan, Wanted, plan
from phidet.inference.batch.places import (
    Place,
    create,
    files_below,
    folder_of,
    open_file,
    place_of,
    read_bytes,
    remove_temporary,
    write_whole,
)
from phidet.inference.batch.worker import ABOUT, BatchWorker, PartAbout, model_version
from phidet.inference.runtimes.options import Runtime

log = logging.getLogger("phidet")
ABOUT_FILE, LOCK_FILE = "_phidet.json", "_lock"
_READERS = 16  # threads that look at files that are there
_LARGEST_ABOUT = 1 << 20
_LOSSES = 3  # times in a row that workers may be lost without any part done


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What detects, and how: everything that the results depend on."""

    model: str = "person"
    version: str = ""
    runtime: Runtime = "auto"
    settings: PostprocessSettings = PostprocessSettings()
    tile: int | None = None
    exact: bool = False


class About(msgspec.Struct, frozen=True, kw_only=True):
    """``_phidet.json`` of an output folder: what all its files have in common."""

    input: str
    detection: Model
    columns: Columns | None
    part_size: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One part for a worker, and where its output goes."""

    part: Part
    columns: Columns | None
    out: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of a part.

    Attributes:
        name: the part's.
        images, errors, objects: numbers in it.
        error: why there is no output file.
        is_fatal: nothing else can be written either.
        was_there: another run has made it in the meantime.
    """

    name: str
    images: int = 0
    errors: int = 0
    objects: int = 0
    error: str | None = None
    is_fatal: bool = False
    was_there: bool = False


class Resources(NamedTuple):
    """Processes, threads of each, images at once, and the cluster that they run on."""

    workers: int
    threads: int
    batch: int = 1
    cluster: str | None = None


Engine = Callable[[Model, Sequence[Job], Resources], Iterator[Done]]
"""Has jobs done by workers, and yields what they say, in any order; raises RuntimeError where a worker is lost."""


class Pending(NamedTuple):
    """A run that can begin: what is to be done, and what was done before."""

    about: About
    plan: Plan
    out: Place
    jobs: list[Job]

    @property
    def images(self) -> int | None:
        """Number of images to be done, ``None`` where it is not known."""
        counts = [job.part.images for job in self.jobs]
        return None if None in counts else sum(count or 0 for count in counts)


class Summary(msgspec.Struct, kw_only=True):
    """What a run did. Parts that were there before are counted in ``skipped`` only."""

    parts: int = 0
    skipped: int = 0
    images: int = 0
    errors: int = 0
    objects: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = {}


def prepare(source: str, out: str, model: Model, wanted: Wanted) -> Pending:
    """Looks at input and output; writes nothing.

    Raises:
        InputError: the input cannot be read, or has changed since a part of it was done.
        ConfigError: the output folder has results of something else.
        CheckpointError: there is no such model.
    """
    target = place_of(out)
    _check_apart(place_of(source), target)
    # By content: another file under the same name would give other results in the same folder.
    version = model_version(model.model, model.runtime)
    # Workers may have another current folder; a name that means no file here stays a name.
    is_name = model.model in BUNDLED or not Path(model.model).exists()
    name = model.model if is_name else str(Path(model.model).absolute())
    model = msgspec.structs.replace(model, model=name, version=version)
    planned = plan(source, wanted)
    about = About(input=place_of(source).address, detection=model, columns=planned.columns, part_size=wanted.part_size)
    # What is there was written whole, so that its name alone says that the part is done.
    there = files_below(target)
    _check_about(target, about, bool(there))
    done = [part for part in planned.parts if f"{part.name}.parquet" in there]
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda part: _check_part(target, part), done))
    names = {part.name for part in done}
    jobs = [
        Job(part=part, columns=planned.columns, out=target.file(f"{part.name}.parquet").address)
        for part in planned.parts
        if part.name not in names
    ]
    return Pending(about, planned, target, jobs)


def run(pending: Pending, engine: Engine, resources: Resources, tell: Callable[[Summary], None]) -> Summary:
    """Does what is to be done; ``tell`` is called after each part.

    Raises:
        ConfigError: another process is writing to the output folder.
        PhidetError: nothing can be written, or workers are lost again and again; parts that are done stay.
    """
    summary = Summary(skipped=len(pending.plan.parts) - len(pending.jobs))
    start = time.monotonic()
    with _locked(pending.out):
        if not create(pending.out.file(ABOUT_FILE), msgspec.json.encode(pending.about)):
            _check_about(pending.out, pending.about, False)  # another process may have been first
        jobs = {job.part.name: job for job in pending.jobs}
        losses = 0
        while jobs and losses < _LOSSES:
            before = len(jobs)
            try:
                # As they come: a part is done once its file is there, whatever becomes of the others.
                for done in engine(pending.about.detection, list(jobs.values()), resources):
                    del jobs[done.name]
                    summary.seconds = time.monotonic() - start
                    _add(summary, done)
                    tell(summary)
                break
            except RuntimeError as error:
                # Parts that a lost worker had in its hands are done again; of others nothing is lost.
                losses = 0 if len(jobs) < before else losses + 1
                log.warning("a worker was lost, going on with %d parts: %s", len(jobs), _first_line(error))
        if jobs:
            raise PhidetError(
                f"workers are lost again and again, {len(jobs)} parts are not done: {', '.join(sorted(jobs)[:3])}; is "
                "there enough memory? Fewer --workers need less. The same command goes on where this one ended"
            )
    summary.seconds = time.monotonic() - start
    return summary


def shares(jobs: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Processes and threads of each, so that together they have one thread for each usable core."""
    cores = usable_cores()
    workers = workers or max(1, min(cores // (threads or 1), jobs))
    return workers, threads or max(1, cores // workers)


class PartWorker:
    """A worker of :func:`run`: does jobs, and says what came of each; whatever goes wrong is in what it says.

    Args:
        model: JSON of a :class:`Model`.
        threads, batch: as in :class:`BatchWorker`.
    """

    def __init__(self, model: str, threads: int, batch: int) -> None:
        m = msgspec.json.decode(model, type=Model)
        self._worker = BatchWorker(
            m.model, m.settings, runtime=m.runtime, threads=threads, batch=batch, tile=m.tile, exact=m.exact,
            version=m.version,
        )  # fmt: skip

    def __call__(self, job: str) -> str:
        """JSON of a :class:`Done` for JSON of a :class:`Job`."""
        return msgspec.json.encode(self.do(msgspec.json.decode(job, type=Job))).decode()

    def do(self, job: Job) -> Done:
        """Writes the output of a part, unless it is there."""
        name, out = job.part.name, place_of(job.out)
        # Another run may have made it, or this one before a worker was lost.
        if out.fs.exists(out.path):
            return Done(name=name, was_there=True)
        try:
            # Opened first: without a model no part can be done.
            _ = self._worker.detector
        except PhidetError as error:
            return Done(name=name, error=str(error), is_fatal=True)
        try:
            made = self._worker.part(job.part, job.columns)
        except PhidetError as error:
            return Done(name=name, error=str(error))
        try:
            write_whole(out, made.content)
        except PhidetError as error:
            return Done(name=name, error=str(error), is_fatal=True)
        return Done(name=name, images=made.images, errors=made.errors, objects=made.objects)


def _add(summary: Summary, done: Done) -> None:
    if done.error is not None:
        if done.is_fatal:
            raise PhidetError(f"{done.error}; the same command goes on where this one ended")
        summary.failed[done.name] = done.error
        return
    if done.was_there:
        summary.skipped += 1
        return
    summary.parts += 1
    summary.images += done.images
    summary.errors += done.errors
    summary.objects += done.objects


def _check_apart(source: Place, out: Place) -> None:
    """Raises ConfigError where results would lie in the input, and be read as such the next time."""
    # Another kind of file system is another place.
    if type(source.fs) is not type(out.fs):
        return
    folder = PurePosixPath(folder_of(source).path)
    pattern = source.path != str(folder)
    if PurePosixPath(out.path) == folder or (not pattern and PurePosixPath(out.path).is_relative_to(folder)):
        raise ConfigError(f"{out.address} lies in the input, {source.address}: choose another folder for results")


def _check_about(out: Place, about: About, has_files: bool) -> None:
    """Raises ConfigError where the folder has results of something else."""
    file = out.file(ABOUT_FILE)
    if not file.fs.exists(file.path):
        if has_files:
            raise ConfigError(f"{out.address} holds files that phidet batch did not write: choose another folder")
        return
    try:
        before = msgspec.json.decode(read_bytes(file, _LARGEST_ABOUT), type=About)
    except (msgspec.DecodeError, ConfigError) as error:
        raise InputError(f"{file.address} is damaged: {error}") from error
    for key, old, new in _differences(before, about):
        raise ConfigError(
            f"{out.address} has results of another {key}: {old!r}, now {new!r}. Choose another folder, or what was "
            "chosen before"
        )


def _differences(old: Any, new: Any, inside: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of each field that differs."""
    for key in old.__struct_fields__:
        a, b = getattr(old, key), getattr(new, key)
        if a == b:
            continue
        if isinstance(a, msgspec.Struct) and type(a) is type(b):
            yield from _differences(a, b, key)
        else:
            yield {"version": "version of the model", "id": "id column", "image": "image column"}.get(key, key), a, b


def _check_part(out: Place, part: Part) -> None:
    """Raises InputError where a file was made from another input than there is now."""
    pa = pyarrow("phidet batch")
    place = out.file(f"{part.name}.parquet")
    try:
        with open_file(place) as file:
            metadata = pa.parquet.read_schema(file).metadata or {}
        about = msgspec.json.decode(metadata[ABOUT.encode()], type=PartAbout)
    except (pa.ArrowException, OSError, KeyError, msgspec.DecodeError) as error:
        raise InputError(f"{place.address} was not written by phidet batch, or is damaged: {error}") from error
    if about.digest != part.digest:
        raise InputError(
            f"{part.address} has changed since {place.address} was made of it: choose another folder for results, or "
            "remove that file to have it made again"
        )


@contextmanager
def _locked(out: Place) -> Iterator[None]:
    """Keeps other processes out of a folder on this machine, and removes what killed ones left.

    An object store has no locks; there, two runs at once do some parts twice, to the same result.
    """
    if not out.is_local:
        yield
        return
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        yield
        return
    path = out.file(LOCK_FILE).path
    with raising_write_errors(Path(path)):
        os.makedirs(out.path, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 - open, and locked, until the run is over
    with file:
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another phidet batch is writing to {out.address}: wait until it has ended") from None
        remove_temporary(out)
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
