"""Detections as tables and files: what leaves comes back, to the last bit where the form can hold it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phidet
from phidet.core.errors import InputError, MissingExtraError
from phidet.detections.detections import Detections
from phidet.detections.masks import Masks
from phidet.detections.results import ImageResult, read_results
from phidet.detections.sinks import open_sinks
from phidet.images.sources import SourceImage, Unusable

NAMES = ("person", "tram, stop", "Straße", "12")
SIZE = (60, 80)
Make = Callable[[np.random.Generator, int], Any]
FIELDS: dict[str, Make] = {
    "track_id": lambda rng, n: rng.integers(1, 2**40, n),
    "speed": lambda rng, n: rng.random(n).astype(np.float32),
    "exact": lambda rng, n: rng.random(n),
    "half": lambda rng, n: rng.random(n).astype(np.float16),
    "count": lambda rng, n: rng.integers(0, 255, n).astype(np.uint8),
    "moving": lambda rng, n: rng.random(n) < 0.5,
    "word": lambda rng, n: np.array(["", "a", "ß,\n", '"'])[rng.integers(0, 4, n)],
    "points": lambda rng, n: rng.random((n, 3, 2)).astype(np.float32),
    "embedding": lambda rng, n: rng.random((n, 5)),
    "anything": lambda rng, n: _objects([[{"k": [i, None]}, [1, 2], "x", None, 7.5][i % 5] for i in range(n)]),
}
"""A field of each kind."""


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def some(seed: int, count: int, fields: list[str], masks: bool, named: bool = True) -> Detections:
    rng = np.random.default_rng(seed)
    corners = (rng.random((count, 2)) * (40, 30)).astype(np.float32)
    boxes = np.concatenate([corners, corners + (rng.random((count, 2)) * 30).astype(np.float32)], axis=1)
    columns: dict[str, Any] = {name: FIELDS[name](rng, count) for name in fields}
    if masks:
        columns["masks"] = Masks.from_full(rng.random((count, *SIZE)) < 0.2)
    names = NAMES if named else ()
    return Detections(boxes, rng.random(count), rng.integers(0, 4, count), names, SIZE, columns)


found_ones = st.builds(
    some,
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 6),
    fields=st.lists(st.sampled_from(sorted(FIELDS)), unique=True),
    masks=st.booleans(),
    named=st.booleans(),
)
FORMS: dict[str, tuple[str, Callable[[Detections], Detections]]] = {
    "pandas": ("pandas", lambda found: Detections.from_pandas(found.to_pandas())),
    "arrow": ("pyarrow", lambda found: Detections.from_arrow(found.to_arrow())),
    "polars": ("polars", lambda found: Detections.from_polars(found.to_polars(), found.names, SIZE)),
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(found=found_ones)
def test_a_table_comes_back_bit_for_bit(form: str, found: Detections) -> None:
    package, there_and_back = FORMS[form]
    pytest.importorskip(package)
    back = there_and_back(found)
    assert back == found
    for name, values in found.fields.items():
        if isinstance(values, np.ndarray) and len(found):
            assert back.fields[name].dtype.kind == values.dtype.kind  # type: ignore[union-attr]


def test_tables_have_one_row_for_each_object_and_plain_columns() -> None:
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    polars = pytest.importorskip("polars")
    found = Detections(
        np.array([[1, 2, 3, 4.5], [0, 0, 9, 9]]), np.array([0.9, 0.5]), np.array([1, 0]), NAMES, SIZE,
        {"track_id": np.array([7, 8])},
    )  # fmt: skip
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["x1", "y1", "x2", "y2", "score", "class_id", "label", "track_id"]
    assert frame.iloc[0].to_dict() == {
        "x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.5, "score": pytest.approx(0.9), "class_id": 1,
        "label": "tram, stop", "track_id": 7,
    }  # fmt: skip
    table = found.to_arrow()
    assert table.schema.field("x1").type == pyarrow.float32()
    assert table.schema.field("label").type == pyarrow.string()
    assert found.to_polars().filter(polars.col("score") > 0.6)["track_id"].to_list() == [7]
    # What people do with a table leaves detections.
    assert Detections.from_pandas(frame[frame.score < 0.6]) == found[1:]
    assert Detections.from_arrow(pyarrow.concat_tables([table, table.slice(0, 1)])).scores.tolist() == [
        pytest.approx(0.9), pytest.approx(0.9), 0.5,
    ]  # fmt: skip


@settings(max_examples=25)
@given(a=found_ones, seed=st.integers(0, 99))
def test_the_type_of_a_table_does_not_depend_on_what_was_found(a: Detections, seed: int) -> None:
    pytest.importorskip("pyarrow")
    other = some(seed, 3, [name for name in a.fields if name != "masks"], a.masks is not None)
    assert a.to_arrow().schema.equals(other.to_arrow().schema)


def test_a_table_of_somebody_else_needs_boxes_and_classes() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x1": [1.0], "y1": [2.0], "x2": [3.0], "y2": [4.0], "label": ["dog"], "note": ["x"]})
    found = Detections.from_pandas(frame, ["cat", "dog"], SIZE)
    assert (found.labels, found.scores.tolist(), found.class_ids.tolist()) == (["dog"], [1.0], [1])
    assert found.fields["note"].tolist() == ["x"]  # type: ignore[union-attr]
    assert Detections.from_pandas(frame).names == ("dog",)
    # As detections.csv of several images is read.
    both = pandas.concat([frame.assign(source="a.jpg"), frame.assign(source="b.jpg")])
    with pytest.raises(InputError, match="expected the objects of one image, got 2 values of source: select the rows"):
        Detections.from_pandas(both)
    assert len(Detections.from_pandas(both[both.source == "a.jpg"])) == len(frame)
    with pytest.raises(InputError, match="expected the labels cat, got dog"):
        Detections.from_pandas(frame, ["cat"])
    with pytest.raises(InputError, match="expected a table with the columns x1, y1, x2, y2 and class_id or label, got"):
        Detections.from_pandas(frame.drop(columns="y2"))


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("pandas", "pandas", Detections.to_pandas),
        ("pyarrow", "arrow", Detections.to_arrow),
        ("polars", "polars", Detections.to_polars),
    ],
)
def test_without_a_package_its_extra_is_named(
    package: str, extra: str, make: Callable[[Detections], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"^Detections.to_{extra} needs .*pip install 'phidet\[{extra}\]'"):
        make(Detections.empty())


def test_what_has_no_type_in_a_table_is_named() -> None:
    pytest.importorskip("pyarrow")
    found = some(0, 2, [], False).with_fields({"wave": np.zeros(2, np.complex128)})
    with pytest.raises(InputError, match="the field 'wave', of complex128, has no type in Arrow"):
        found.to_arrow()


# Files

KINDS = {
    "json": "detections.jsonl",
    "coco": "coco-results.json",
    "csv": "detections.csv",
    "parquet": "detections.parquet",
}
BROKEN = Unusable("in/b.jpg", InputError("in/b.jpg is damaged"))


def picture(name: str, frame: int | None = None) -> SourceImage:
    time_s = None if frame is None else frame / 8
    return SourceImage(f"in/{name}", PurePosixPath(name), np.zeros((*SIZE, 3), np.uint8), frame, time_s)


def written(kind: str, out: Path, items: list[tuple[SourceImage, Detections] | Unusable]) -> list[ImageResult]:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    [sink] = open_sinks([kind], out, NAMES)
    for item in items:
        if isinstance(item, Unusable):
            sink.skip(item)
        else:
            sink.add(*item)
    sink.keep()
    return list(read_results(out / KINDS[kind]))


@pytest.mark.parametrize("kind", ["json", "parquet"])
@settings(max_examples=30)
@given(data=st.data())
def test_files_say_again_what_was_found(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = [data.draw(found_ones) for _ in range(data.draw(st.integers(0, 4)))]
    found = [one.with_fields({}) if one.names else Detections.from_coco(one.to_coco(1), NAMES, SIZE) for one in found]
    items: list[Any] = [(picture("v.mp4", i), one) for i, one in enumerate(found)] + [BROKEN]
    read = written(kind, tmp_path_factory.mktemp("out"), items)
    assert [(r.source, r.frame, r.time_s, r.error) for r in read] == [
        *(("in/v.mp4", i, i / 8, None) for i in range(len(found))),
        ("in/b.jpg", None, None, "in/b.jpg is damaged"),
    ]
    for result, one in zip(read, found, strict=False):
        assert result.detections.to_dict() == one.to_dict()  # floats to the last bit, and every field
        assert result.detections.masks == (one.masks if len(one) else None)
        if kind == "parquet":
            assert result.detections.names == NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_recognised(kind: str, tmp_path: Path) -> None:
    one, two = some(1, 3, [], False), some(2, 1, [], False)
    items: list[Any] = [(picture("a,b.jpg"), one), (picture("n.jpg"), Detections.empty(NAMES, SIZE)), BROKEN]
    read = {r.source: r for r in written(kind, tmp_path, [*items, (picture("v.mp4", 3), two)])}
    assert read.keys() >= {"in/a,b.jpg", "in/v.mp4"}
    assert ("in/n.jpg" in read) == (kind != "csv")  # a table of objects has no rows for images without
    assert read["in/v.mp4"].frame == 3
    for source, found in (("in/a,b.jpg", one), ("in/v.mp4", two)):
        back = read[source].detections
        assert (back.labels, back.image_size_hw) == (found.labels, SIZE)
        assert back.scores.tolist() == found.scores.tolist()
        np.testing.assert_allclose(back.boxes_xyxy, found.boxes_xyxy, atol=1e-4 if kind == "coco" else 0)
    assert phidet.read_results is read_results


def test_results_of_one_image_of_other_tools_and_of_folders(tmp_path: Path) -> None:
    found = some(3, 2, ["track_id"], True)
    (tmp_path / "one.json").write_text(found.to_json())
    (tmp_path / "lines.json").write_text(json.dumps(json.loads(found.to_json()), indent=1))
    (tmp_path / "list.json").write_text(f"[{found.to_json()},{found.to_json()}]")
    for name, count in (("one.json", 1), ("lines.json", 1), ("list.json", 2)):
        read = list(read_results(tmp_path / name))
        assert [r.detections.to_dict() for r in read] == [found.to_dict()] * count
    (tmp_path / "theirs.json").write_bytes(msgspec.json.encode(found.to_coco(42)))
    [result] = read_results(str(tmp_path / "theirs.json"))
    assert result.source == "42"
    assert result.detections.masks == found.masks
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert list(read_results(tmp_path / "empty.jsonl")) == []
    pytest.importorskip("pyarrow")
    for part in ("b", "a"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        written("parquet", tmp_path / "parts" / part, [(picture(f"{part}.jpg"), found)])
    assert [r.source for r in read_results(tmp_path / "parts")] == ["in/a.jpg", "in/b.jpg"]


def test_what_phidet_did_not_write_is_said(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.txt", b"hello", "is not what phidet writes: expected JSON"),
        ("a.jsonl", b'{"source": "x"}\n', "a.jsonl is damaged, or phidet did not write it: 'detections' is missing"),
        ("b.jsonl", b'{"source": "x"', "b.jsonl is damaged"),
        ("c.json", b'[{"bbox": [1, 2, 3]}]', "c.json is damaged"),
        ("d.csv", b"source,frame,time_s\na,,\n", "'x1' is missing"),
        ("e.parquet", b"PAR1....PAR1", "e.parquet is damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        with pytest.raises(InputError, match=message):
            list(read_results(tmp_path / name))
    with pytest.raises(InputError, match=r"cannot read .*nothing\.json: No such file"):
        read_results(tmp_path / "nothing.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="expected Parquet files in"):
        read_results(tmp_path / "folder")
    with pytest.raises(InputError, match="expected a file or folder of this machine, got s3://bucket/found: copy it"):
        read_results("s3://bucket/found")


def test_parquet_is_whole_or_not_there_and_large_files_come_in_parts(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    [sink] = open_sinks(["parquet"], tmp_path, NAMES)
    found = some(4, 1, [], False)
    for i in range(2_500):
        sink.add(picture("v.mp4", i), found)
    path = tmp_path / "detections.parquet"
    assert not path.exists()
    assert sink.keep().endswith("detections.parquet (2,500 images)")
    with parquet.ParquetFile(path) as file:
        assert file.num_row_groups == 3
    assert [r.frame for r in read_results(path)] == list(range(2_500))
    [sink] = open_sinks(["parquet"], tmp_path / "other", NAMES)
    sink.add(picture("a.jpg"), found)
    sink.discard()
    assert list((tmp_path / "other").iterdir()) == []
