"""Where phidet keeps what it downloads and converts."""

from __future__ import annotations

import os
from pathlib import Path

from phidet.core.errors import DownloadError


def cache_dir() -> Path:
    """$PHIDET_CACHE, else $XDG_CACHE_HOME/phidet, else ~/.cache/phidet.

    Raises:
        DownloadError: neither is set and there is no home folder.
    """
    chosen = os.environ.get("PHIDET_CACHE")
    folder = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "phidet")
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise DownloadError(f"cannot tell which folder {folder} is ({error}): set PHIDET_CACHE to one") from error
