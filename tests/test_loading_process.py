"""Whose signals end a process that loads images."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection

import pytest

from phidet.training.loading_process import ends_with_parent

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sender of a signal is known here")


def answer(calls: Connection) -> None:
    ends_with_parent(0)
    while True:
        calls.send(calls.recv())


def test_sigterm_of_a_stranger_is_left_to_the_parent() -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(theirs,), daemon=True)
    process.start()
    ours.send("ready?")
    assert ours.recv() == "ready?"
    assert process.pid is not None
    stranger = f"import os, signal; os.kill({process.pid}, signal.SIGTERM)"
    subprocess.run([sys.executable, "-c", stranger], check=True)
    ours.send("alive?")
    assert ours.recv() == "alive?"
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0
