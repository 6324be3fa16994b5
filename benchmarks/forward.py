"""Forward and training step of a model against effdet's: speed in one process, peak memory in one process each.

    python benchmarks/forward.py                         # D0 at 512, the bar that phidet sets itself
    python benchmarks/forward.py --model efficientdet-lite0 --size 320 --batch 8

Absolute times are noise on a shared machine, so both sides run in turns and the medians' ratio is what counts. Memory
is the peak of the process's resident set above what it held before the first step, with weights and inputs there.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import effdet
import torch
from torch import Tensor, nn

import phidet

Side = Literal["phidet", "effdet"]
Work = Literal["forward", "training step"]
SIDES: tuple[Side, ...] = ("phidet", "effdet")
WORKS: tuple[Work, ...] = ("forward", "training step")


def build(side: Side, name: str, size: int) -> nn.Module:
    """The model of one side, with random weights."""
    torch.manual_seed(0)
    if side == "phidet":
        return phidet.create_model(name)
    config = effdet.get_efficientdet_config("tf_" + name.replace("-", "_"))
    config.image_size = (size, size)
    model: nn.Module = effdet.EfficientDet(config, pretrained_backbone=False)
    return model


def step(model: nn.Module, work: Work, images: Tensor) -> Callable[[], None]:
    """One run of ``work``; a training step is forward, backward and an SGD update, and its loss the outputs' mean."""
    if work == "forward":
        model.eval()

        def forward() -> None:
            with torch.inference_mode():
                model(images)

        return forward
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def train() -> None:
        optimizer.zero_grad()
        outputs: list[Tensor] = []
        for part in model(images):  # phidet: two tensors; effdet: two lists, one tensor per level
            outputs += [part] if isinstance(part, Tensor) else list(part)
        torch.autograd.backward(torch.stack([output.square().mean() for output in outputs]).sum())
        optimizer.step()

    return train


def seconds(name: str, size: int, batch: int, runs: int) -> dict[str, dict[Side, list[float]]]:
    """Times of every work and side, taken in turns."""
    models = {side: build(side, name, size) for side in SIDES}
    images = torch.randn(batch, 3, size, size)
    times: dict[str, dict[Side, list[float]]] = {}
    for work in WORKS:
        steps = {side: step(models[side], work, images) for side in SIDES}
        for warm_up in steps.values():
            warm_up()
        times[work] = {side: [] for side in SIDES}
        for _ in range(runs):
            for side, run in steps.items():
                start = time.perf_counter()
                run()
                times[work][side].append(time.perf_counter() - start)
    return times


def peak_mib(side: Side, work: Work, name: str, size: int, batch: int) -> float:
    """Peak resident memory of this process above its start, in MiB (Linux only: it asks /proc)."""

    def status(key: str) -> int:
        return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    run = step(build(side, name, size), work, torch.randn(batch, 3, size, size))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts over from here
    for _ in range(3):
        run()
    return (status("VmHWM") - before) / 1024


def main() -> None:
    """Prints one line for each work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientdet-d0")
    parser.add_argument("--size", type=int, default=512, help="input side in pixels (512)")
    parser.add_argument("--batch", type=int, default=1, help="images (1)")
    parser.add_argument("--runs", type=int, default=15, help="interleaved runs (15)")
    parser.add_argument("--memory-of", nargs=2, metavar=("SIDE", "WORK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        side, work = args.memory_of
        print(json.dumps(peak_mib(side, work, args.model, args.size, args.batch)))
        return

    print(
        f"{args.model} at {args.size}, batch {args.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    times = seconds(args.model, args.size, args.batch, args.runs)
    shape = ["--model", args.model, "--size", str(args.size), "--batch", str(args.batch)]
    for work in WORKS:
        medians = {side: statistics.median(times[work][side]) for side in SIDES}
        memory = {
            side: json.loads(
                subprocess.check_output([sys.executable, "-W", "ignore", __file__, *shape, "--memory-of", side, work])
            )
            for side in SIDES
        }
        print(
            f"{work:14} phidet {medians['phidet'] * 1e3:7.1f} ms, effdet {medians['effdet'] * 1e3:7.1f} ms: "
            f"{medians['effdet'] / medians['phidet']:.2f}× the speed; "
            f"peak {memory['phidet']:.0f} and {memory['effdet']:.0f} MiB"
        )


if __name__ == "__main__":
    main()
