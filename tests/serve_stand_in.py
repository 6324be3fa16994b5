"""A server of a stand-in model in a process of its own, whose memory can be watched. Arguments: folder, two ports."""

from __future__ import annotations

import sys
from pathlib import Path

from phidet.serve.configuration import Limits
from phidet.serve.server import Network, run
from serve_server import StandIn, settings_for

if __name__ == "__main__":
    base, rest_port, grpc_port = sys.argv[1:]
    limits = {"body_bytes": Limits().body_bytes}
    run(settings_for(Path(base), limits=limits), StandIn, Network("127.0.0.1", int(rest_port), int(grpc_port)), False)
