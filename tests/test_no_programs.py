"""No file that phidet reads starts a program: files of every format of Pillow, called .jpg, through every entrance."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import peers
import phidet
from odd_images import encoded, photo
from phidet import create_classifier, create_model, save_model
from phidet.cli.main import main
from phidet.core.errors import InputError
from phidet.core.structs import replace
from phidet.data.layouts import open_data
from phidet.data.tfrecord_file import make_example, write_record
from phidet.images.decode import as_pil_image
from phidet.inference.detector import Detector
from pillow_formats import DECODED, pillow_files
from serve_server import serving, settings_for, write_version
from tiny_model import write_tiny_model

OTHERS = {"PDF": b"%PDF-1.7\n%", "SVG": b"<svg/>", "MVG": b"push graphic-context\nimage over 0,0 0,0 'x'"}
FILES = {**pillow_files(), **OTHERS}
REFUSED = sorted(set(FILES) - set(DECODED))
PROGRAMS = ("gs", "gswin32c", "gswin64c", "convert", "magick", "identify", "gm", "display", "djpeg", "xv", "inkscape",
            "rsvg-convert", "ffmpeg", "ffprobe", "heif-convert", "heif-dec", "dcraw", "exiftool")  # fmt: skip
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "os.startfile")
_started: list[str] | None = None


def _record(event: str, arguments: tuple[object, ...]) -> None:
    own = event == "subprocess.Popen" and arguments[0] == sys.executable  # bench has a process of phidet for each model
    if _started is not None and event in _STARTS and not own:
        _started.append(f"{event} {arguments!r}")


sys.addaudithook(_record)  # for ever, as Python has it; idle outside of the fixture


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Programs that were started: by Python's own account, and by programs in PATH that write down their names."""
    global _started  # noqa: PLW0603
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path / "started"}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as before Pillow looked for Ghostscript
    _started = []
    yield _started
    _started += (tmp_path / "started").read_text().splitlines() if (tmp_path / "started").exists() else []
    wrong, _started = _started, None
    assert wrong == []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A YOLO data set: four photos, and a file of every format, all called .jpg and with a box each."""
    root = tmp_path / "data"
    for split, names in (("train", sorted(FILES)), ("val", REFUSED[:9])):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        files = {f"photo{i}": encoded(photo(np.random.default_rng([i, len(names)])), "JPEG") for i in range(4)}
        for name, content in {**files, **{name: FILES[name] for name in names}}.items():
            (images / f"{name}.jpg").write_bytes(content)
            (labels / f"{name}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [person]\n")
    return root


def test_the_recorder_sees_ghostscript(started: list[str], tmp_path: Path) -> None:
    """That the other tests would fail."""
    with contextlib.suppress(OSError), Image.open(io.BytesIO(FILES["EPS"])) as image:
        image.load()
    assert any("gs" in line for line in started)
    assert "gs --version" in (tmp_path / "started").read_text()
    started.clear()
    (tmp_path / "started").unlink()


def test_detect(started: list[str], data: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = data / "images/train"
    command = ["detect", "-m", str(model), "--threads", "1", "--out", str(tmp_path / "out"), "--save"]
    assert main([*command, "json,images,crops", str(folder), f"{folder}/*"]) == 3
    lines = (tmp_path / "out/detections.jsonl").read_text().splitlines()
    assert sum("error" in json.loads(line) for line in lines) == 2 * len(REFUSED)
    assert main([*command, "json", *(str(folder / f"{name}.jpg") for name in REFUSED)]) == 3
    for name in REFUSED:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILES[name])))
        assert main([*command, "json", "-"]) == 3


def test_python(started: list[str], data: Path, model: Path) -> None:
    with Detector(model, threads=1) as detector:
        for name in REFUSED:
            for source in (data / f"images/train/{name}.jpg", str(data / f"images/train/{name}.jpg")):
                with pytest.raises(InputError):
                    detector(source)
                with pytest.raises(InputError):
                    as_pil_image(source)
        with Image.open(io.BytesIO(FILES["EPS"])) as image, pytest.raises(InputError):
            detector(image)


def test_doctor_and_convert_data(started: list[str], data: Path, tmp_path: Path) -> None:
    assert main(["doctor", str(data), "--out", str(tmp_path / "report")]) == 3
    assert main(["doctor", str(data), "--fast"]) == 3
    main(["convert-data", str(data), str(tmp_path / "records"), "--to", "tfrecord"])
    main(["doctor", str(data), "--fix", str(tmp_path / "fixed")])
    kept = {Path(name).stem for name in open_data(tmp_path / "fixed").read("train").names}
    assert not kept & set(REFUSED)
    assert len(kept) == 4 + 5  # of BMP, JPEG 2000, PNG, PPM and TIFF, whose pixels are the same, one is kept


def test_tfrecord(started: list[str], tmp_path: Path) -> None:
    with (tmp_path / "train.tfrecord").open("wb") as file:
        for name, content in FILES.items():
            image = {"image/encoded": [content], "image/filename": [f"{name}.jpg".encode()]}
            size = {"image/height": [16], "image/width": [16]}
            box = {f"image/object/bbox/{side}min": [0.25] for side in "xy"}
            box |= {f"image/object/bbox/{side}max": [0.75] for side in "xy"}
            label = {"image/object/class/label": [1], "image/object/class/text": [b"person"]}
            write_record(file, make_example({**image, **size, **box, **label}))
    dataset = open_data(tmp_path / "train.tfrecord").read("train")
    assert len(dataset) == len(FILES)
    refused = 0
    for i in range(len(dataset)):
        try:
            dataset.image(i)
        except InputError:
            refused += 1
    assert refused == len(REFUSED)
    assert main(["doctor", str(tmp_path)]) == 3


@pytest.mark.slow
def test_train_evaluate_and_explain(started: list[str], data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny, run = tmp_path / "tiny.safetensors", tmp_path / "run"
    save_model(create_model(replace(peers.tiny_detector(("person",)), {"image_size_hw": (128, 128)})), tiny)
    fast = ["--epochs", "1", "--batch-size", "2", "--workers", "0"]
    assert main(["train", str(data), "--model", str(tiny), "--out", str(run), *fast]) == 0
    main(["eval", str(run), str(data), "--out", str(tmp_path / "eval")])
    assert main(["explain", str(tiny), str(data / "images/train/EPS.jpg"), "--out", str(tmp_path / "x.png")]) == 3
    assert main(["bench", str(tiny), "--image", str(data / "images/train/EPS.jpg")]) != 0


def test_classification(started: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    for label in ("cat", "dog"):
        folder = tmp_path / "classes" / label
        folder.mkdir(parents=True)
        for i in range(4):
            (folder / f"photo{i}.jpg").write_bytes(encoded(photo(np.random.default_rng(i)), "JPEG"))
        for name in REFUSED:
            (folder / f"{name}.jpg").write_bytes(FILES[name])
    tiny, run = tmp_path / "tiny.safetensors", tmp_path / "run"
    save_model(create_classifier(replace(peers.tiny_classifier(("cat", "dog")), {"image_size_hw": (64, 64)})), tiny)
    fast = ["--epochs", "1", "--batch-size", "2", "--workers", "0"]
    assert (
        main(["train", str(tmp_path / "classes"), "--task", "classify", "--model", str(tiny), "--out", str(run), *fast])
        == 0
    )


def test_serve(started: list[str], tmp_path: Path) -> None:
    write_version(tmp_path / "m", 1, "500")
    with serving(settings_for(tmp_path / "m")) as server:
        for name in REFUSED:
            body = {"instances": [{"b64": base64.b64encode(FILES[name]).decode()}]}
            reply = server.post("/v1/models/m:predict", body)
            assert reply.status == 400
            assert "\n" not in reply.error


def test_nothing_in_the_package_opens_images_by_another_way() -> None:
    """Decoders are named in one file; ``Image.open`` would try every one that Pillow has."""
    package = Path(phidet.__file__).parent
    ways = r"Image\.open\(|Image\.init\(|ImageFile\.Parser|register_open|imread\(|torchvision\.io|decode_image\("
    other_ways = re.compile(ways)
    found = [path.name for path in package.rglob("*.py") if other_ways.search(path.read_text(encoding="utf-8"))]
    assert found == []
