"""``phidet``: finds the command, runs it, and turns errors into one message and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
from contextlib import nullcontext, suppress
from importlib import import_module
from typing import NoReturn

from phidet.cli.colour import styled
from phidet.cli.signals import ended_by_sigterm
from phidet.core.errors import MissingExtraError, PhidetError
from phidet.core.extras import __version__, extra_of

COMMANDS = {
    "detect": "find objects in images, folders and videos; draw, list or crop them",
    "batch": "detect in images by the million: resumable, on one machine or on a cluster",
    "track": "follow objects through videos and streams; count them at lines and in zones",
    "align": "compare parts in images with their nominal places: where each is, and what is wrong",
    "doctor": "find problems in a data set before training on it; write a clean copy",
    "train": "train a detector or a classifier on your own images",
    "tune": "search a few settings of training within a budget of runs or time",
    "sample": "draw images from a generator: sheets, mixed styles, films, a page",
    "synthesize": "add made objects to a data set, from a generator or from other images",
    "label": "pre-label images with a model for labelling tools; rank what to label next",
    "eval": "measure a model on labelled images: AP, curves, confusion, the worst mistakes",
    "info": "a model's structure, costs and receptive fields; the family; draw a feature network",
    "convert": "turn weights of other projects into a phidet model file, or back",
    "convert-data": "write a data set as COCO JSON, YOLO, VOC or TFRecord, from any layout",
    "bench": "latency, throughput, stages and memory of models on the installed runtimes",
    "export": "write a trained model for other runtimes, and compare it with PyTorch",
    "explain": "draw which parts of an image support a model's predictions",
    "publish": "put a model into a served model's folder as its next version",
    "serve": "answer TensorFlow Serving and Open Inference Protocol clients over HTTP",
    "env": "versions, machine, runtimes and extras, for bug reports",
    "completion": "print a script that completes commands and options in a shell",
    "scale-search": "search α, β, γ or the width factor, by cost and your own accuracy",
}
"""Command → one line of help; the module of that name here has ``add_arguments`` and ``run``."""


def flush_output() -> None:
    """Flushes standard output: a broken pipe is raised here, where ``main`` handles it, not at interpreter exit."""
    # There is none in a program without a console.
    if sys.stdout is not None:
        sys.stdout.flush()


def _say_no_more() -> None:
    """Discards further output: at exit the interpreter would flush standard output once more, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """Errors on one line, with the command that helps.

    Attributes:
        chosen: the parser of the command that is run.
    """

    chosen: Parser | None = None

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        flush_output()  # of --help and --version
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{styled('phidet:', 'red', sys.stderr)} {message} (see '{self.prog} --help')\n")


def build_parser(chosen: str | None, *, every: bool = False, alone: bool = False) -> Parser:
    """The parser; only the ``chosen`` command's module is imported, so that ``phidet --help`` stays quick.

    Args:
        chosen: a command's name.
        every: give all commands their arguments.
        alone: leave out the other commands, where nothing is going to show them: making them takes eight times as long.
    """
    parser = Parser(prog="phidet", description="Object detection that scales with one number, φ.")
    parser.add_argument("--version", action="version", version=f"phidet {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, help_line in COMMANDS.items():
        if alone and name != chosen:
            continue
        command = commands.add_parser(
            name,
            help=help_line,
            description=help_line[0].upper() + help_line[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,  # examples keep their lines
        )
        # All commands are listed, but only the chosen one gets its arguments.
        command.add_argument("--offline", action="store_true", help="never use the network (as PHIDET_OFFLINE=1)")
        if name == chosen or every:
            loaded = import_module(f"phidet.cli.{name.replace('-', '_')}")
            loaded.add_arguments(command)
            command.set_defaults(run=loaded.run)
            command.add_argument(
                "--config", metavar="FILE", help="options from a YAML, TOML or JSON file; those given here go first"
            )
            command.add_argument("--write-config", metavar="FILE", help="write the options given to such a file")
            if name == chosen:
                parser.chosen = command
    return parser


def parse(argv: list[str], chosen: str | None) -> argparse.Namespace:
    """The arguments, with those of a file where one is named.

    Raises:
        ConfigError: an option of another tool, or one that the file may not have.
        InputError: the file cannot be read.
    """
    # Options before the command may ask for all of them: --help.
    parser = build_parser(chosen, alone=chosen in COMMANDS and argv[0] == chosen)
    if parser.chosen is None or chosen is None:
        return parser.parse_args(argv)
    from phidet.cli.hints import check_habits

    # Options of a file are put behind the command's name, those before it are phidet's own.
    begin = argv.index(chosen) + 1
    before, given = argv[:begin], argv[begin:]
    # Before argparse sees it: --conf would be short for --config.
    check_habits(parser.chosen, given)
    if any(word.startswith(("--config", "--write-config")) for word in given):
        from phidet.cli.options_file import parse_leniently, with_options_of_file, write_options

        # A file may have what the command requires, so the first look at the words requires nothing.
        understood = parse_leniently(build_parser(chosen).chosen or parser, given)
        if understood.config is not None:
            given = with_options_of_file(parser.chosen, given, understood)
        args = parser.parse_args([*before, *given])
        if args.write_config is not None:
            write_options(parser.chosen, args, args.write_config)
        return args
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, that of the error's class, 130 (Ctrl-C) or 141 (broken pipe)."""
    code = _main(argv)
    engine = sys.modules.get("phidet.inference.batch.engine")
    if engine is not None and engine.is_started():
        # Threads of Daft may still be at work when Python ends, and then abort the process: exit code 134 for nothing.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def _main(argv: list[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    _open_closed_streams()
    # Looked up before parsing: only the chosen command's module, and what it imports, is loaded.
    chosen = next((word for word in argv if not word.startswith("-")), None)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name outside the terminal's encoding must not raise
    try:
        args = parse(argv, chosen)
        if args.offline:
            # Processes that load images or run a part of the work inherit it.
            os.environ["PHIDET_OFFLINE"] = "1"
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("phidet").setLevel(logging.INFO)  # other libraries only warn
        # A server has its own way to end. Elsewhere unfinished files are removed, and what is done is kept.
        with nullcontext() if chosen == "serve" else ended_by_sigterm():
            args.run(args)
        flush_output()
    except PhidetError as error:
        print(f"{styled('phidet:', 'red', sys.stderr)} {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        # Only a package of an optional extra has a remedy to suggest; any other missing module is a defect.
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        missing = MissingExtraError(f"phidet {chosen}", extra)
        print(f"phidet: {missing}", file=sys.stderr)
        return missing.exit_code
    except BrokenPipeError:
        _say_no_more()  # the reader left
        # Shells report a process ended by a signal as 128 + its number.
        return 128 + 13  # as of a process that SIGPIPE ended
    except OSError as error:
        # Without a file name the error is from standard output; errors of files are PhidetErrors already.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or error.filename is not None:
            raise
        _say_no_more()
        print(f"phidet: cannot write output: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("phidet: interrupted", file=sys.stderr)
        return 130
    return 0


def _open_closed_streams() -> None:
    """Gives what is written to a closed standard stream nowhere to go, instead of to the next file that is opened."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


if __name__ == "__main__":
    sys.exit(main())
