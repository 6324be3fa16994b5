"""``phidet completion``."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
EPILOG = """\
Prints a script for the shell, which completes commands, options, choices and files without starting phidet. Write it
once, and again after an update; needs an extra: pip install 'phidet[completion]'

  bash   phidet completion bash > ~/.local/share/bash-completion/completions/phidet
  zsh    phidet completion zsh > ~/.zfunc/_phidet        with: fpath+=~/.zfunc; autoload -Uz compinit; compinit
  tcsh   phidet completion tcsh > ~/.phidet.tcsh         with: source ~/.phidet.tcsh
"""
_NUMBERS = frozenset({"N", "S", "T", "R", "SECONDS", "RATE"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``phidet completion``."""
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def run(args: argparse.Namespace) -> None:
    """Prints the script."""
    from phidet.cli.main import build_parser
    from phidet.core.optional import optional_package

    shtab = optional_package("shtab", "phidet completion", "completion")
    parser = build_parser(None, every=True)
    # shtab knows no other way: files are completed where the parser's own actions say so.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, shtab.FILE)
    print(shtab.complete(parser, shell=args.shell))


def _complete_files(command: argparse.ArgumentParser, files: Any) -> None:
    """Has files completed where a command takes something that may be one."""
    for action in command._actions:
        # Switches, choices and numbers are no files; nearly all else may be one.
        takes_words = action.nargs != 0 and action.choices is None and action.type is not int
        if takes_words and action.metavar not in _NUMBERS:
            action.complete = files  # type: ignore[attr-defined]
