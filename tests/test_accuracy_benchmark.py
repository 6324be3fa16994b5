"""``benchmarks/accuracy.py``: one table of what is done, and nothing in it that does not belong together."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")  # which the benchmark imports

FILE = Path(__file__).parents[1] / "benchmarks" / "accuracy.py"


@pytest.fixture(scope="module")
def accuracy() -> Any:
    spec = spec_from_file_location("accuracy", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(out: Path, **changes: Any) -> argparse.Namespace:
    values = {"out": out, "sets": ["bccd", "deeppcb"], "variant": ["atss:loss.assignment=atss"], "no_peer": False}
    values |= {"model": "efficientdet-lite0", "pretrained": "backbone", "epochs": 30, "batch_size": None, "seeds": 2}
    return argparse.Namespace(**values, **{"peer_rate": 0.01, "peer_decay": 0.0, "scale": 1.0, **changes})


def write(accuracy: Any, args: argparse.Namespace, name: str, ap: float, **more: Any) -> None:
    row = accuracy.Row(*name.split(".")[:2], int(name[-1]))
    values = {"ap": ap, "ap50": 2 * ap, "ap_small": ap / 2, "ap_medium": None, "ap_large": ap}
    values |= {"seconds_per_epoch": 2.0, "epochs": args.epochs, "settings": accuracy.settings_of(args, row)}
    (args.out / "rows").mkdir(exist_ok=True)
    (args.out / "rows" / f"{name}.json").write_text(json.dumps({**values, **more}))


def test_the_table_has_means_spreads_and_sizes(accuracy: Any, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    for name, ap in (("bccd.phidet.0", 0.5), ("bccd.phidet.1", 0.6), ("bccd.effdet.0", 0.3), ("deeppcb.phidet.0", 0.4)):
        write(accuracy, args, name, ap)
    (tmp_path / "rows" / ".bccd.atss.0.json").write_text("{")  # what a row that was killed leaves
    lines = list(accuracy.table(args))
    assert lines[2] == "| bccd | phidet | 2 | 0.550 ± 0.071 | 1.100 ± 0.141 | 0.275 ± 0.035 | – | 0.550 ± 0.071 | 2.0 |"
    assert lines[3].startswith("| bccd | effdet | 1 | 0.300 |")
    assert lines[4].startswith("| deeppcb | phidet | 1 | 0.400 | 0.800 | 0.200 |")
    # A mean is over the sets that every side has.
    assert lines[5:] == ["| mean of 1 | phidet | | 0.550 |", "| mean of 1 | effdet | | 0.300 |"]
    assert set(accuracy.finished(tmp_path)) == {
        accuracy.Row("bccd", "phidet", 0), accuracy.Row("bccd", "phidet", 1),
        accuracy.Row("bccd", "effdet", 0), accuracy.Row("deeppcb", "phidet", 0),
    }  # fmt: skip


def test_rows_of_other_settings_are_not_put_into_one_table(accuracy: Any, tmp_path: Path) -> None:
    args = arguments(tmp_path)
    write(accuracy, args, "bccd.phidet.0", 0.5)
    write(accuracy, args, "bccd.atss.0", 0.5)
    write(accuracy, args, "bccd.effdet.0", 0.5)
    accuracy.check_alike(args)
    for changes, said in (
        ({"epochs": 2}, "epochs 30, not 2"),
        ({"variant": ["atss:loss.assignment=task"]}, "changes 'loss.assignment=atss', not 'loss.assignment=task'"),
        ({"peer_rate": 0.02}, "bccd.effdet.0 with peer_rate 0.01, not 0.02"),
        ({"pretrained": "coco"}, "pretrained 'backbone', not 'coco'"),
        ({"scale": 0.4}, "scale 1.0, not 0.4"),
    ):
        with pytest.raises(SystemExit, match=said):
            accuracy.check_alike(argparse.Namespace(**{**vars(args), **changes}))
    # What is not asked for may be there.
    accuracy.check_alike(argparse.Namespace(**{**vars(args), "variant": [], "no_peer": True, "peer_rate": 0.5}))


def test_a_row_ends_when_the_benchmark_is_killed(accuracy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, (reading, writing) = threading.Event(), os.pipe()
    monkeypatch.setattr(accuracy.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: reading))
    accuracy.ends_with_parent()
    assert not ended.wait(0.05)
    os.close(writing)
    assert ended.wait(30)
    os.close(reading)
