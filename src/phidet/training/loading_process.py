"""A process that loads images ends with the one it loads for, and not before."""

from __future__ import annotations

import os
import signal
import threading


def ends_with_parent(worker: int) -> None:
    """For ``DataLoader(worker_init_fn=...)``: SIGTERM of anyone but the parent is left to the parent.

    Schedulers and service managers send it to a run's whole group. A loader that ends before its parent does looks like
    one that was killed for its memory, and PyTorch raises.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS and Windows do not say who sent a signal
    # Blocked before any thread is started, as threads inherit it; then only the one that waits for it gets it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent and os.getppid() == parent:
        pass
    os._exit(0)  # as PyTorch's own handler ends: nothing is left to write
