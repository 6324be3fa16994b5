"""Counts which images are processed, by whom, in processes that a command starts: for tests of what is done twice.

Each image has its number behind its end, where no decoder looks; a hook in every process notes it before decoding.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

_HOOK = """
import os, sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

LOG = {log!r}

class Hook(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "phidet.inference.batch.worker":
            return None
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            read = module.read_reduced
            def counted(content, needed):
                line = b"%d %s\\n" % (os.getpid(), content[-8:])
                file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(file, line)
                os.close(file)
                return read(content, needed)
            module.read_reduced = counted
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hook())
"""


class Processed(NamedTuple):
    """One image that was begun: the process, and the image's number."""

    pid: int
    number: int


class Log:
    """What is processed, in order of time.

    Args:
        folder: for the log and the hook.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._path = folder, folder / "log"
        self._path.touch()
        (folder / "sitecustomize.py").write_text(_HOOK.format(log=str(self._path)))

    def environment(self) -> dict[str, str]:
        """Of processes that are to be counted."""
        before = os.environ.get("PYTHONPATH")
        return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(self._folder), before)))}

    def read(self) -> list[Processed]:
        """All images so far."""
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [Processed(int(pid), int(number)) for pid, number in (line.split() for line in lines)]

    def count(self) -> int:
        """Number of images so far."""
        return self._path.read_bytes().count(b"\n")


def wait_until_gone(group: int) -> None:
    """Returns when no process of a group is left; ended ones that nobody asks about are not counted."""
    while True:
        states = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended in the meantime
                fields = path.read_text().rpartition(")")[2].split()
                states += [fields[0]] if int(fields[2]) == group else []
        if not set(states) - {"Z", "X"}:
            return
        time.sleep(0.02)


def numbered(count: int, different: int = 8, side: int = 64) -> list[bytes]:
    """Small JPEGs, made from a few, each with its number behind its end."""
    rng = np.random.default_rng(0)
    few = []
    for _ in range(different):
        file = io.BytesIO()
        coarse = rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(coarse).save(file, "JPEG")
        few.append(file.getvalue())
    return [few[i % different] + b"%08d" % i for i in range(count)]


def write_parts(folder: Path, images: list[bytes], parts: int) -> None:
    """Parquet files of equal numbers of rows: ``id`` and ``image``."""
    import pyarrow as pa  # noqa: PLC0415 - not in every environment
    import pyarrow.parquet  # noqa: PLC0415

    folder.mkdir(parents=True)
    each = len(images) // parts
    for part in range(parts):
        ids = range(part * each, (part + 1) * each)
        table = pa.table({"id": list(ids), "image": pa.array([images[i] for i in ids], pa.binary())})
        pa.parquet.write_table(table, folder / f"in-{part:03d}.parquet", compression="none")
