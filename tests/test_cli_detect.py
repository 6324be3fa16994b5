"""``phidet detect`` from end to end, with a detector that finds what is painted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blobs import BLUE, RED, BlobDetector, painted
from phidet.cli import report
from phidet.cli.main import main
from phidet.core.extras import DATA_PACKAGES, RELATIONS_PACKAGES, SERVE_PACKAGES, TRAIN_PACKAGES
from phidet.detections.draw import colour
from phidet.images.sources import read_sources
from phidet.images.video import video_frames
from phidet.images.video_writer import VideoWriter

PERSON, DOG = ((10, 20, 60, 90), RED), ((100, 30, 150, 60), BLUE)
made: list[BlobDetector] = []


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*args: Any, runtime: str, threads: int | None, **_: object) -> BlobDetector:
        made.append(BlobDetector(*args, runtime=runtime, threads=threads))
        return made[-1]

    made.clear()
    monkeypatch.setattr("phidet.inference.detector.Detector", make)
    monkeypatch.chdir(tmp_path)
    photo("photo.png", PERSON, DOG)


def photo(name: str, *objects: tuple[tuple[int, int, int, int], int], size: tuple[int, int] = (120, 160)) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(painted(*size, *objects)).save(path)
    return path


def files(folder: str = ".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_one_image_and_nothing_else_said(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("photo.png").read_bytes()
    assert main(["detect", "photo.png"]) == 0
    out, err = capsys.readouterr()
    assert out == "photo.png: 1 person, 1 dog\n"
    assert err == "1 image, 2 objects; wrote detections (1 image)\n"
    assert files() == ["detections/photo.png", "photo.png"]
    assert Path("photo.png").read_bytes() == before
    assert made[0].model == "person"
    with Image.open("detections/photo.png") as image:
        drawn = np.asarray(image)
    assert (drawn[50, 10:12] == colour(RED)).all(axis=-1).any()
    assert (drawn[50, 100:102] == colour(BLUE)).all(axis=-1).any()


def test_everything_at_once_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    photo("in/a/empty.png")
    args = ["detect", "photo.png", "in", "--out", "far/out", "--save", "images,json,coco,yolo,csv,crops"]
    assert main([*args, "-m", "my.onnx", "--batch", "2"]) == 0
    assert files("far/out") == [
        "a/empty.png", "classes.txt", "coco-images.json", "coco-results.json", "crops/dog/photo-2.jpg",
        "crops/person/photo-1.jpg", "detections.csv", "detections.jsonl", "labels/.phidet", "labels/a/empty.txt",
        "labels/photo.txt", "photo.png",
    ]  # fmt: skip
    assert capsys.readouterr().out == "photo.png: 1 person, 1 dog\nin/a/empty.png: nothing\n"
    assert made[0].model == "my.onnx"
    assert made[0].batches == [2]


def test_json_goes_to_standard_output_and_to_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.png").write_text("no picture")
    assert main(["detect", "photo.png", "bad.png", "--json"]) == 3
    out, err = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert [d["box_xyxy"] for d in first["detections"]] == [[10, 20, 60, 90], [100, 30, 150, 60]]
    assert second["source"] == "bad.png"
    assert "bad.png is not an image" in second["error"]
    assert "bad.png is not an image" in err
    assert files() == ["bad.png", "photo.png"]


def test_json_and_files_together() -> None:
    assert main(["detect", "photo.png", "--json", "--save", "csv"]) == 0
    assert files() == ["detections/detections.csv", "photo.png"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "1 person, 1 dog"),
        (["--score", "0.7"], "1 person"),
        (["--classes", "dog"], "1 dog"),
        (["--classes", " dog ,person"], "1 person, 1 dog"),
        (["--classes", "dog", "--classes", "person"], "1 person, 1 dog"),
        (["--max", "1"], "1 person"),
        (["--classes", "dog", "--score", "0.7"], "nothing"),
        (["--tile", "100", "--batch", "4"], "1 person, 1 dog"),
        (["--nms", "soft", "--iou", "0.9"], "1 person, 1 dog"),
    ],
)
def test_settings_reach_the_detector(options: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "photo.png", *options]) == 0
    assert capsys.readouterr().out == f"photo.png: {found}\n"


def test_class_names_with_commas_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("blobs.NAMES", "blobs.BlobDetector.class_names"):
        monkeypatch.setattr(module, ("person", " dog, small"))
    assert main(["detect", "photo.png", "--classes", " dog, small"]) == 0
    assert capsys.readouterr().out == "photo.png: 1  dog, small\n"
    assert main(["detect", "photo.png", "--classes", " dog, small", "--classes", "person,cat"]) == 2
    assert "unknown class 'cat'" in capsys.readouterr().err


def test_one_bad_image_is_a_line_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        photo(f"in/{i}.png", PERSON)
    Path("in/1.png").write_bytes(Path("in/1.png").read_bytes()[:60])
    Path("in/3.png").write_bytes(b"")
    photo("in/refused.png", size=(13, 13))
    for batch in ("1", "4"):
        assert main(["detect", "in", "missing.png", "--batch", batch, "--save", "json"]) == 3
        out, err = capsys.readouterr()
        assert out == "".join(f"in/{i}.png: 1 person\n" for i in (0, 2, 4))
        lines = err.splitlines()
        assert [line.split(":")[0] for line in lines[:4]] == ["phidet"] * 4
        reasons = [
            "in/1.png cannot be decoded as PNG",
            "in/3.png is empty",
            "expected a luckier picture",
            "missing.png",
        ]
        assert all(reason in line for reason, line in zip(reasons, lines, strict=False))
        assert lines[4].startswith("3 images, 3 objects, 4 errors;")
        assert lines[5:] == ["phidet: 4 sources could not be used"]
        documents = [json.loads(line) for line in Path("detections/detections.jsonl").read_text().splitlines()]
        assert ["error" in d for d in documents] == [False, True, False, True, False, True, True]


def test_the_exit_code_is_that_of_all_errors_if_they_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIDET_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "av", None)
    Path("a.mp4").touch()
    assert main(["detect", "https://host/a.jpg", "photo.png"]) == 5
    assert main(["detect", "a.mp4", "photo.png"]) == 6
    assert main(["detect", "a.mp4", "https://host/a.jpg"]) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--classes", "cat,persn"], "unknown class 'cat'"),
        (["--save", "image"], "unknown kind of output 'image'. Did you mean images"),
        (["--out", "."], "photo.png lies in the folder that is written to"),
        (["--tile", "20"], "expected tiles of at least 64 pixels, got 20"),
        (["--json", "--out", "x"], "--out needs something to write: --save images, for instance"),
    ],
)
def test_settings_that_cannot_be_end_it_before_anything_is_written(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "photo.png", *args]) == 2
    assert message in capsys.readouterr().err
    assert files() == ["photo.png"]


@pytest.mark.parametrize(
    "option", ["--score=2", "--score=x", "--iou=-1", "--max=0", "--batch=x", "--save=,", "--nms=x"]
)
def test_words_that_mean_nothing_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["detect", "photo.png", option])
    assert option.split("=", maxsplit=1)[0] in capsys.readouterr().err


def test_nothing_to_save_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["detect", "photo.png", "--save", ""])
    assert "expected names separated by commas, got ''" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").touch()
    assert main(["detect", "photo.png", "--out", "out"]) == 1
    assert "cannot write out/photo.png: " in capsys.readouterr().err
    assert files() == ["out", "photo.png"]


def test_searching_a_folder_leaves_out_what_was_written_there_before() -> None:
    assert main(["detect", "."]) == 0
    assert main(["detect", "."]) == 0
    assert files() == ["detections/photo.png", "photo.png"]
    assert main(["detect", "detections/photo.png"]) == 2
    assert main(["detect", "detections/photo.png", "--out", "second"]) == 0


def test_interrupted_it_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def two_and_stop(*_: object) -> Iterator[object]:
        found = detect_once()
        yield found
        yield found
        raise KeyboardInterrupt

    def detect_once() -> object:
        [picture] = read_sources(["photo.png"])
        return picture, BlobDetector().detect([picture.image])[0]  # type: ignore[union-attr]

    monkeypatch.setattr("phidet.inference.stream.detect_stream", two_and_stop)
    assert main(["detect", "photo.png", "--save", "json"]) == 130
    assert len(Path("detections/detections.jsonl").read_text().splitlines()) == 2
    assert "2 images, 4 objects" in capsys.readouterr().err
    assert files("detections") == ["detections.jsonl"]


@pytest.mark.parametrize("how", ["sigterm", "pipe"])
def test_ended_from_outside_it_keeps_what_is_done(how: str, tmp_path: Path) -> None:
    """The real command, on images that it cannot be done with at once."""
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    for i in range(400):
        Image.fromarray(noise).save(f"{i:03}.bmp")
    command = [sys.executable, "-m", "phidet.cli.main", "detect", ".", "--save", "csv,json", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("000.bmp: ")
        assert process.stdout.readline().startswith("001.bmp: ")
        if how == "sigterm":
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
        else:
            process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == {"sigterm": 128 + signal.SIGTERM, "pipe": 128 + signal.SIGPIPE}[how]
    lines = Path("detections/detections.jsonl").read_text().splitlines()
    assert 1 <= len(lines) < 400
    assert json.loads(lines[0])["source"] == "000.bmp"
    assert "wrote detections/detections.csv" in said
    assert "Traceback" not in said
    assert files("detections") == ["detections.csv", "detections.jsonl"]


def test_names_that_the_terminal_has_no_letters_for(tmp_path: Path) -> None:
    photo("naïve-猫.png")
    command = [sys.executable, "-m", "phidet.cli.main", "detect", "naïve-猫.png"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (0, b"na\\xefve-\\u732b.png: nothing\n")


def test_labels_that_somebody_drew_are_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/labels/train").mkdir(parents=True)
    label = Path("data/labels/train/photo.txt")
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    assert main(["detect", "photo.png", "--save", "yolo", "--out", "data"]) == 2
    assert "data has labels that phidet did not write and would overwrite" in capsys.readouterr().err
    assert files("data") == ["labels/train/photo.txt"]
    Path("other").mkdir()
    Path("other/classes.txt").write_text("mine\n")
    assert main(["detect", "photo.png", "--save", "yolo", "--out", "other"]) == 2
    assert Path("other/classes.txt").read_text() == "mine\n"
    for _ in range(2):
        assert main(["detect", "photo.png", "--save", "yolo"]) == 0


def test_tiles_that_nothing_merges_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "photo.png", "--tile", "64", "--nms", "none"]) == 2
    assert "tiles overlap, so what they see is merged" in capsys.readouterr().err


def test_a_bug_leaves_no_half_written_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(BlobDetector, "_one", broken)
    with pytest.raises(ZeroDivisionError):
        main(["detect", "photo.png", "--save", "json,csv,coco"])
    assert files() == ["photo.png"]


def test_video_becomes_video_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    writer = VideoWriter(Path("clip.mp4"))
    for i in range(20):
        objects = [PERSON, DOG] if i == 7 else [PERSON]
        writer.write(painted(120, 160, *objects), i / 10)
    writer.keep()
    assert main(["detect", "clip.mp4", "photo.png", "--batch", "8", "--save", "images,yolo,csv"]) == 0
    assert capsys.readouterr().out == ("clip.mp4: 20 frames, at most 1 person, 1 dog\nphoto.png: 1 person, 1 dog\n")
    assert made[0].batches == [8, 8, 5]
    assert len(list(Path("detections/labels").glob("*.txt"))) == 21
    assert len(Path("detections/labels/clip-000007.txt").read_text().splitlines()) == 2
    frames = list(video_frames(Path("detections/clip.mp4")))
    assert [round(f.time_s, 2) for f in frames] == [i / 10 for i in range(20)]
    assert Path("detections/detections.csv").read_text().splitlines()[1].startswith("clip.mp4,0,0.0,0,person,0.9,")


def test_progress_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    times = iter(range(100))
    monkeypatch.setattr(report.time, "monotonic", lambda: float(next(times)))
    assert main(["detect", "photo.png", "photo.png", "--json"]) == 0
    assert "\r\033[K1 image, 1.0 a second" in terminal.getvalue()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_names_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    photo("evil\x1b[31m\n.png")
    Path("evil\x1b]0;\x07.png").write_text("no picture")
    undecodable = b"\xff.png".decode("utf-8", "surrogateescape")
    photo(undecodable)
    assert main(["detect", ".", "--save", "json,csv,images,yolo,coco"]) == 3
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert len(out.splitlines()) == 3
    assert Path("detections", undecodable).is_file()


def test_help_starts_quickly_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); from phidet.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'msgspec', 'PIL', 'onnxruntime', 'torch', 'urllib.request', 'av', 'pathlib'}\n"
        "heavy &= set(sys.modules) - before\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "detect" in done.stdout
    code = code.replace("['--help']", "['detect', '--help']").replace(", 'pathlib'", "")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_one_image_imports_nothing_that_only_other_options_use() -> None:
    photo("photo.png")
    outputs = ("coco", "crops", "json_csv", "parquet", "segments", "yolo")
    unused = {f"phidet.detections.sinks.{name}" for name in outputs}
    unused |= {f"phidet.detections.{name}" for name in ("parquet", "tables", "foreign", "tracking")}
    unused |= {f"phidet.images.{name}" for name in ("live", "video", "video_writer", "pyav", "remote")}
    unused |= {"phidet.inference.tiles", "phidet.evaluation", "difflib", "importlib.metadata", "urllib.request"}
    assert all(find_spec(name) for name in unused)
    # What libraries import themselves differs from version to version.
    code = (
        "import sys, msgspec, numpy, onnxruntime, PIL.Image; before = set(sys.modules)\n"
        "from phidet.cli.main import main; assert main(['detect', 'photo.png']) == 0\n"
        f"found = {unused!r} & set(sys.modules) - before\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 image" in done.stderr


def test_a_detector_needs_and_imports_no_more_than_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an installation without extras, whose packages all stand in the way here."""
    photo("photo.png")
    extras = (*TRAIN_PACKAGES, *DATA_PACKAGES, *SERVE_PACKAGES, *RELATIONS_PACKAGES, "google.protobuf", "av", "scipy")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r}))\n"
        "from phidet import Detector\n"
        "slow = {'numpy.f2py', 'PIL.ImageDraw', 'phidet.data.doctor.facts', 'onnxruntime'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "from phidet.cli.main import main\n"
        "sys.exit(main(['detect', 'photo.png', '--save', 'images,json,csv,yolo,coco,crops']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 image" in done.stderr
