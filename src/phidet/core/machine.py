"""The machine that this process runs on: how many processors it may use, and how its memory is handed out."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from pathlib import Path

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1
_STEP = 64 << 20  # bytes by which the heap grows


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors that the process may run on, and that its container gives it time for; at least 1.

    Args:
        quota: where control groups (version 2) keep "microseconds period"; ``docker run --cpus`` writes it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError):  # no container, no limit ("max"), or something else
        return cores


def keep_freed_memory() -> bool:
    """Tells the C allocator to keep freed memory for the next training step; returns whether it accepted.

    A training step allocates and frees the same few hundred large tensors again and again. glibc gives every large
    block back to the system at once, and the next one comes as fresh pages, each of which the kernel must map and
    clear: about a third of the time of a step. Kept in the process, the same pages serve every step.

    It belongs to the whole process and stays. The process's size then stays at its peak, which is the peak that
    training needs anyway. Only glibc knows these settings; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {
        _MMAP_THRESHOLD: _LARGEST // 2,
        _TRIM_THRESHOLD: _LARGEST,
        _TOP_PAD: _STEP,
        _ARENA_MAX: 1,  # the backward pass is a thread of its own, and other threads' heaps end at 64 MiB
    }
    accepted = [mallopt(key, value) == 1 for key, value in settings.items()]  # a list: set them all
    return all(accepted)
