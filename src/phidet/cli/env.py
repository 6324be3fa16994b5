"""``phidet env``."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires, version

from phidet.cli.arguments import add_json
from phidet.cli.tables import print_json
from phidet.core.addresses import without_password

_VARIABLES = ("PHIDET_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAY_ADDRESS", "NO_COLOR", "FORCE_COLOR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet env``."""
    parser.epilog = "Paste it into a bug report. It holds no names of files, hosts or people; nothing is sent."
    add_json(parser, "it")


def run(args: argparse.Namespace) -> None:
    """Prints versions, machine, runtimes and extras."""
    about = dict(describe())
    if args.json:
        print_json(about)
        return
    width = max(len(key) for key in about)
    for key, value in about.items():
        print(f"{key:{width}}  {value}")


def describe() -> Iterator[tuple[str, str]]:
    """What may matter for how phidet behaves here, by name; without importing anything large but the runtimes."""
    from phidet.core.extras import __version__
    from phidet.core.machine import usable_cores, usable_physical_cores

    yield "phidet", __version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}, {' '.join(platform.libc_ver())}"
    yield "cores", f"{usable_cores()} usable, {usable_physical_cores()} physical"
    yield "runtimes", ", ".join(_runtimes())
    yield "extras", ", ".join(extra for extra, missing in _extras().items() if not missing) or "none"
    partly = {extra: missing for extra, missing in _extras().items() if missing}
    yield (
        "extras not installed",
        ", ".join(f"{extra} ({', '.join(names)})" for extra, names in partly.items()) or "none",
    )
    yield "packages", ", ".join(f"{name} {found}" for name, found in _packages().items())
    # Paths name people and projects, which have no place in a bug report; addresses may hold passwords.
    chosen = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    shown = (f"{name}={'…' if os.sep in value else without_password(value)}" for name, value in sorted(chosen.items()))
    yield "environment", ", ".join(shown) or "nothing of phidet's"


def _runtimes() -> Iterator[str]:
    import onnxruntime as ort

    yield f"onnxruntime ({', '.join(p.removesuffix('ExecutionProvider') for p in ort.get_available_providers())})"
    for name in ("openvino", "ai-edge-litert", "torch"):
        found = _version(name)
        if found:
            yield f"{name} {found}"


def _required() -> dict[str, list[str]]:
    """Extra → packages that phidet's own metadata ask for; "" for the core."""
    found: dict[str, list[str]] = {}
    for text in requires("phidet") or []:
        # By hand, since the packages that parse requirements are no dependency.
        name = re.split(r"[^\w.-]", text, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([\w-]+)", text)
        if name != "phidet":
            found.setdefault(extra[1] if extra else "", []).append(name)
    return found


def _extras() -> dict[str, list[str]]:
    """Extra → its packages that are missing."""
    try:
        distribution("phidet")
    except PackageNotFoundError:  # run from a checkout
        return {}
    return {
        extra: [name for name in names if _version(name) is None]
        for extra, names in sorted(_required().items())
        if extra not in ("", "dev")
    }


def _packages() -> dict[str, str]:
    """Installed packages that phidet names, with their versions."""
    names = (
        sorted({name for names in _required().values() for name in names}) if _extras() else ["numpy", "onnxruntime"]
    )
    return {name: found for name in names if (found := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
