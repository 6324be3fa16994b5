"""Habits of people who come from other tools, or from shells: completion, options in files, hints, plain pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phidet.cli.colour import styled, wants_colour
from phidet.cli.main import COMMANDS, build_parser, main, parse


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


# Other tools' options


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("detect a.jpg --conf 0.5", "phidet detect has no --conf: phidet calls it --score"),
        ("detect a.jpg --conf=0.5", "phidet detect has no --conf: phidet calls it --score"),
        ("detect a.jpg --conf_thres 0.5", "has no --conf_thres: phidet calls it --score"),
        ("detect --source a.jpg", "has no --source: SOURCE stands alone, as in: phidet detect SOURCE"),
        ("detect a.jpg --backend onnx", "has no --backend: phidet calls it --runtime"),
        ("detect a.jpg --weights x.pt", "has no --weights: phidet calls it --model"),
        ("detect a.jpg --save-txt", "has no --save-txt: phidet calls it --save yolo"),
        ("detect source=a.jpg", "phidet detect takes no pairs such as source=a.jpg: SOURCE stands alone"),
        ("detect a.jpg conf=0.4", "takes no pairs such as conf=0.4: phidet calls it --score"),
        ("detect a.jpg score=0.4", "takes no pairs such as score=0.4: write --score 0.4"),
        ("train data --imgsz 640", "phidet train has no --imgsz: phidet calls it --image-size"),
        ("detect a.jpg --imgsz 640", "phidet detect has no --imgsz: the input size is the model's own"),
        ("detect a.jpg imgsz=640", "takes no pairs such as imgsz=640: the input size is the model's own"),
        ("train data imgsz=640", "takes no pairs such as imgsz=640: phidet calls it --image-size"),
        ("train data --device 0", "has no --device: phidet calls it --accelerator cuda --devices 1"),
        ("train --data coco.yaml", "has no --data: DATA stands alone, as in: phidet train DATA"),
        ("train data --lr0 0.1", "has no --lr0: phidet calls it --learning-rate"),
        ("export m --format onnx", "has no --format: phidet calls it --to"),
        ("detect a.jpg --frobnicate", "unrecognized arguments: --frobnicate"),
    ],
)
def test_names_of_other_tools_are_translated(capsys: pytest.CaptureFixture[str], line: str, says: str) -> None:
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert says in err


def test_pairs_that_are_meant_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data=x").mkdir()
    assert parse(["train", "data", "--set", "epochs=3"], "train").set == ["epochs=3"]
    assert parse(["detect", "data=x"], "detect").sources == ["data=x"]
    assert parse(["detect", "--", "conf=1"], "detect").sources == ["conf=1"]


# Options in files

FILES = {
    "o.yaml": "score: 0.7\nsave: [json, csv]\nclasses: [person]\nexact: true\nthreads: null\n",
    "o.toml": 'score = 0.7\nsave = ["json", "csv"]\nclasses = ["person"]\nexact = true\n',
    "o.json": '{"score": 0.7, "save": "json,csv", "classes": "person", "exact": true}',
}


@pytest.mark.parametrize("name", FILES)
def test_options_come_from_a_file_and_the_command_line_goes_first(name: str, tmp_path: Path) -> None:
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    file = tmp_path / name
    file.write_text(FILES[name])
    args = parse(["detect", "a.jpg", "--config", str(file)], "detect")
    assert (args.sources, args.score, args.save, args.classes, args.exact) == (
        ["a.jpg"], 0.7, ["json", "csv"], ["person"], True,
    )  # fmt: skip
    for given in (["--score", "0.2"], ["--score=0.2"], ["--sco", "0.2"]):
        assert parse(["detect", "a.jpg", *given, f"--config={file}"], "detect").score == 0.2
    args = parse(["detect", "--config", str(file), "--classes", "dog", "--", "a.jpg"], "detect")
    assert (args.classes, args.sources) == (["dog"], ["a.jpg"])


def test_what_stands_alone_and_tables_may_be_in_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'data = "photos"\nimage-size = [384, 640]\ndetector = ["a", "b"]\n[set]\nepochs = 3\n[set.loss]\ngamma = 2.0\n'
    )
    args = parse(["train", "--config", str(file)], "train")
    assert (args.data, args.image_size, args.detector) == ("photos", (384, 640), ["a", "b"])
    assert args.set == ["epochs=3", "loss.gamma=2.0"]
    assert parse(["train", "others", "--config", str(file)], "train").data == "others"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("scor = 1", "unknown option of phidet detect in .*o.toml 'scor'. Did you mean score"),
        ("score = 3", "argument --score: expected a number in 0…1, got '3'"),
        ("exact = 1", "exact: expected true or false, got 1"),
        ("score = [0.1, 0.2]", "score: expected one value, got 2"),
        ("score = ", "cannot be read"),
    ],
)
def test_mistakes_in_a_file_are_said(
    content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "o.toml"
    file.write_text(content)
    code, _, err = run(capsys, "detect", "a.jpg", "--config", str(file))
    assert code in (2, 3)
    assert re.search(says, err), err
    assert "Traceback" not in err


def test_a_file_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.json").write_text("[1]")
    for name, says in (
        ("nothing.toml", "cannot read"),
        ("a.ini", "expected options in a file that ends in .yaml, .yml, .toml, .json"),
        ("list.json", "expected options with their values"),
    ):
        code, _, err = run(capsys, "detect", "a.jpg", "--config", str(tmp_path / name))
        assert code == 3
        assert says in err


@pytest.mark.parametrize("suffix", [".yaml", ".toml", ".json"])
def test_written_options_are_read_as_the_same(suffix: str, tmp_path: Path) -> None:
    if suffix == ".yaml":
        pytest.importorskip("yaml")
    file = tmp_path / f"o{suffix}"
    line = ["train", "my photos", "--image-size", "384x640", "--set", "a=1", "--set", 'b="x: y"', "--epochs", "3",
            "--detector", "x", "y", "--masks"]  # fmt: skip
    first = parse([*line, "--write-config", str(file)], "train")
    again = parse(["train", "--config", str(file)], "train")
    for name in vars(first).keys() - {"config", "write_config"}:
        assert getattr(again, name) == getattr(first, name), name


def test_every_command_takes_a_file_of_its_options() -> None:
    for name in COMMANDS:
        options = build_parser(name).chosen._option_string_actions  # type: ignore[union-attr]
        assert {"--config", "--write-config"} <= options.keys()


# Shells


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._master, slave = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "PS1": "$ ", "HOME": "/nonexistent"}
        self._shell = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment
        )
        os.close(slave)
        self._seen = ""

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> None:
        """Waits until the terminal shows ``text`` after what was expected before."""
        deadline = time.monotonic() + 60
        while text not in self._seen:
            assert time.monotonic() < deadline, self._seen
            if select.select([self._master], [], [], 1)[0]:
                self._seen += re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", os.read(self._master, 4096).decode(errors="replace"))
        self._seen = self._seen[self._seen.index(text) + len(text) :]

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._master)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_options_choices_and_files(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    script = tmp_path / ("_phidet" if shell == "zsh" else "phidet.bash")
    script.write_text(capsys.readouterr().out)
    (tmp_path / "photograph.jpg").touch()
    if shell == "bash":
        terminal = Terminal("bash", "--norc", "--noprofile", "-i")
        terminal.send(f"cd {tmp_path}; source {script}; echo re''ady\n")
    else:
        terminal = Terminal("zsh", "-f", "-i")
        setup = f"cd {tmp_path}; fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -D -u; echo re''ady"
        terminal.send(f"{setup}\n")
    try:
        terminal.expect("ready")
        terminal.send("phidet scale\t")
        terminal.expect("phidet scale-search")
        terminal.send("\x15phidet detect --scor\t")
        terminal.expect("detect --score")
        terminal.send("\x15phidet detect --runtime open\t")
        terminal.expect("--runtime openvino")
        terminal.send("\x15phidet detect photog\t")
        terminal.expect("detect photograph.jpg")
    finally:
        terminal.close()


def test_completion_names_every_command_and_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("shtab")
    code, out, _ = run(capsys, "completion", "bash")
    assert code == 0
    [names] = re.findall(r"^_shtab_phidet_subparsers=\((.*)\)$", out, re.MULTILINE)
    assert names.split() == list(COMMANDS)
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = run(capsys, "completion", "zsh")
    assert code == 6
    assert "pip install 'phidet[completion]'" in err


# Pipes and reports


class Stream:
    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "environment", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # as no-color.org has it
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals(
    terminal: bool, environment: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Stream(terminal)
    assert wants_colour(stream) == colour  # type: ignore[arg-type]
    assert (styled("x", "red", stream) == "\x1b[31mx\x1b[0m") == colour  # type: ignore[arg-type]


def test_env_says_what_a_bug_report_needs_and_nothing_private(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHIDET_CACHE", "/home/somebody/cache")
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    code, out, _ = run(capsys, "env", "--json")
    assert code == 0
    about = json.loads(out)
    assert about["phidet"] == run(capsys, "--version")[1].split()[1]
    assert about["python"].startswith(sys.version.split()[0])
    assert "CPU" in about["runtimes"]
    assert "numpy" in about["packages"]
    assert "PHIDET_OFFLINE=1" in about["environment"]
    assert "somebody" not in out
    assert run(capsys, "env")[1].splitlines()[0].split() == ["phidet", about["phidet"]]
