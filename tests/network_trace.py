"""Which addresses a command and the processes that it starts look up or contact, seen from outside with ``strace``.

An audit hook of Python's would not do: ONNX Runtime's reports come from threads of its C++ library.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

STRACE = shutil.which("strace")
_CALLS = "connect,sendto,sendmsg,sendmmsg"
_ADDRESS = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\).*?inet_(?:addr\(|pton\(AF_INET6, )\"([^\"]+)\"",
)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_RESOLVER = "io.systemd.Resolve"
"""The socket through which systemd's resolver is asked."""


class Trace(NamedTuple):
    """How a command ended, and every address other than this machine's own that it tried to reach.

    Names are those of DNS queries (``images.example``), the others are ``ADDRESS:PORT``.
    """

    done: subprocess.CompletedProcess[str]
    contacts: set[str]


def trace(command: list[str], home: Path, **environment: str) -> Trace:
    """Runs ``command`` with ``home`` as its home directory and without ``CI``, in which some packages do not report."""
    assert STRACE is not None
    log = home.parent / f"{home.name}.strace"
    inherited = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith(("XDG_", "ORT_", "HF_"))}
    done = subprocess.run(
        [STRACE, "-f", "--seccomp-bpf", "-qq", "-s", "512", "-e", f"trace={_CALLS}", "-o", str(log), *command],
        capture_output=True, text=True, check=False, cwd=home.parent, timeout=600,
        env=inherited | {"HOME": str(home), "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    return Trace(done, contacts(log.read_text(encoding="utf-8", errors="replace")))


def contacts(log: str) -> set[str]:
    """Addresses and names in what strace wrote."""
    names, addresses, name_servers = set(), set(), set()
    for line in log.splitlines():
        names |= {name for text in _STRING.findall(line) if (name := _queried_name(text))}
        if _RESOLVER in line:
            name_servers.add(_RESOLVER)
        for port, address in _ADDRESS.findall(line):
            if port == "53":  # wherever it is; many machines run one of their own
                name_servers.add(f"{address}:{port}")
            elif not ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback:
                addresses.add(f"{address}:{port}")
    # A query that could be read says more than the server that it went to.
    return addresses | (names or name_servers)


def _queried_name(text: str) -> str | None:
    """The name that a DNS query asks for, as strace prints the query; ``None`` for everything else."""
    data = text.encode("latin-1", "replace").decode("unicode_escape").encode("latin-1", "replace")
    # RFC 1035, 4.1: an identifier, flags (0x0100: a query, recursion desired), one question; labels follow at 12.
    if data[2:6] not in (b"\x01\x00\x00\x01", b"\x01\x20\x00\x01"):
        return None
    labels, at = [], 12
    while at < len(data) and data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii", "replace"))
        at += 1 + data[at]
    return ".".join(labels)
