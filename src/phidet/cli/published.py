"""Published models that are not on this machine: downloaded and converted, after asking."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from urllib.parse import urlsplit

from phidet.core.errors import CheckpointError


def add_download(parser: argparse.ArgumentParser) -> None:
    """Adds ``--download``."""
    parser.add_argument("--download", action="store_true", help="fetch a published MODEL without asking")


def ensure_published(model: str, without_asking: bool) -> None:
    """Makes the network of a published detector where it is not on this machine yet; does nothing for other models.

    Raises:
        CheckpointError: the user does not want it, or there is nobody to ask.
        DownloadError, MissingExtraError: as :func:`phidet.export.published.write_published`.
    """
    from phidet.core.bundled import BUNDLED

    # A file, or what was meant as one, is never looked up among published names.
    if model in BUNDLED or Path(model).exists() or Path(model).suffix:
        return
    from phidet.core.files import cache_dir
    from phidet.export.published import published_detector, write_published

    published = published_detector(model)
    if published is None or published.target.is_file():
        return
    host, licence = urlsplit(published.file.url).hostname, published.file.licence
    # A file that was downloaded for something else only has to be converted.
    here = (cache_dir() / published.file.name).is_file()
    if not here and not without_asking:
        _ask(f"{model} is not on this machine. Download its weights from {host}, {licence}?", model)
    print(f"converting {published.file.name}" + ("" if here else f" from {host}, {licence}"), file=sys.stderr)
    print(f"wrote {write_published(published)}", file=sys.stderr)


def _ask(question: str, model: str) -> None:
    # Without somebody to answer, a question would wait for ever, or take what is piped in for the answer.
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise CheckpointError(
            f"{model} is published but not on this machine: give --download to fetch and convert it, or run "
            f"'phidet export {model}'"
        )
    print(f"{question} [Y/n] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
        raise CheckpointError(f"{model} was not downloaded")
