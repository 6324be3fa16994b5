"""The server's transport for gRPC."""

import os

# gRPC's own messages on standard error repeat, in words of its source code, what phidet says in its log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
