"""The command line: what it prints, its exit codes, and that a user's mistake never ends in a stack trace."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import IO

import pytest

import phidet
from conftest import needs_pytorch, slowly
from phidet.cli.main import COMMANDS, main
from phidet.core.bundled import bundled_file


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of one command."""
    try:
        code = main(list(words))
    except SystemExit as end:  # argparse's way out
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_names_every_command_without_importing_any(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    script = "import sys; from phidet.cli.main import build_parser; build_parser(None); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
    assert run(capsys, "--version")[1] == f"phidet {phidet.core.extras.__version__}\n"


@needs_pytorch
def test_info_prints_the_parts_and_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "efficientdet-d0")
    assert code == 0
    parts = dict(re.findall(r"^(backbone|feature network|class head|box head|total) +([\d,]+) ", out, re.MULTILINE))
    counts = {name: int(text.replace(",", "")) for name, text in parts.items()}
    assert counts.pop("total") == sum(counts.values()) == 3_880_067
    assert "49,104" in out  # anchors at 512: 9 · (64² + 32² + 16² + 8² + 4²)
    assert "512×512" in out


@needs_pytorch
def test_info_as_json_says_the_same_and_carries_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "efficientdet-lite0", "--image-size", "256x384", "--num-classes", "3", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["input_hw"] == [256, 384]
    assert report["config"]["class_names"] == ["class-0", "class-1", "class-2"]
    assert report["levels"][0]["grid_hw"] == [32, 48]
    assert sum(level["anchors"] for level in report["levels"]) == 9 * (32 * 48 + 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3)
    assert set(report["parts"]) == {"backbone", "feature_network", "class_head", "box_head"}


@needs_pytorch
def test_info_describes_an_export_and_a_runs_folder_as_their_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(bundled_file("person", ".safetensors"), tmp_path / "best.safetensors")
    said = [run(capsys, "info", str(of)) for of in ("person", tmp_path, bundled_file("person", ".onnx"))]
    assert said[0] == said[1] == said[2]
    assert said[0][0] == 0
    assert "448×448" in said[0][1]
    assert "1: person" in said[0][1]


@needs_pytorch
@pytest.mark.parametrize("whole", [False, *slowly(True)])
def test_info_of_the_family_stands_beside_the_published_metrics(
    whole: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x", "lite0") if whole else ("d0", "d7x", "lite0")
    if not whole:  # a third of a second for each network that is counted
        monkeypatch.setattr("phidet.cli.info.DETECTOR_NAMES", [f"efficientdet-{name}" for name in shown])
        monkeypatch.setattr("phidet.cli.info.published_names", lambda _: ["efficientnet-b8"])
    code, out, _ = run(capsys, "info", "--all")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("efficient")}
    for d in shown:
        row = rows[f"efficientdet-{d}"]
        assert row[2] == row[3], d  # parameters, published parameters
    assert rows["efficientdet-d7x"][2] == "77,147,166"
    assert rows["efficientnet-b8"][2] == "87,413,142"


@needs_pytorch
def test_info_compares_feature_networks_relative_to_fpn(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", "efficientdet-d0", "--compare-necks", "--json")
    assert code == 0
    necks = json.loads(out)
    fpn = next(n for n in necks if n["graph"] == "fpn")
    assert {n["graph"] for n in necks} == {
        "fpn",
        "panet",
        "simplified-panet",
        "nas-fpn",
        "fully-connected-fpn",
        "bifpn",
    }
    for n in necks:
        ratio = n["neck"]["multiply_adds"] / fpn["neck"]["multiply_adds"]
        assert n["relative_multiply_adds"] == pytest.approx(ratio, rel=1e-6)


def test_info_draws_a_graph(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "bifpn.svg"
    code, out, err = run(capsys, "info", "--graph", "bifpn", "--levels", "3-8", "--out", str(target))
    assert (code, out) == (0, "")
    assert str(target) in err
    assert target.read_text(encoding="utf-8").startswith("<svg")
    assert run(capsys, "info", "--graph", "bifpn", "--levels", "3-8")[1].strip() == target.read_text().strip()


@needs_pytorch
def test_info_reads_what_convert_wrote_and_convert_what_effdet_would(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, effdet, back = (tmp_path / name for name in ("m.safetensors", "m.pth", "back.safetensors"))
    phidet.save_model(phidet.create_model("efficientdet-lite0", class_names=["cat", "dog"]), source)
    assert "2: cat, dog" in run(capsys, "info", str(source))[1]
    before = source.read_bytes()
    code, out, _ = run(capsys, "convert", str(source), str(effdet), "--to", "effdet")
    assert code == 0
    assert str(effdet) in out
    assert run(capsys, "convert", str(effdet), str(back), "--model", "efficientdet-lite0")[0] == 0
    assert source.read_bytes() == before
    assert "efficientdet-lite0" in run(capsys, "info", str(back))[1]


@needs_pytorch
def test_scale_search_shows_the_papers_triple_and_takes_a_measure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("my_measure.py").write_text("def accuracy(config):\n    return -config.feature_network.channels\n")
    cost = import_module("phidet.architectures.costs").Cost(parameters=1, multiply_adds=1)
    monkeypatch.setattr("phidet.evaluation.scale_search.count_costs", lambda _: {"all": cost})
    code, out, _ = run(capsys, "scale-search", "width", "--accuracy", "my_measure:accuracy", "--json")
    assert code == 0
    assert [c["factor"] for c in json.loads(out)] == [1.2, 1.25, 1.3, 1.35, 1.4, 1.45]  # narrowest is "best" here
    code, out, _ = run(capsys, "scale-search", "compound", "--step", "0.2", "--tolerance", "0.3", "--most", "2")
    assert code == 0
    assert len(re.findall(r"^\d\.\d\d, ", out, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("", 2, "COMMAND"),
        ("frobnicate", 2, "choose from"),
        ("info", 2, "name a model"),
        ("info efficientdet-d0 --phi 1", 2, "name a model"),
        ("info efficientdet-dO", 2, "Did you mean efficientdet-d0"),
        ("info efficientdet-d0 --image-size 0", 2, "N or HEIGHTxWIDTH"),
        pytest.param("info efficientdet-d0 --image-size 64x512", 3, "at least 128×128", marks=needs_pytorch),
        ("info efficientdet-d0 --num-classes 0", 2, "num_classes must be"),
        ("info efficientdet-d0 --num-classes many", 2, "invalid int value"),
        ("info efficientdet-d0 --out x.svg", 2, "--out belongs to --graph"),
        pytest.param("info efficientnet-b0 --compare-necks", 2, "no feature network", marks=needs_pytorch),
        ("info --phi 11", 2, "-2 to 10"),
        ("info --phi nan", 2, "-2 to 10"),
        ("info --phi 1 --family efficientdet-light", 2, "efficientdet-lite"),
        ("info --graph bifnp", 2, "bifpn"),
        ("info --graph bifpn --levels 7", 2, "LOW-HIGH"),
        ("info --graph bifpn --levels 7-3", 2, "at least two levels"),
        ("info --graph bifpn --out x.png", 2, "x.svg"),
        ("info --graph bifpn --out /nowhere/x.svg", 1, "cannot write"),
        ("info no/such/model.safetensors", 2, "no model file"),
        ("info setup.cfg", 2, "no model file"),
        pytest.param("convert missing.pth out.safetensors", 4, "missing.pth", marks=needs_pytorch),
        pytest.param("convert missing.pth out.onnx", 2, ".safetensors", marks=needs_pytorch),
        pytest.param("convert missing.pth out.pth --to caffe", 2, "caffe", marks=needs_pytorch),
        pytest.param("scale-search compound --budget 0", 2, "budget", marks=needs_pytorch),
        ("scale-search compound --limit 0", 2, "--limit"),
        ("scale-search compound --accuracy nothing", 2, "MODULE:FUNCTION"),
        ("scale-search width --accuracy json:decoder", 2, "not a function"),
        pytest.param("scale-search width --accuracy builtins:repr", 2, "expected a number", marks=needs_pytorch),
        ("bench person --batch x", 2, "expected whole numbers ≥ 1 separated by commas, as in 1,8, got 'x'"),
        ("doctor nowhere --augment flip=1", 2, "--augment belongs to --augmented"),
        pytest.param("doctor . --augmented --augment policy=v9", 2, "policy: expected none, v0", marks=needs_pytorch),
        ("detect photo.jpg -m efficientnet-b0", 4, "efficientnet-b0 is not a detector: name one"),
        pytest.param("export efficientnet-b0", 4, "is not a detector: name one", marks=needs_pytorch),
        pytest.param("explain x.jpg -m person", 3, "no image at x.jpg", marks=needs_pytorch),
    ],
)
def test_mistakes_get_one_message_and_the_right_code(
    capsys: pytest.CaptureFixture[str], words: str, code: int, says: str
) -> None:
    found, out, err = run(capsys, *words.split())
    assert found == code, err
    assert out == ""
    assert says in err
    assert err.startswith("phidet: ")
    assert "Traceback" not in err


def test_offline_reaches_the_downloads(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHIDET_OFFLINE", raising=False)
    monkeypatch.setitem(os.environ, "PHIDET_OFFLINE", "0")  # restored afterwards
    run(capsys, "info", "--graph", "fpn", "--offline")
    assert os.environ["PHIDET_OFFLINE"] == "1"


def run_into(stdout: IO[str] | int, words: str, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with that standard output."""
    return subprocess.run(
        [sys.executable, "-m", "phidet.cli.main", *words.split()],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [("--version", ""), ("detect --help", ""), ("info --graph nas-fpn", ""), ("info --graph nas-fpn", "1")],
)
def test_a_reader_that_left_ends_a_command_as_sigpipe_would(words: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # before the command starts: nothing depends on who is faster
    try:
        done = run_into(writing, words, unbuffered)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "phidet", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"phidet {phidet.core.extras.__version__}\n")
    done = subprocess.run([*command[:3], "detct"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("phidet: argument COMMAND: invalid choice: 'detct'")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "info --graph nas-fpn",
        pytest.param("info efficientdet-lite0", marks=[needs_pytorch, pytest.mark.slow]),  # seconds to import PyTorch
    ],
)
def test_an_output_that_takes_no_more_is_told(words: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = run_into(full, words)
    assert (done.returncode, done.stderr) == (1, "phidet: cannot write output: No space left on device\n")


def test_without_pytorch_the_message_names_the_extra() -> None:
    script = (
        "import sys\nfor name in ('torch', 'torchvision', 'safetensors', 'h5py', 'tqdm'): sys.modules[name] = None\n"
        "from phidet.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )

    def without(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)

    missing = without("info", "efficientdet-d0")
    assert missing.returncode == 6
    assert "pip install 'phidet[train]'" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert without("info", "--graph", "bifpn").returncode == 0  # a drawing needs no network
