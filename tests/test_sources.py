"""What a source stands for, in which order, and what becomes of what cannot be read."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from phidet.core.errors import ConfigError, InputError, MissingExtraError
from phidet.images import sources
from phidet.images.sources import SourceImage, Unusable, check_sources_outside, read_sources


def save(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade,) * 3).save(path)
    return path


def png(shade: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 4), (shade,) * 3).save(content, "PNG")
    return content.getvalue()


def names(*given: str | Path, leave_out: Path | None = None) -> list[str]:
    return [str(item.name) for item in looked_at(*given, leave_out=leave_out)]


def looked_at(*given: str | Path, leave_out: Path | None = None) -> list[SourceImage]:
    items = list(read_sources([str(g) for g in given], leave_out))
    assert all(isinstance(item, SourceImage) for item in items), items
    return [item for item in items if isinstance(item, SourceImage)]


def refusal(source: str | Path) -> str:
    [item] = read_sources([str(source)])
    assert isinstance(item, Unusable)
    assert item.source == str(source)
    return str(item.error)


# Files, folders, patterns


def test_sources_come_in_the_order_given_with_their_pixels(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{i}.png", i) for i in (3, 1, 2, 7, 5, 6)]
    found = looked_at(*files)
    assert [int(p.image[0, 0, 0]) for p in found] == [3, 1, 2, 7, 5, 6]
    assert [p.source for p in found] == [str(f) for f in files]
    assert found[0].image.shape == (4, 6, 3)
    assert found[0].frame is found[0].time_s is None


def test_a_folder_is_searched_by_name_without_hidden_ones_and_what_is_left_out(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.PNG", "a/b/c.webp", ".hidden.png", ".git/x.png", "out/b.jpg", "a/out/d.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    everything = ["b.jpg", "a/z.PNG", "a/b/c.webp", "a/out/d.png", "out/b.jpg"]
    assert names(tmp_path) == everything
    assert names(tmp_path, leave_out=tmp_path / "out") == everything[:-1]
    assert names(tmp_path, leave_out=tmp_path / "a") == ["b.jpg", "out/b.jpg"]


def test_a_pattern_of_any_depth_and_a_name_that_looks_like_one(tmp_path: Path) -> None:
    for name in ("a.png", "deep/er/b.png", "deep/c.jpg", "d[1].png"):
        save(tmp_path / name)
    (tmp_path / "deep" / "e.txt").touch()
    assert names(f"{tmp_path}/**/*.png") == ["a.png", "d[1].png", "b.png"]
    assert names(f"{tmp_path}/deep/**") == ["c.jpg", "b.png"]
    assert names(f"{tmp_path}/d[1].png") == ["d[1].png"]


def test_a_pattern_that_matches_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.png").mkdir()
    [item] = read_sources([str(tmp_path / "*")])
    assert isinstance(item, Unusable)
    assert str(item.error) == f"{tmp_path / '*'} matches 2 files or folders, but no image or video that phidet reads"


def test_any_file_given_by_name_is_tried_whatever_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(png(9))
    assert looked_at(path)[0].image.max() == 9


def test_what_is_not_there_or_no_image_is_told_in_its_place(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png()[:40])
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    items = list(read_sources([str(tmp_path / "no.png"), str(tmp_path), str(tmp_path / "a.png")]))
    assert [type(i).__name__ for i in items] == [
        "Unusable",
        "SourceImage",
        "Unusable",
        "Unusable",
        "Unusable",
        "SourceImage",
    ]
    assert "no.png does not exist: expected an image, a video, a folder" in refusal(tmp_path / "no.png")
    assert "no file matches" in refusal(f"{tmp_path}/*.tiff")
    assert "holds no image or video that phidet reads" in refusal(tmp_path / "empty")
    assert "there is no image at" in refusal(tmp_path / "link.png")
    assert "cannot read" in refusal(tmp_path / "loop.png")
    assert "does not exist" in refusal("x" * 5000)
    assert "neither a file nor a folder" in refusal("/dev/null")
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt is not an image that can be read" in refusal(tmp_path / "notes.txt")
    assert "a video is known by the end of its name (.avi, " in refusal(tmp_path / "notes.txt")
    assert "a video" not in refusal(tmp_path / "b.png")


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: pipe.write_bytes(png(77)))
    thread.start()
    assert looked_at(pipe)[0].image.max() == 77
    thread.join()


def test_few_images_are_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        save(tmp_path / f"{i:02d}.png")
    decoded: list[object] = []
    real: Callable[..., object] = sources.read_image
    monkeypatch.setattr(sources, "read_image", lambda source: (decoded.append(source), real(source))[1])
    stream = read_sources([str(tmp_path)])
    for taken in range(1, 31):
        next(stream)
        time.sleep(0.002)
        assert len(decoded) <= taken + 4
    stream.close()  # type: ignore[attr-defined]
    assert len(decoded) < 40


@pytest.mark.parametrize("source", ["out/a.png", "out", "out/deep/*.png", "out/../out/a.png"])
def test_what_could_be_overwritten_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("out/a.png", "out/deep/b.png", "c.png"):
        save(tmp_path / name)
    with pytest.raises(ConfigError, match="lies in the folder that is written to, out, where it could be overwritten"):
        check_sources_outside(["c.png", source], Path("out"))
    check_sources_outside(["c.png", ".", "*.png", "-", "http://host/out/a.png", "webcam", "missing.png"], Path("out"))
    with pytest.raises(ConfigError, match=r"c.png lies in the folder that is written to, \."):
        check_sources_outside(["c.png"], Path())


# Standard input


class Input(io.TextIOWrapper):
    """Standard input that holds some bytes."""


def test_standard_input_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(png(5))))
    [found] = looked_at("-")
    assert (found.source, found.name, found.image.max()) == ("-", PurePosixPath("stdin.jpg"), 5)
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(b"")))
    assert refusal("-") == "standard input is empty: expected an image"
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(b"hello")))
    assert refusal("-").startswith("-: ")
    monkeypatch.setattr(sources, "LARGEST_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", Input(io.BytesIO(png())))
    assert refusal("-") == "standard input is larger than 10 bytes: write it to a file first"


# Cameras and video, as far as they are sources


def test_without_the_extra_videos_and_cameras_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").touch()
    items = list(read_sources([str(tmp_path / "a.mp4"), "webcam", str(save(tmp_path / "b.png"))]))
    for item in items[:2]:
        assert isinstance(item, Unusable)
        assert isinstance(item.error, MissingExtraError)
        assert "pip install 'phidet[video]'" in str(item.error)
    assert isinstance(items[2], SourceImage)


def test_a_camera_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    assert refusal("webcam:97").startswith("cannot read camera webcam:97")
    [item] = read_sources(["webcam:97"])
    assert isinstance(item, Unusable)
    assert isinstance(item.error, InputError)


def test_reading_gives_writable_pixels_of_its_own(tmp_path: Path) -> None:
    [a], [b] = looked_at(save(tmp_path / "a.png")), looked_at(tmp_path / "a.png")
    a.image[:] = 9
    assert not np.any(b.image)


def test_a_link_into_the_folder_that_is_written_to_is_not_followed(tmp_path: Path) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    out.mkdir()
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(out / "a.jpg")
    (photos / "a.jpg").symlink_to(out / "a.jpg")
    with pytest.raises(ConfigError, match="lies in the folder that is written to"):
        check_sources_outside([str(photos / "a.jpg")], out)
    (found,) = read_sources([str(photos)], out)
    assert isinstance(found, Unusable)
    assert "leads into the folder that is written to" in str(found.error)


def test_links_to_folders_are_searched_once(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "other" / "b.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "parent").symlink_to("..")
    assert [str(item.name) for item in looked_at(str(tmp_path / "in"))] == ["a.png", "again/b.png"]
    save(tmp_path / "out" / "crops" / "mine.png")
    (tmp_path / "in" / "crops").symlink_to(tmp_path / "out" / "crops")
    items = read_sources([str(tmp_path / "in")], tmp_path / "out")
    found = [item.name for item in items if isinstance(item, SourceImage)]
    assert [str(name) for name in found] == ["a.png", "again/b.png"]
    (tmp_path / "in" / "crops").unlink()
    for pattern in ("**", "**/*", "**/*.png", "**/**/*.png"):
        assert [str(item.name) for item in looked_at(str(tmp_path / "in" / pattern))] == ["a.png", "b.png"]
