"""Networks in forked processes (``os.fork``, ``multiprocessing`` with "fork", gunicorn's ``--preload``).

A forked child has the memory of a runtime's thread pool, but not its threads, and destroying the pool waits for them
for ever. So a child never frees the networks that it inherited, nor what they own. They work there as
before, on the calling thread; a network that is loaded in the child has threads of its own.
"""

from __future__ import annotations

import ctypes
import os
from weakref import WeakSet

_networks: WeakSet[object] = WeakSet()


def keep_in_forked_children(network: object) -> None:
    """Keeps ``network`` alive in every child process forked from now on."""
    _networks.add(network)


def _keep_all() -> None:
    for network in list(_networks):
        # A reference that is never given back: even the clean-up at interpreter exit does not destroy the object.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(network))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep_all)
