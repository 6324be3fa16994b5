"""How many cores a process may use: affinity, hardware threads, quotas of control groups; and memory that is freed."""

from __future__ import annotations

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from phidet.core import machine
from phidet.core.machine import usable_cores, usable_physical_cores


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose eight processors are four cores, and the root of its file system."""
    monkeypatch.setattr(machine, "_allowed", lambda: set(range(8)))
    for processor in range(8):
        write(
            tmp_path,
            f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list",
            f"{processor % 4},{processor % 4 + 4}",
        )
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text + "\n")


V1_GROUP = "cpu,cpuacct/docker/a"
V1 = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/system.slice"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "1600000 100000"}, 8),
        ("0::/", {"cpu.max": "nonsense"}, 8),
        ("0::/", {"cpu.max": "0 0"}, 8),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/a", {"a/b/cpu.max": "200000 100000"}, 8),
        ("0::/kubepods/x", {"cpu.max": "200000 100000"}, 2),  # the container's mount is its own group
        ("0::/../other", {"cpu.max": "200000 100000"}, 2),
        (V1, {f"{V1_GROUP}/cpu.cfs_quota_us": "250000", f"{V1_GROUP}/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "50000"}, 2),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "100000"}, 8),
    ],
)  # fmt: skip
def test_a_quota_of_any_group_above_the_process_counts(
    groups: str, files: dict[str, str], cores: int, eight: Path
) -> None:
    write(eight, "proc/self/cgroup", groups)
    for name, text in files.items():
        write(eight, f"sys/fs/cgroup/{name}", text)
    assert usable_cores(eight) == cores
    assert usable_physical_cores(eight) == min(cores, 4)


def test_hardware_threads_of_one_core_are_one(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, cores in (({0, 4}, 1), ({0, 1}, 2), ({0, 1, 4, 5}, 2), ({7}, 1)):
        monkeypatch.setattr(machine, "_allowed", lambda allowed=allowed: allowed)
        assert (usable_cores(eight), usable_physical_cores(eight)) == (len(allowed), cores)


def test_without_linux_every_processor_is_a_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (usable_cores(tmp_path), usable_physical_cores(tmp_path)) == (6, 6)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


ON_ONE_CORE = """
import os
import numpy as np
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from phidet import Detector
count = lambda: len(os.listdir("/proc/self/task"))
image = np.zeros((64, 64, 3), np.uint8)
before = count()
Detector("person")(image)
print(count() - before)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_detector_makes_no_threads_beyond_the_core_that_it_may_use() -> None:
    done = subprocess.run([sys.executable, "-c", ON_ONE_CORE], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
def test_numpy_gets_one_thread_unless_the_environment_has_a_number() -> None:
    ours = "from phidet.core.machine import import_numpy_with_one_thread as ours; ours()"
    count = "import numpy, os; print(len(os.listdir('/proc/self/task')), dict(os.environ))"

    def threads(how: str, **number: str) -> int:
        usual = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        # Imported before, so that what is set on import is set in both.
        script = f"import phidet\n{how}\n{count}"
        out = subprocess.check_output([sys.executable, "-c", script], env=usual | number, text=True)
        found, environment = out.split(maxsplit=1)
        # Nothing is left for other processes, and nothing taken from them.
        kept = {k: v for k, v in ast.literal_eval(environment).items() if k.endswith("_NUM_THREADS")}
        assert kept == number
        return int(found)

    assert threads(ours) == 1
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        assert threads(ours, **{name: "2"}) == threads("import numpy", **{name: "2"})
    assert threads(f"import numpy; {ours}") == threads("import numpy")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_goes_back_to_the_system_though_blocks_between_are_in_use() -> None:
    code = (
        "from pathlib import Path\n"
        "from phidet.core.machine import give_freed_memory_back, limit_heaps\n"
        "assert limit_heaps()\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "blocks = [bytearray(b'x' * 100_000) for _ in range(1000)]\n"
        "kept = blocks[::10]\n"
        "blocks.clear()\n"
        "before = resident()\n"
        "assert give_freed_memory_back()\n"
        "print(before - resident(), sum(map(len, kept)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    returned, kept = map(int, done.stdout.split())
    assert (returned >= 80_000_000, kept) == (True, 10_000_000)
