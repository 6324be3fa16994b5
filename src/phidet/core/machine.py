"""The machine that this process runs on: the number of usable processors, threads, and the settings of its memory
allocator."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1
_STEP = 64 << 20  # bytes by which the heap grows
_LARGE_BLOCK = 32 << 20
_SERVER_ARENAS = 2
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""What OpenBLAS takes its number of threads from, the first that is set."""


def usable_cores(root: Path = Path("/")) -> int:
    """Number of processors that the process may use, by its affinity mask and its container's CPU quota; at least 1.

    Args:
        root: of the file system that holds Linux's ``proc`` and ``sys``; tests pass another one.
    """
    return _within_quota(len(_allowed()), root)


def usable_physical_cores(root: Path = Path("/")) -> int:
    """:func:`usable_cores`, counting hardware threads of the same core once: arithmetic gains nothing from them.

    Args:
        root: as in :func:`usable_cores`.
    """
    siblings = set()
    for processor in _allowed():
        # Threads of one core list the same siblings ("0,4"), so the set of these texts counts cores.
        topology = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        try:
            siblings.add(topology.read_text().strip())
        except OSError:  # not Linux, or a sandbox: each is a core of its own
            siblings.add(str(processor))
    return _within_quota(len(siblings), root)


def processor_name(root: Path = Path("/")) -> str:
    """What the system calls the processor; empty where it does not tell. ``root`` as in :func:`usable_cores`."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def idle_cores() -> int:
    """:func:`usable_physical_cores`, less the share that is busy with other work; at least 1.

    The threads of a network wait for each other after every layer. Where some of them have to share their core, all
    wait for those: on two cores with a load of 7, two threads take twice as long as one.
    """
    cores = usable_physical_cores()
    if not hasattr(os, "getloadavg"):  # Windows
        return cores
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(1, round(cores * (1 - busy)))


def _allowed() -> set[int]:
    """Numbers of the processors that the process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _within_quota(cores: int, root: Path) -> int:
    """``cores``, or the whole processors' worth of time that the control groups grant, where that is less."""
    return max(1, min([cores, *(math.ceil(share) for share in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Processors' worth of time that each control group above the process grants; the least of them counts.

    A group is found below where its hierarchy is mounted, or, inside a container, at the mount itself.
    """
    try:
        # Each line is "number:controllers:group"; version 2 has the single line "0::/group".
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = ["0::/"]
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0":  # version 2
            for folder in _upwards(root / "sys/fs/cgroup", group):
                yield from _ratio(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / "sys/fs/cgroup" / controllers, group):
                yield from _ratio(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The folders of a group and of all groups around it, down to the mount."""
    # Seen from inside a cgroup namespace, a group outside it reads "/../…", which is not below the mount.
    parts = [] if ".." in group.split("/") else [part for part in group.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _ratio(*files: Path) -> Iterator[float]:
    """Quota over period, in microseconds, from one file (version 2) or two (version 1); nothing without a limit."""
    try:
        # Unpacking also rejects an empty or malformed file; "max" and −1 mean no limit.
        quota, period = (int(word) for file in files for word in file.read_text().split())
    except (OSError, ValueError):
        return
    if quota > 0 and period > 0:
        yield quota / period


def import_numpy_with_one_thread() -> None:
    """Imports NumPy, where nothing has yet, with one thread for products of matrices; a number in the environment wins.

    NumPy's OpenBLAS starts a thread for each core when it is loaded, and they spin for a while before they sleep: up to
    a tenth of a second of the processor's time, in a process that may have no product for them.
    """
    if "numpy" in sys.modules or any(name in os.environ for name in _BLAS_THREADS):
        return
    # Read when the library is loaded, and taken back: it is not for processes that are started from here.
    os.environ[_BLAS_THREADS[0]] = "1"
    import numpy  # noqa: F401, PLC0415 - not before

    del os.environ[_BLAS_THREADS[0]]


def keep_freed_memory() -> bool:
    """Tells the C allocator to keep freed memory for the next training step; returns whether it accepted.

    A training step allocates and frees the same few hundred large tensors again and again. glibc gives every large
    block back to the system at once, and the next one comes as fresh pages, each of which the kernel must map and
    clear: about a third of the time of a step. Kept in the process, the same pages serve every step.

    The setting applies to the whole process, for good. Its size then stays at its peak, which is the peak that
    training needs anyway. Only glibc knows these settings; elsewhere nothing happens.
    """
    return _set_allocator(
        {
            _MMAP_THRESHOLD: _LARGEST // 2,
            _TRIM_THRESHOLD: _LARGEST,
            _TOP_PAD: _STEP,
            _ARENA_MAX: 1,  # the backward pass is a thread of its own, and other threads' heaps end at 64 MiB
        }
    )


def limit_heaps() -> bool:
    """Tells the C allocator to have two heaps, without blocks above 32 MiB; returns whether it accepted.

    Messages and images of megabytes are allocated by one thread of a server and freed by another. glibc gives each
    thread a heap, up to eight for each core, and all of them keep gaps; blocks that are returned to the system one by
    one leave none, but each comes as fresh pages, which at 256 KiB cost a request a tenth of its time.

    The setting applies to the whole process, for good. Only glibc knows it; elsewhere nothing happens.
    """
    return _set_allocator({_MMAP_THRESHOLD: _LARGE_BLOCK, _TRIM_THRESHOLD: _STEP, _ARENA_MAX: _SERVER_ARENAS})


def give_freed_memory_back() -> bool:
    """Gives all whole pages of freed memory back to the system; returns whether the C allocator can.

    Takes a millisecond or two, and what is allocated next comes as fresh pages: for now and then, not for every
    request. Only glibc can; elsewhere nothing happens.
    """
    if not _is_glibc():
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def _set_allocator(settings: dict[int, int]) -> bool:
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(key, value) == 1 for key, value in settings.items()]  # a list: set them all
    return all(accepted)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
