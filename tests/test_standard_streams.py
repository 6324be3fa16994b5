"""Commands whose standard streams are closed, and processes that hand errors to others."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from phidet.core.errors import MissingExtraError, UnknownNameError
from phidet.serve.refusals import RefusedError


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_loses_what_is_written_to_it_and_nothing_else(closed: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    words = f"{sys.executable} -m phidet.cli.main detect a.png --json --save csv {closed}"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "detections/detections.csv").read_text().startswith("source,")


def test_a_command_that_is_ended_leaves_nothing_unfinished(tmp_path: Path) -> None:
    """One that has no way of its own to end: the data that it was writing are removed."""
    for i in range(300):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 480), (i % 256, 0, 0)).save(folder / f"{i}.bmp")
    words = ["convert-data", "data", "out", "--to", "coco", "--layout", "folders"]
    with subprocess.Popen([sys.executable, "-m", "phidet.cli.main", *words], cwd=tmp_path) as process:
        while process.poll() is None and not list(tmp_path.glob(".out.*")):
            pass
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    assert code in (128 + signal.SIGTERM, 0)  # 0: it was done before the signal came
    assert sorted(os.listdir(tmp_path)) == ["data"] + ["out"] * (code == 0)


@pytest.mark.parametrize(
    "error",
    [
        UnknownNameError("class", "dog", ("cat", "bird")),
        MissingExtraError("phidet serve", "serve"),
        RefusedError(503, "full", retry_after=2),
    ],
)
def test_errors_come_from_other_processes_as_they_are(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
