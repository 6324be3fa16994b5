"""How long ``phidet --help`` takes to start, beside a bare ``python -c "import argparse"``; in turns, medians.

python benchmarks/startup.py        # the bar: within twice the bare start plus 0.15 s
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import argparse": [sys.executable, "-c", "import argparse"],
    "phidet --help": [sys.executable, "-m", "phidet.cli.main", "--help"],
    "phidet detect --help": [sys.executable, "-m", "phidet.cli.main", "detect", "--help"],
}


def main() -> None:
    """Measures and prints."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(15):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:24}{median * 1e3:6.0f} ms")
    bar = 2 * medians["import argparse"] + 0.15
    print(f"bar for phidet --help   {bar * 1e3:6.0f} ms: {'met' if medians['phidet --help'] <= bar else 'missed'}")


if __name__ == "__main__":
    main()
