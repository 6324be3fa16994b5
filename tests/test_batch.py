"""Batches: every image is a row, once, whatever happens in between."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import phidet
from blobs import BlobDetector, painted
from conftest import slowly
from phidet.cli.main import main
from phidet.core.errors import ConfigError, InputError, PhidetError
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings
from ports import reserved_port
from processed import Log, numbered, wait_until_gone, write_parts

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

from phidet.inference.batch import (  # noqa: E402
    BatchWorker,
    places,
    worker,
)
from phidet.inference.batch import parts as parts_of  # noqa: E402
from phidet.inference.batch import run as runs  # noqa: E402
from phidet.inference.batch.parts import Columns, Part, Wanted  # noqa: E402
from phidet.inference.batch.run import Done, Job, Model, PartWorker, Resources, Summary, prepare  # noqa: E402

ONE = Resources(1, 1)
NOTHING = b"this is no image"


def encoded(number: int) -> bytes:
    """An image with an object whose left side tells the number."""
    file = io.BytesIO()
    Image.fromarray(painted(40, 200, ((10 + number, 5, 160, 30), number % 2))).save(file, "PNG")
    return file.getvalue()


class Blobs(BlobDetector):
    """In the place of :class:`phidet.Detector`."""

    def __init__(
        self, model: Any = "person", *, runtime: str = "auto", threads: int | None = None, exact: bool = False
    ) -> None:
        super().__init__(model, runtime=runtime, threads=threads)


@pytest.fixture(autouse=True)
def blob_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, what detects is exact and quick."""
    monkeypatch.setattr(worker, "Detector", Blobs)


def serial(model: Model, jobs: Sequence[Job], resources: Resources) -> Iterator[Done]:
    """An engine without processes."""
    doer = PartWorker(json.dumps(json.loads(_json(model))), resources.threads, resources.batch)
    for job in jobs:
        yield json_done(doer(_json(job)))


def _json(value: Any) -> str:
    import msgspec  # noqa: PLC0415

    return msgspec.json.encode(value).decode()


def json_done(text: str) -> Done:
    import msgspec  # noqa: PLC0415

    return msgspec.json.decode(text, type=Done)


def detect(source: object, out: object, model: Model | None = None, wanted: Wanted | None = None) -> Summary:
    pending = prepare(str(source), str(out), model or Model(), wanted or Wanted(part_size=4))
    return runs.run(pending, serial, ONE, lambda _: None)


def rows_of(out: object) -> list[dict[str, Any]]:
    """All rows in the order of files."""
    place = places.place_of(str(out))
    rows = []
    for name in places.files_below(place):
        with places.open_file(place.file(name)) as file:
            rows += parquet.read_table(file).to_pylist()
    return rows


def check(rows: Sequence[dict[str, Any]], count: int, bad: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Whether every image is there once, in order, with what is painted in it."""
    assert [int(Path(str(row["id"])).stem) for row in rows] == list(range(count))
    for i, row in enumerate(rows):
        if i in bad:
            assert row["error"]
            assert (row["detections"], row["image_width"]) == ([], None)
            continue
        assert row["error"] is None
        assert (row["image_width"], row["image_height"]) == (200, 40)
        [found] = row["detections"]
        assert [found[side] for side in ("x1", "y1", "x2", "y2")] == [10 + i, 5, 160, 30]
        assert found["label"] == ("person", "dog")[i % 2]
        assert (row["model"], len(row["version"])) == ("person", 16)


# Inputs


def as_parquet(folder: Path, contents: list[bytes]) -> Path:
    folder.mkdir()
    for start in range(0, len(contents), 5):
        ids = list(range(start, min(start + 5, len(contents))))
        table = pa.table({"note": ["x"] * len(ids), "id": ids, "image": pa.array([contents[i] for i in ids])})
        parquet.write_table(table, folder / f"{start:03d}.parquet")
    return folder


def as_addresses(folder: Path, contents: list[bytes]) -> Path:
    folder.mkdir()
    for i, content in enumerate(contents):
        (folder / f"{i}.bin").write_bytes(content)
    names = [f"{i}.bin" if i % 2 else str(folder / f"{i}.bin") for i in range(len(contents))]
    parquet.write_table(pa.table({"id": list(range(len(contents))), "path": names}), folder / "all.parquet")
    return folder / "all.parquet"


def as_hugging_face(folder: Path, contents: list[bytes]) -> Path:
    folder.mkdir()
    values = [{"bytes": content, "path": None} for content in contents]
    table = pa.table({"image": values, "id": [str(i) for i in range(len(contents))]})
    parquet.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=4)
    return folder


def as_tars(folder: Path, contents: list[bytes]) -> Path:
    folder.mkdir()
    for start in range(0, len(contents), 6):
        with tarfile.open(folder / f"{start:03d}.tar", "w") as tar:
            for i in range(start, min(start + 6, len(contents))):
                for ending, content in (("json", b"{}"), ("png", contents[i]), ("cls", b"1")):
                    member = tarfile.TarInfo(f"{i:03d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder / "*.tar"


def as_lance(folder: Path, contents: list[bytes]) -> Path:
    lance = pytest.importorskip("lance", reason="no pylance here: pip install 'phidet[lance]'")
    table = pa.table({"id": list(range(len(contents))), "image": pa.array(contents, pa.binary())})
    lance.write_dataset(table, str(folder / "data.lance"), max_rows_per_file=5)
    return folder / "data.lance"


def as_images(folder: Path, contents: list[bytes]) -> Path:
    for i, content in enumerate(contents):
        path = folder / str(i // 7) / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_linked_images_are_images(tmp_path: Path) -> None:
    folder = as_images(tmp_path / "real", [encoded(i) for i in range(3)])
    linked = tmp_path / "linked"
    linked.mkdir()
    for i, path in enumerate(sorted(folder.rglob("0*.png"))):
        (linked / f"{i}.png").symlink_to(path)
    (linked / "gone.png").symlink_to(tmp_path / "nowhere.png")
    detect(linked, tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 3


def test_a_name_that_is_no_utf_8_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = as_images(tmp_path / "in", [encoded(i) for i in range(3)])
    (folder / "b\udce9.png").write_bytes(encoded(3))
    detect(folder, tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 3
    assert "left out: b\ufffd.png has a name that is no UTF-8" in caplog.text


@pytest.mark.parametrize("write", [as_parquet, as_addresses, as_hugging_face, as_tars, as_lance, as_images])
def test_every_image_is_a_row_with_what_is_in_it(write: Any, tmp_path: Path) -> None:
    contents = [encoded(i) for i in range(17)]
    contents[3], contents[16] = NOTHING, contents[16][:60]
    source = write(tmp_path / "in", contents)
    summary = detect(source, tmp_path / "out")
    check(rows_of(tmp_path / "out"), 17, {3, 16})
    assert (summary.images, summary.errors, summary.objects, summary.skipped) == (17, 2, 15, 0)
    assert summary.parts == len(list((tmp_path / "out").rglob("*.parquet")))
    again = detect(source, tmp_path / "out")
    assert (again.parts, again.skipped, again.images) == (0, summary.parts, 0)
    results = list(phidet.read_results(tmp_path / "out"))
    assert [bool(r.error) for r in results] == [i in (3, 16) for i in range(17)]
    assert results[0].detections.names == ("person", "dog")


def test_an_object_store_is_read_and_written_with_one_put_for_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = fsspec.filesystem("memory")
    for i in range(9):
        fs.pipe_file(f"/bucket/in/{i:03d}.png", encoded(i))
    puts: list[str] = []
    pipe = fs.pipe_file
    monkeypatch.setattr(fs, "pipe_file", lambda path, *args, **more: (puts.append(path), pipe(path, *args, **more)))
    try:
        assert detect("memory://bucket/in", "memory://bucket/out").parts == 3
        check(rows_of("memory://bucket/out"), 9)
        names = [f"/bucket/out/{name}" for name in ("_phidet.json", *(f"part-0000{i}.parquet" for i in range(3)))]
        assert puts == names
        assert detect("memory://bucket/in", "memory://bucket/out").skipped == 3
        with pytest.raises(ConfigError, match=r"memory://bucket/out has results of another score: 0\.3, now 0\.5"):
            detect("memory://bucket/in", "memory://bucket/out", Model(settings=PostprocessSettings(score=0.5)))
    finally:
        fs.rm("/bucket", recursive=True)


def test_ids_keep_their_type_and_columns_may_be_named(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([0, 1], pa.uint16()), "b": pa.array([encoded(0), encoded(1)], pa.large_binary())})
    parquet.write_table(table, tmp_path / "in.parquet")
    detect(tmp_path / "in.parquet", tmp_path / "out", wanted=Wanted(id="a"))
    read = parquet.read_table(tmp_path / "out" / "in.parquet")
    assert read.schema.field("id").type == pa.uint16()
    check(read.to_pylist(), 2)
    for wanted, message in (
        (Wanted(), r"which column has the id \(--id COLUMN\)\? there are a, b"),
        (Wanted(id="c"), "there is no column 'c': expected one of a, b"),
    ):
        with pytest.raises(ConfigError, match=message):
            detect(tmp_path / "in.parquet", tmp_path / "other", wanted=wanted)
    assert not (tmp_path / "other").exists()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(1, 60))
def test_row_groups_are_shared_out_once_each_in_runs_that_are_large_enough(rows: list[int], least: int) -> None:
    found = list(parts_of._runs(rows, least))
    assert [i for start, stop in found for i in range(start, stop)] == list(range(len(rows)))
    if len(found) > 1:
        assert all(sum(rows[start:stop]) >= least for start, stop in found)


def test_large_files_become_several_parts(tmp_path: Path) -> None:
    table = pa.table({"id": list(range(20)), "image": [encoded(i) for i in range(20)]})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    detect(tmp_path / "in.parquet", tmp_path / "out", wanted=Wanted(part_size=6))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "in-00000.parquet", "in-00002.parquet", "in-00004.parquet",
    ]  # fmt: skip
    check(rows_of(tmp_path / "out"), 20)


def test_what_cannot_be_an_input_is_said(tmp_path: Path) -> None:
    mixed = as_images(tmp_path / "mixed", [encoded(0)])
    (mixed / "a.tar").write_bytes(b"")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    for source, kind, message in (
        (tmp_path / "nowhere", InputError, "there is nothing at .*nowhere: expected Parquet files, tars, a Lance"),
        (tmp_path / "text", InputError, "text holds 1 files, but no Parquet files, tars or images"),
        (mixed, InputError, r"mixed holds 1 of tar, 1 of images: name those of one kind with a pattern"),
        (tmp_path / "bad.parquet", InputError, r"cannot read .*bad\.parquet"),
        ("nosuch://bucket/x", ConfigError, "cannot open nosuch://bucket/x: Protocol not known"),
    ):
        with pytest.raises(kind, match=message):
            detect(source, tmp_path / "out")
    with pytest.raises(ConfigError, match="columns are of Parquet and Lance"):
        detect(as_images(tmp_path / "images", [encoded(0)]), tmp_path / "out", wanted=Wanted(id="x"))
    assert not (tmp_path / "out").exists()


# What happens in between


def test_a_changed_model_setting_or_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = as_images(tmp_path / "in", [encoded(i) for i in range(6)]), tmp_path / "out"
    detect(source, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    changed = (
        (Model(settings=PostprocessSettings(iou=0.4)), Wanted(part_size=4), r"another iou: 0\.5, now 0\.4"),
        (Model(settings=PostprocessSettings(classes=("dog",))), Wanted(part_size=4), "another classes: None, now"),
        (Model(tile=128), Wanted(part_size=4), "another tile: None, now 128"),
        (Model(), Wanted(part_size=3), "another part_size: 4, now 3"),
    )
    for model, wanted, message in changed:
        with pytest.raises(ConfigError, match=message):
            detect(source, out, model, wanted)
    with monkeypatch.context() as other:
        other.setattr(runs, "model_version", lambda *_: "0123456789abcdef")
        with pytest.raises(ConfigError, match=r"another version of the model: .*, now '0123456789abcdef'"):
            detect(source, out)
    with pytest.raises(ConfigError, match="another input: "):
        detect(as_images(tmp_path / "in2", [encoded(i) for i in range(6)]), out)
    (source / "0" / "0001.png").write_bytes(encoded(1))  # it would move all later ones into other parts
    with pytest.raises(InputError, match=r"in has changed since .*part-00000\.parquet was made of it"):
        detect(source, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_folders_of_others_and_the_input_itself_are_not_written_to(tmp_path: Path) -> None:
    source = as_images(tmp_path / "in", [encoded(0)])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.csv").write_text("mine")
    with pytest.raises(ConfigError, match="mine holds files that phidet batch did not write"):
        detect(source, tmp_path / "mine")
    for out in (source, source / "found"):
        with pytest.raises(ConfigError, match="lies in the input"):
            detect(source, out)


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = as_images(tmp_path / "in", [encoded(i) for i in range(12)]), tmp_path / "out"
    pending = prepare(str(source), str(out), Model(), Wanted(part_size=4))
    sync, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 3:  # the first is _phidet.json, the second a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PhidetError, match=r"cannot write .*part-00001\.parquet: No space left on device; the same com"):
        runs.run(pending, serial, ONE, lambda _: None)
    assert sorted(path.name for path in out.iterdir()) == ["_lock", "_phidet.json", "part-00000.parquet"]
    assert detect(source, out).skipped == 1
    check(rows_of(out), 12)


def test_a_lost_worker_costs_only_the_parts_in_its_hands(tmp_path: Path) -> None:
    source, out = as_images(tmp_path / "in", [encoded(i) for i in range(20)]), tmp_path / "out"
    tries: list[int] = []

    def losing(model: Model, jobs: Sequence[Job], resources: Resources) -> Iterator[Done]:
        tries.append(len(jobs))
        for number, done in enumerate(serial(model, jobs, resources)):
            if number == 2:
                raise RuntimeError("the worker is gone\nand more")
            yield done

    pending = prepare(str(source), str(out), Model(), Wanted(part_size=4))
    summary = runs.run(pending, losing, ONE, lambda _: None)
    # The third part of each try is written, but nobody hears of it: it is there, and not done again.
    assert tries == [5, 3, 1]
    assert (summary.parts, summary.skipped) == (3, 2)
    check(rows_of(out), 20)


def test_workers_that_are_always_lost_end_the_run(tmp_path: Path) -> None:
    source, out = as_images(tmp_path / "in", [encoded(i) for i in range(8)]), tmp_path / "out"

    def lost(model: Model, jobs: Sequence[Job], resources: Resources) -> Iterator[Done]:
        raise RuntimeError("gone")
        yield Done(name="")

    pending = prepare(str(source), str(out), Model(), Wanted(part_size=4))
    with pytest.raises(PhidetError, match="workers are lost again and again, 2 parts are not done: part-00000, part-0"):
        runs.run(pending, lost, ONE, lambda _: None)


def test_a_second_start_at_the_same_time(tmp_path: Path) -> None:
    source, out = as_images(tmp_path / "in", [encoded(i) for i in range(12)]), tmp_path / "out"
    first, second = (prepare(str(source), str(out), Model(), Wanted(part_size=4)) for _ in range(2))

    def starting_another(summary: Summary) -> None:
        if summary.parts == 1:
            with pytest.raises(ConfigError, match="another phidet batch is writing to"):
                detect(source, out)

    assert runs.run(first, serial, ONE, starting_another).parts == 3
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    late = runs.run(second, serial, ONE, lambda _: None)  # planned before the first one began
    assert (late.parts, late.skipped) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == before
    check(rows_of(out), 12)


def test_two_runs_at_once_in_an_object_store_give_the_same_rows() -> None:
    fs = fsspec.filesystem("memory")
    for i in range(12):
        fs.pipe_file(f"/two/in/{i:03d}.png", encoded(i))
    try:
        pair = [prepare("memory://two/in", "memory://two/out", Model(), Wanted(part_size=4)) for _ in range(2)]
        other = iter(serial(pair[1].about.detection, pair[1].jobs, ONE))
        summary = runs.run(pair[0], serial, ONE, lambda _: next(other, None))
        assert summary.parts + summary.skipped == 3
        check(rows_of("memory://two/out"), 12)
        changed = Model(settings=PostprocessSettings(score=0.5))
        third = pair[0]._replace(
            about=runs.About(input="memory://two/in", detection=changed, columns=None, part_size=4)
        )
        with pytest.raises(ConfigError, match="another"):  # whoever comes second sees what the first one chose
            runs.run(third, serial, ONE, lambda _: None)
    finally:
        fs.rm("/two", recursive=True)


def test_what_killed_processes_left_is_removed_and_never_read(tmp_path: Path) -> None:
    source, out = as_images(tmp_path / "in", [encoded(i) for i in range(8)]), tmp_path / "out"
    out.mkdir()
    left = out / ".part-00000.parquet.0123.part"
    left.write_bytes(b"half")
    detect(source, out)
    assert not left.exists()
    check(rows_of(out), 8)


@pytest.mark.parametrize("cut", [0, 512, 1_300, 2_048, 6_000, -10_000])
def test_a_part_that_cannot_be_read_is_named_and_tried_again(
    cut: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = as_tars(tmp_path / "in", [encoded(i) for i in range(18)])
    middle = tmp_path / "in" / "006.tar"
    whole = middle.read_bytes()
    middle.write_bytes(whole[:cut])
    monkeypatch.setattr("phidet.inference.batch.engine.daft_engine", serial)
    pytest.importorskip("daft")
    command = ["batch", str(source), str(tmp_path / "out")]
    assert main(command) == 3
    printed = capsys.readouterr()
    assert "12 images in 2 parts, 12 objects, 0 images with errors" in printed.out
    assert "006: cannot read" in printed.err
    assert "1 part not done: the same command tries again" in printed.err
    middle.write_bytes(whole)
    assert main(command) == 0
    check(rows_of(tmp_path / "out"), 18)


# The worker


def test_a_worker_is_small_to_pickle_and_gives_back_what_it_gets() -> None:
    made: list[BlobDetector] = []
    one = BatchWorker("person", threads=2)
    table = pa.table({"id": [0, 1], "image": [encoded(0), encoded(1)]})
    result = one(table)
    check(result.to_pylist(), 2)
    again = pickle.loads(pickle.dumps(one))
    assert len(pickle.dumps(one)) < 2_000
    assert again._detector is None
    assert again(table).equals(result)
    [batch] = table.to_batches()
    assert pa.Table.from_batches([again(batch)]).equals(result)
    pytest.importorskip("pandas")
    frame = again(table.to_pandas(), Columns("id", "image"))
    assert frame["id"].tolist() == [0, 1]
    assert frame["detections"][1][0]["label"] == "dog"
    assert made == []


def test_images_that_a_detector_refuses_and_rows_without_are_rows_with_errors(tmp_path: Path) -> None:
    unlucky = io.BytesIO()
    Image.fromarray(np.zeros((13, 13, 3), np.uint8)).save(unlucky, "PNG")
    rows = [encoded(0), None, unlucky.getvalue(), encoded(3), b"", "https://phidet.example/x.jpg", str(tmp_path / "no")]
    contents = parts_of.contents_of(pa.array(rows[:5], pa.binary())) + rows[5:]
    os.environ["PHIDET_OFFLINE"] = "1"
    try:
        found = list(BatchWorker("person", batch=3).detect(contents))
    finally:
        del os.environ["PHIDET_OFFLINE"]
    assert [isinstance(one, Detections) for one in found] == [True, False, False, True, False, False, False]
    assert [str(found[i]).partition(":")[0] for i in (1, 2, 4, 5)] == [
        "the row has no image", "expected a luckier picture", "the row has no image",
        "https",
    ]  # fmt: skip
    assert "cannot read" in str(found[6])


def test_another_model_of_that_name_is_refused_by_the_worker() -> None:
    with pytest.raises(InputError, match=r"the model person on this machine has version .*, expected 0000: copy the"):
        list(BatchWorker("person", version="0000").detect([encoded(0)]))
    done = PartWorker(_json(Model(version="0000")), 1, 1).do(
        Job(part=Part("a", "images", "/nowhere", "0"), columns=None, out="/nowhere/a.parquet")
    )
    assert done.is_fatal
    assert "expected 0000" in (done.error or "")


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "usable_cores", lambda: 8)
    cases = {(40, None, None): (8, 1), (3, None, None): (3, 2), (40, 2, None): (2, 4), (40, None, 4): (2, 4),
             (0, None, None): (1, 8), (40, 16, None): (16, 1), (40, 3, 1): (3, 1)}  # fmt: skip
    for given_, wanted in cases.items():
        assert runs.shares(*given_) == wanted


# The command


def phidet_batch(*words: object, log: Log | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} if log is None else log.environment()
    return subprocess.Popen(
        [sys.executable, "-m", "phidet.cli.main", "batch", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = as_parquet(tmp_path / "in", [encoded(i) for i in range(17)])
    assert main(["batch", str(source), str(tmp_path / "out"), "--dry-run", "--workers", "3", "--threads", "2"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{source}: Parquet, id in 'id', image in 'image'; 4 parts, 0 done before"
    assert second.startswith("to do: 4 parts, 17 images, in 3 processes, 2 threads each, with person, version ")
    assert not (tmp_path / "out").exists()


def test_without_daft_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "daft", None)
    assert main(["batch", str(tmp_path), str(tmp_path / "out")]) == 6
    assert "pip install 'phidet[batch]'" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ray://127.0.0.1:{}", "127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_said(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("daft")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # it is not asked
    source = as_images(tmp_path / "in", [encoded(0)])
    with reserved_port() as port:
        named = address.format(port)
        assert main(["batch", str(source), str(tmp_path / "out"), "--cluster", named]) == 2
    said = capsys.readouterr().err
    assert f"there is no Ray cluster at {named}: " in said
    assert "Connection refused" in said


@pytest.mark.parametrize("moments", [(9,), *slowly((9, 26))], ids=["once", "twice"])
def test_killed_and_started_again_every_row_is_there_once(moments: tuple[int, ...], tmp_path: Path) -> None:
    """The small form of ``benchmarks/batch.py``: killed with -9 at moments that the images tell."""
    pytest.importorskip("daft")
    images = 24 * len(moments)
    write_parts(tmp_path / "in", numbered(images), images // 4)
    log = Log(tmp_path / "log")
    in_flight: set[int] = set()
    for begun in moments:
        with phidet_batch(tmp_path / "in", tmp_path / "out", "--workers", 2, log=log) as command:
            while log.count() < begun:
                assert command.poll() is None, command.stdout.read() if command.stdout else ""
                time.sleep(0.01)  # leaves the processor to the workers
            command.kill()
            command.wait()
            wait_until_gone(command.pid)  # workers end with it, a moment later; what they began by then is in flight
        written = {path.name for path in (tmp_path / "out").glob("in-*.parquet")}
        in_flight |= {one.number // 4 for one in log.read() if f"in-{one.number // 4:03d}.parquet" not in written}
    with phidet_batch(tmp_path / "in", tmp_path / "out", "--workers", 2, log=log) as command:
        said, _ = command.communicate()
    assert command.returncode == 0, said
    assert [row["id"] for row in rows_of(tmp_path / "out")] == list(range(images))
    numbers = [one.number for one in log.read()]
    assert {number // 4 for number in numbers if numbers.count(number) > 1} <= in_flight
    assert set(numbers) == set(range(images))
    assert len({one.pid for one in log.read()}) <= 2 * (len(moments) + 1)
