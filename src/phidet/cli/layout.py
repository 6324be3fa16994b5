"""``--layout``, of every command that reads labelled data."""

from __future__ import annotations

import argparse
from typing import get_args

from phidet.data.data_folder import Layout


def add_layout(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds ``--layout``."""
    parser.add_argument(
        "--layout",
        choices=get_args(Layout),
        help="of the data, where they fit several (recognised by content)",
    )
