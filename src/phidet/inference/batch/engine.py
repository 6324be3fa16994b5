"""Daft as what runs workers: in processes of this machine, or on a Ray cluster.

It is given a table of parts, a row each, and calls a worker for every row; it neither reads nor writes images. What its
own reading and writing cannot promise is kept by the workers (``docs/decisions/0028-batch.md``).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from phidet.core.errors import ConfigError
from phidet.core.optional import optional_package
from phidet.inference.batch.run import Done, Job, Model, PartWorker, Resources

_LOOK_EVERY_S = 0.5
_CONNECT_S = 10.0
_STARTED: list[str | None] = []  # on which clusters; ``None`` is this machine


def daft_engine(model: Model, jobs: Sequence[Job], resources: Resources) -> Iterator[Done]:
    """Does jobs with Daft; see :data:`phidet.inference.batch.run.Engine`.

    Raises:
        MissingExtraError: Daft, or for a cluster Ray, is not installed.
        ConfigError: there is no such cluster.
        RuntimeError: a worker was lost.
    """
    daft = _daft(resources.cluster)
    _STARTED.append(resources.cluster)
    kind = _ClusterWorker if resources.cluster else _LocalWorker
    # Workers on this machine are processes, as threads would wait for Python's lock; on a cluster they are Ray's.
    settings = {"max_concurrency": resources.workers} | ({} if resources.cluster else {"use_process": True})
    make = daft.cls(kind, **settings)
    worker = make(msgspec.json.encode(model).decode(), resources.threads, resources.batch)
    table = daft.from_pydict({"job": [msgspec.json.encode(job).decode() for job in jobs]})
    # One row at a time, so that a result is there as soon as its part is.
    rows = table.into_batches(1).select(worker(daft.col("job")).alias("done"))
    for row in rows.iter_rows(results_buffer_size=1):
        yield msgspec.json.decode(row["done"], type=Done)


class _ClusterWorker:
    """:class:`PartWorker` with types that Daft can read."""

    def __init__(self, model: str, threads: int, batch: int) -> None:
        self._worker = PartWorker(model, threads, batch)

    def __call__(self, job: str) -> str:
        return self._worker(job)


class _LocalWorker(_ClusterWorker):
    """A process that ends with the one that started it, also where that was killed: its parts will be done again."""

    def __init__(self, model: str, threads: int, batch: int) -> None:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        super().__init__(model, threads, batch)

    def __call__(self, job: str) -> str:
        return self._worker(job)


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent."""
    # Linux can send a signal then, but means the parent's thread by it, and Daft's threads come and go.
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


def is_started() -> bool:
    """Whether Daft has begun to work in this process: its threads may outlive the last result."""
    return bool(_STARTED)


def _daft(cluster: str | None) -> Any:
    """Daft, told where to run; ``DAFT_ANALYTICS_ENABLED=0`` was set when phidet was imported."""
    os.environ["DAFT_PROGRESS_BAR"] = "0"  # phidet shows its own
    daft = optional_package("daft", "phidet batch", "batch")
    if cluster is None:
        daft.set_runner_native()
        return daft
    ray = optional_package("ray", "phidet batch --cluster", "batch-ray")
    try:
        quiet = {"ignore_reinit_error": True, "log_to_driver": False, "logging_level": "ERROR"}
        if cluster == "local":
            ray.init(include_dashboard=False, **quiet)  # nobody asked for another server
        else:
            _check_there(cluster)
            ray.init(address=cluster, **quiet)
        daft.set_runner_ray(noop_if_initialized=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"there is no Ray cluster at {cluster}: {' '.join(str(error).split())}") from error
    return daft


def _check_there(cluster: str) -> None:
    """Raises OSError where nothing listens at the address of a cluster; Ray itself would try for minutes."""
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
