"""``phidet eval --tracks``: known answers of TUD's videos, counting by hand, and the folders of MOTChallenge."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blobs import BlobDetector
from phidet.cli.main import main
from phidet.core.errors import InputError
from phidet.evaluation.tracks.metrics import measure_tracks
from phidet.evaluation.tracks.mistakes import TrackMistake, find_mistakes
from phidet.evaluation.tracks.motchallenge import Frames, compared, read_rows, read_sequences
from tracking_data import LEVELS, motmetrics_data, noisy, tud

pytest.importorskip("trackeval", reason="no TrackEval here: pip install 'phidet[track-eval]'")
BOX = np.array([[10.0, 10, 50, 90]])


def frames_of(true: list[list[int]], found: list[list[int]], step: float = 100.0) -> Frames:
    """Objects at places of their own: id k is found where the object k is; 10 k + j there, too."""

    def boxes(ids: list[int]) -> Any:
        return np.concatenate([np.zeros((0, 4)), *(BOX + step * (i // 10 if i >= 10 else i) for i in ids)])

    return Frames(
        [np.array(ids, np.int64) for ids in true],
        [boxes(ids) for ids in true],
        [np.array(ids, np.int64) for ids in found],
        [boxes(ids) for ids in found],
    )


def write_sequence(folder: Path, truth: str, frames: int, images: bool = True) -> Path:
    (folder / "gt").mkdir(parents=True)
    (folder / "gt" / "gt.txt").write_text(truth)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate=25\nseqLength={frames}\nimWidth=160\nimHeight=120\n"
    )
    if images:
        (folder / "img1").mkdir()
        for i in range(frames):
            Image.fromarray(np.full((120, 160, 3), 90 + i, np.uint8)).save(folder / "img1" / f"{i + 1:06d}.png")
    return folder


def test_mota_and_the_rest_by_hand() -> None:
    # Object 1 in four frames: found, missed, found by another track, found by that one; and one false box.
    frames = frames_of([[1], [1], [1], [1]], [[10], [5], [11], [11]])
    m = measure_tracks(*frames)
    assert (m.true_boxes, m.misses, m.false_boxes, m.switches, m.fragments) == (4, 1, 1, 1, 1)
    assert m.mota == pytest.approx(1 - 3 / 4)
    # The best identity is track 11: 2 true, 2 missed, 2 others.
    assert m.idf1 == pytest.approx(2 * 2 / (4 + 4))
    assert find_mistakes(frames) == [TrackMistake("switch", 2, 0, 1, (10, 11))]


def test_fragments_are_gaps_of_objects_that_were_there() -> None:
    frames = frames_of([[1], [1], [1], [], [1]], [[10], [], [10], [], [10]])
    assert find_mistakes(frames) == [TrackMistake("fragment", 2, 0, 1, (10, 10))]


@pytest.mark.parametrize(("name", "mota", "idf1"), [("TUD-Campus", 52.6, 55.8), ("TUD-Stadtmitte", 56.4, 64.5)])
def test_the_known_answers_of_tud(name: str, mota: float, idf1: float, capsys: pytest.CaptureFixture[str]) -> None:
    folder = motmetrics_data() / name
    assert main(["eval", str(folder), "--tracks", str(folder / "test.txt"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["combined"]
    assert round(100 * measured["mota"], 1) == mota
    assert round(100 * measured["idf1"], 1) == idf1


@pytest.mark.parametrize("seed", range(3))
def test_our_switches_are_those_that_are_counted(seed: int) -> None:
    truth = tud("TUD-Campus")
    found = noisy(truth, LEVELS["middle"], seed)
    # Ids that change often: the row in the frame.
    frames = Frames(
        truth.ids, list(truth.boxes_xyxy), [np.arange(len(f)) for f in found], [f.boxes_xyxy for f in found]
    )
    switches = [m for m in find_mistakes(frames) if m.kind == "switch"]
    assert len(switches) == measure_tracks(*frames).switches > 50


def test_what_need_not_be_found_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    # A pedestrian, one that does not count, someone on a poster (8) and a car (3).
    truth = "".join(
        f"{frame},{i},{left},11,20,40,{counts},{kind},1\n"
        for frame in (1, 2)
        for i, left, counts, kind in ((1, 11, 1, 1), (2, 41, 0, 1), (3, 71, 0, 8), (4, 101, 0, 3))
    )
    (video,) = read_sequences(write_sequence(tmp_path / "A", truth, 2, images=False))
    (tmp_path / "A.txt").write_text(
        "1,7,11,11,20,40,0.9,-1,-1,-1\n1,8,71,11,20,40,0.9,-1,-1,-1\n2,9,101,11,20,40,1,-1,-1,-1\n"
    )
    frames = compared(video, read_rows(tmp_path / "A.txt"))
    assert [ids.tolist() for ids in frames.true_ids] == [[1], [1]]
    # The track on the poster is left out, that on the car is a false one.
    assert [ids.tolist() for ids in frames.ids] == [[7], [9]]
    np.testing.assert_array_equal(frames.true_boxes[0], [[10, 10, 30, 50]])  # pixels count from 1


def test_a_folder_of_sequences_with_tables_and_strips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = "".join(f"{f},1,{20 + 5 * f},30,30,60,1,1,1\n" for f in range(1, 7))
    for name in ("A", "B"):
        write_sequence(tmp_path / "train" / name, truth, 6)
    (tmp_path / "mot").mkdir()
    perfect = truth.replace(",1,1,1\n", ",1,-1,-1,-1\n")
    (tmp_path / "mot" / "A.txt").write_text(perfect)
    switched = "".join(f"{f},{1 + (f > 3)},{20 + 5 * f},30,30,60,1,-1,-1,-1\n" for f in range(1, 7))
    (tmp_path / "mot" / "B.txt").write_text(switched)
    out = tmp_path / "out"
    assert main(["eval", str(tmp_path / "train"), "--tracks", str(tmp_path), "-o", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split()[:7] == ["A", "100.0", "100.0", "100.0", "100.0", "100.0", "0"]
    assert lines[5].split()[4:7] == ["83.3", "50.0", "1"]
    assert lines[6].split()[0] == "all"
    assert lines[6].split()[4:7] == ["91.7", "75.0", "1"]
    with (out / "mistakes.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"sequence": "B", "kind": "switch", "frame": "4", "last_found": "3", "object": "1", "track_before": "1",
             "track_after": "2"}
        ]  # fmt: skip
    assert [p.name for p in (out / "mistakes").iterdir()] == ["B.png"]
    with Image.open(out / "mistakes" / "B.png") as strip:
        pixels = np.asarray(strip).astype(int)
        # Frames of both tracks' colours are in it: orange-less blue of 1, green of 2.
        for rgb in ((86, 180, 233), (0, 158, 115)):
            assert (np.abs(pixels - rgb).max(axis=-1) < 40).sum() > 100


def test_a_model_tracks_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phidet.inference.detector.Detector", lambda *args, **_: BlobDetector(*args))
    truth = "".join(f"{f},1,{20 + 2 * f},30,30,60,1,1,1\n" for f in range(1, 21))
    folder = write_sequence(tmp_path / "A", truth, 20)
    for f in range(1, 21):
        image = np.full((120, 160, 3), 120, np.uint8)
        image[29:89, 19 + 2 * f : 49 + 2 * f] = (230, 20, 20)
        Image.fromarray(image).save(folder / "img1" / f"{f:06d}.png")
    assert main(["eval", str(folder), "-m", "m.onnx", "--tracks", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["combined"]
    # All but the first frame, in which the track has no id yet.
    assert measured["mota"] == pytest.approx(0.95)
    assert (measured["switches"], measured["misses"], measured["tracks"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1700000000.5,1,5,5,10,10\n", r"x\.txt, line 1: expected frame, id"),  # a time
        ("1,1,5,5,10\n", r"x\.txt, line 1: expected frame, id, left, top, width, height, …, got '1,1,5,5,10'"),
        ("1,1,1,1,1,1\n\n0,1,1,1,1,1\n", r"x\.txt, line 3"),
        ("a,b,c,d,e,f\n", "line 1"),
        ("1,1,1,1,-5,1\n", "line 1"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / "x.txt")


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sequence(tmp_path / "A", "1,1,1,1,10,10,1,1,1\n", 2, images=False)
    (tmp_path / "A.txt").write_text("3,1,1,1,10,10,1,-1,-1,-1\n")
    for arguments, code, message in (
        ([str(tmp_path / "A.txt"), "--tracks", "x"], 3, "there are no MOTChallenge sequences in"),
        ([str(folder), "--tracks", str(tmp_path)], 3, "the tracks go to frame 3, A has 2: of another video?"),
        ([str(folder), "--tracks", str(folder)], 3, "there are no tracks for A in"),
        ([str(folder), "--tracks"], 2, "say on which data and which tracks to measure"),
        ([str(folder), "-m", "person", "--tracks"], 3, "has no images to track in"),
    ):
        assert main(["eval", *arguments]) == code
        assert message in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "all" / "A")
    shutil.copytree(folder, tmp_path / "all" / "B")
    assert main(["eval", str(tmp_path / "all"), "--tracks", str(tmp_path / "A.txt")]) == 2
    assert "is one file, and" in capsys.readouterr().err


def test_ids_must_be_alone_in_a_frame() -> None:
    with pytest.raises(InputError, match=r"frame 0 has an id twice: \[1, 1\]"):
        measure_tracks([np.array([1])], [BOX], [np.array([1, 1])], [np.concatenate((BOX, BOX))])
