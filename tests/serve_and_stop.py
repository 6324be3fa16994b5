"""Serves a folder of versions from the command line, asks it once, and stops it: what the test of privacy watches.

python tests/serve_and_stop.py BASE RUNTIME [OPTION…]
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from serve_process import client, command_line_server
from serve_server import BODY, PREDICT


def main() -> None:
    base, runtime, *options = sys.argv[1:]
    with command_line_server(Path(base), "--runtime", runtime, *options, stdout=subprocess.DEVNULL) as (process, port):
        for path in ("/", "/docs", "/monitoring/prometheus/metrics", "/v2/models/m"):
            client(port).get(path)
        assert client(port).post(PREDICT, BODY).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait() in (0, -signal.SIGTERM)


if __name__ == "__main__":
    main()
