"""Versions of models in folders: polls the folders, loads wanted versions, unloads those no longer wanted.

All state lives on the event loop, so that nothing here needs a lock; folders are read and models loaded in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from phidet.core.errors import PhidetError
from phidet.images.decode import Decoded
from phidet.serve.configuration import ServerSettings, Source
from phidet.serve.metrics import Metrics
from phidet.serve.models.batching import Batcher
from phidet.serve.models.folders import Fingerprint, fingerprint, version_folders
from phidet.serve.models.model import Load, Model, model_file
from phidet.serve.refusals import RefusedError, bad_request
from phidet.serve.wire import SHOWN

State = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
KEPT = 256  # versions that have ended and stay listed
log = logging.getLogger("phidet.serve")


class VersionState(NamedTuple):
    """Where a version is in its life. ``error`` is empty unless it failed."""

    version: int
    state: State
    error: str = ""


class LoadedVersion:
    """A version that answers.

    ``users`` counts requests that began with it and are not done, ``working`` those of them whose body is here.
    """

    def __init__(self, name: str, version: int, model: Model, batcher: Batcher) -> None:
        self.name = name
        self.version = version
        self.model = model
        self.batcher = batcher
        self.users = self.working = 0
        self.unused = asyncio.Event()
        self.unused.set()

    @contextlib.contextmanager
    def used(self) -> Iterator[LoadedVersion]:
        """Keeps the version loaded while a request works with it."""
        self.users += 1
        self.unused.clear()
        try:
            yield self
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()

    async def close(self) -> None:
        """Waits for its last request, then releases threads and memory."""
        await self.unused.wait()
        await self.batcher.close()
        await asyncio.to_thread(self.model.close)


class ServedModel:
    """One model's versions.

    Args:
        source: its folder, and what of it is served.
        required: whether the server is not ready without it; one that was added later does not hold up the others.
    """

    def __init__(self, source: Source, required: bool = True) -> None:
        self.source = source
        self.required = required
        self.retired = False  # its versions are unloaded, and its folder is no longer polled
        self.wake = asyncio.Event()  # poll the folder now
        self.available: dict[int, LoadedVersion] = {}
        self.states: dict[int, VersionState] = {}
        self.failed: dict[int, Fingerprint] = {}
        self.warned = False  # that its folder has no version
        self.settled = False  # all versions of the start are loaded, or have failed
        self.applied = asyncio.Event()  # the folder was polled as the present source wants it

    def set_state(self, version: int, state: State, error: str = "") -> None:
        """Notes where ``version`` is; the oldest of those that ended are forgotten beyond ``KEPT``."""
        self.states[version] = VersionState(version, state, error)
        # Bounded: a folder that gets a version every minute would otherwise fill the memory.
        ended = sorted(v for v, s in self.states.items() if s.state == "END")
        for old in ended[: max(0, len(ended) - KEPT)]:
            del self.states[old]
            self.failed.pop(old, None)


class Repository:
    """All served models.

    Args:
        settings: which models, and how often their folders are polled.
        load: opens a model file, in a thread.
        metrics: where loads are counted.
    """

    def __init__(self, settings: ServerSettings, load: Load, metrics: Metrics) -> None:
        self.models = {source.name: ServedModel(source) for source in settings.sources}
        # Models whose folder has changed, until a version of the new folder answers and they take over.
        self._successors: dict[str, ServedModel] = {}
        self._settings = settings
        self._load = load
        self._metrics = metrics
        self._polling: set[asyncio.Task[None]] = set()
        self._unloading: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Every model of the start has a version that answers, and none that was there then is still to come."""
        return all(model.available and model.settled for model in self.models.values() if model.required)

    @property
    def sources(self) -> list[Source]:
        """What is served now."""
        return [model.source for model in self.models.values()]

    def find(self, name: str, version: int | None = None, label: str | None = None) -> LoadedVersion:
        """The version to answer with: the one named, the one labelled, or the latest.

        Version 0 is the latest as well, unless there is a version 0: clients made for OpenVINO's server request it so.

        Raises:
            RefusedError: 404 with TensorFlow Serving's text; 400 for an unknown label.
        """
        version = self.version_of(name, version, label)
        available = self.models[name].available if name in self.models else {}
        if version is None:
            if not available:
                raise RefusedError(404, f"Servable not found for request: Latest({name[:SHOWN]})")
            return available[max(available)]
        if version not in available:
            raise RefusedError(404, f"Servable not found for request: Specific({name[:SHOWN]}, {version})")
        return available[version]

    def status(self, name: str, version: int | None = None, label: str | None = None) -> list[VersionState]:
        """Known versions and where they are, ascending.

        Raises:
            RefusedError: 404 with TensorFlow Serving's text; 400 for an unknown label.
        """
        version = self.version_of(name, version, label)
        states = self.models[name].states if name in self.models else {}
        if not states:
            raise RefusedError(404, f"Could not find any versions of model {name[:SHOWN]}")
        if version is None:
            return [states[v] for v in sorted(states)]
        if version not in states:
            raise RefusedError(404, f"Could not find version {version} of model {name}")
        return [states[version]]

    def version_of(self, name: str, version: int | None, label: str | None) -> int | None:
        """The version number that a request means, ``None`` for the latest.

        Raises:
            RefusedError: 400: an unknown label.
        """
        model = self.models.get(name)
        if label is not None:
            if model is None or label not in model.source.labels:
                raise bad_request(f"Unrecognized servable version label: {label[:SHOWN]}")
            return model.source.labels[label]
        return None if version == 0 and (model is None or 0 not in model.states) else version

    async def start(self) -> None:
        """Loads the versions that exist and polls for more, until ``close``."""
        for model in self.models.values():
            self._begin(model)

    def configure(self, sources: Sequence[Source]) -> None:
        """Serves ``sources`` from now on; what they have in common with the present ones goes on answering.

        A model with another folder answers from the present one until a version of the new one is loaded. A model that
        is not among them answers what it has begun, and is unloaded.
        """
        wanted = {source.name: source for source in sources}
        for models in (self.models, self._successors):
            for name in models.keys() - wanted.keys():
                self._retire(models.pop(name))
        for name, source in wanted.items():
            if name not in self.models:
                self.models[name] = ServedModel(source, required=False)
                self._begin(self.models[name])
                continue
            successor = self._successors.get(name)
            for model in (self.models[name], successor):
                if model is not None and model.source.base_path == source.base_path:
                    model.source = source
                    model.applied.clear()
                    model.wake.set()
            # The configuration changed once more before the successor had a version: it is given up.
            if successor is not None and successor.source is not source:
                self._retire(self._successors.pop(name))
            if name not in self._successors and self.models[name].source is not source:
                self._successors[name] = ServedModel(source, self.models[name].required)
                self._begin(self._successors[name])

    async def applied(self, names: Sequence[str], deadline: float) -> list[str]:
        """Waits until what was configured for ``names`` is loaded, or has failed; returns what has failed.

        Raises:
            TimeoutError: it is not done at ``deadline``, on the event loop's clock.
        """
        failed = []
        async with asyncio.timeout_at(deadline):
            for name in names:
                model = self._successors.get(name) or self.models[name]
                await model.applied.wait()
                if not model.available:
                    reasons = [state.error for state in model.states.values() if state.error]
                    failed.append(f"model {name}: {reasons[-1] if reasons else 'its folder has no version'}")
        return failed

    async def close(self) -> None:
        """Stops polling and unloads everything that has no requests left."""
        for task in self._polling:
            task.cancel()
        await asyncio.gather(*self._polling, return_exceptions=True)
        if self._unloading:
            await asyncio.wait(self._unloading)

    def _begin(self, model: ServedModel) -> None:
        task = asyncio.create_task(self._follow(model))
        self._polling.add(task)
        task.add_done_callback(self._polling.discard)

    def _retire(self, model: ServedModel) -> None:
        model.retired = True
        model.wake.set()

    async def _follow(self, model: ServedModel) -> None:
        """Keeps ``model`` as its source specifies, until it is retired or the server ends."""
        name = model.source.name
        try:
            while not model.retired:
                try:
                    await self.poll(model)
                except Exception:  # loaded versions must go on answering after any failure
                    log.exception("looking for versions of model %s failed", name)
                model.settled = True
                if not model.wake.is_set():  # else the source has changed while its folder was polled
                    model.applied.set()
                # Only now that the new folder has a version that answers does it take over the name.
                if model.available and self._successors.get(name) is model:
                    self._retire(self.models[name])
                    self.models[name] = self._successors.pop(name)
                with contextlib.suppress(TimeoutError):  # an interval of 0 seconds polls once
                    async with asyncio.timeout(self._settings.poll_seconds or None):
                        await model.wake.wait()
                model.wake.clear()
        finally:
            # Retired, or the server ends: nothing new finds its versions, and those who work with them finish.
            for version in list(model.available):
                self._unload(model, version)

    async def poll(self, model: ServedModel) -> None:
        """Polls a model's folder once: loads what is wanted and new, then unloads what is no longer wanted.

        A folder that has gone, or is empty, changes nothing. The last version that answers goes only when a wanted
        one has taken its place; where none answers, as after a start with a broken latest one, the next older is tried.
        """
        found = await asyncio.to_thread(version_folders, model.source.base_path)
        wanted = model.source.policy.choose(list(found))
        if not wanted:
            if not model.warned and not model.available:
                log.warning("model %s: no version to serve in %s", model.source.name, model.source.base_path)
            model.warned = True
            return
        model.warned = False
        await self._load_missing(model, wanted, found)
        # Unload only once a wanted version answers: the model must never be without one.
        if any(version in model.available for version in wanted):
            for version in sorted(model.available):
                if version not in wanted:
                    self._unload(model, version)

    async def _load_missing(self, model: ServedModel, wanted: list[int], found: dict[int, Path]) -> None:
        for version in wanted:
            if version not in model.states:
                model.set_state(version, "START")
        for version in wanted:
            if version not in model.available:
                await self._load_version(model, version, found[version])
        # Nothing answers, as when the latest version is broken at the start: fall back, the newest first.
        older = sorted(set(found) - set(wanted)) if model.source.policy.latest else []
        while not model.available and older:
            version = older.pop()
            await self._load_version(model, version, found[version])

    async def _load_version(self, model: ServedModel, version: int, folder: Path) -> None:
        name = model.source.name
        mark = await asyncio.to_thread(fingerprint, folder)
        # Failed before, and its files are still the same: another try would fail again, at every poll.
        if model.failed.get(version) == mark:
            return
        model.set_state(version, "LOADING")
        try:
            loaded = await asyncio.to_thread(self._open, folder, model.source.base_path)
        except Exception as error:
            reason = str(error) if isinstance(error, PhidetError) else f"{type(error).__name__}: {error}"
            model.failed[version] = mark
            model.set_state(version, "END", reason)
            self._metrics.loads.labels(name, "failed").inc()
            log.error("model %s version %d was not loaded: %s", name, version, reason)
            return
        batcher = Batcher(loaded, self._settings.batching, self._metrics, name)
        model.available[version] = LoadedVersion(name, version, loaded, batcher)
        model.failed.pop(version, None)
        model.set_state(version, "AVAILABLE")
        self._metrics.loads.labels(name, "loaded").inc()
        self._metrics.versions.labels(name, str(version)).set(1)
        log.info("model %s version %d answers", name, version)

    def _open(self, folder: Path, base_path: Path) -> Model:
        """Runs in a thread. A model that cannot answer must not replace one that can, so it is tried first."""
        model = self._load(model_file(folder, base_path))
        try:
            try_out(model.detect)
        # Also on cancellation: a loaded model holds threads and memory.
        except BaseException:
            model.close()
            raise
        return model

    def _unload(self, model: ServedModel, version: int) -> None:
        loaded = model.available.pop(version)  # from here on no request finds it
        model.set_state(version, "UNLOADING")

        async def finish() -> None:
            await loaded.close()
            if version not in model.available:  # unless it is wanted again meanwhile
                model.set_state(version, "END")
                present = self.models.get(model.source.name)
                if present is None or version not in present.available:  # a model of that name may have another folder
                    with contextlib.suppress(KeyError):
                        self._metrics.versions.remove(model.source.name, str(version))
            log.info("model %s version %d is unloaded", model.source.name, version)

        task = asyncio.create_task(finish())
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)


def try_out(detect: Callable[[list[Decoded]], object]) -> None:
    """One grey image through a model."""
    detect([np.full((64, 64, 3), 127, np.uint8)])
