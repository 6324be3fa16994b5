"""``python -m phidet`` is the command ``phidet``."""

from __future__ import annotations

import sys

from phidet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
