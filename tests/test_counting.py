"""Lines and zones: crossings by hand, and objects that turn, tremble and run along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from phidet import Detections
from phidet.core.errors import ConfigError, InputError, UnknownNameError
from phidet.detections.tracking.counting import Counter, CountEvent, CountSettings
from phidet.detections.tracking.heat_map import HeatMap
from phidet.detections.tracking.places import Place, is_inside, parse_place, read_places

SIZE_HW = (200, 400)
SIDE = 20.0
DOOR = Place("door", ((100, 100), (300, 100)))
YARD = Place("yard", ((100, 50), (300, 50), (300, 150), (100, 150)))
Way = list[tuple[float, float]]


def at(*points: tuple[int, float, float], label: int = 0) -> Detections:
    """Tracks as (id, x, y), where x and y are the middle of the lower edge."""
    boxes = np.array([(x - SIDE / 2, y - SIDE, x + SIDE / 2, y) for _, x, y in points], np.float32).reshape(-1, 4)
    fields = {"track_id": np.array([i for i, _, _ in points], np.int64)}
    return Detections(boxes, np.ones(len(points)), np.full(len(points), label), ("person", "dog"), SIZE_HW, fields)


def walk(way: Way, place: Place = DOOR, margin: float = 0.1) -> list[CountEvent]:
    """Events of one object that is at each point for a tenth of a second, and of the end."""
    counter = Counter(CountSettings(places=(place,), margin=margin))
    events = [e for i, (x, y) in enumerate(way) for e in counter.update(at((1, x, y)), i / 10, SIZE_HW)]
    return events + counter.end()


def kinds(way: Way, place: Place = DOOR, margin: float = 0.1) -> list[str]:
    return [event.kind for event in walk(way, place, margin)]


def straight(start: tuple[float, float], end: tuple[float, float], steps: int = 10) -> Way:
    return [tuple(p) for p in np.linspace(start, end, steps).tolist()]


def test_down_the_image_is_in_and_up_is_out() -> None:
    down = straight((200, 60), (200, 140))
    assert kinds(down) == ["in"]
    assert kinds(down[::-1]) == ["out"]
    assert kinds(down + down[::-1]) == ["in", "out"]
    turned = Place("door", DOOR.points[::-1])
    assert kinds(down, turned) == ["out"]


def test_the_event_is_that_of_the_frame_that_leaves_the_margin() -> None:
    # The margin is 2 pixels: at 99 it is on one side still, at 101 within the margin, at 103 beyond it.
    assert walk([(200, 95), (200, 99), (200, 101), (200, 103)]) == [
        CountEvent(time_s=0.3, place="door", kind="in", track_id=1, label="person")
    ]


def test_beyond_the_ends_of_a_line_nothing_is_counted() -> None:
    assert kinds(straight((80, 60), (80, 140))) == []
    assert kinds(straight((320, 140), (320, 60))) == []
    # Diagonally past the end: both points are beside the line, the way between them is not.
    assert kinds([(90, 60), (110, 140)]) == ["in"]
    assert kinds([(60, 60), (110, 140)]) == []


def test_an_object_that_runs_along_a_line_is_not_counted() -> None:
    trembling = [(100 + 2 * i, 100 + 1.5 * (-1) ** i) for i in range(60)]
    assert kinds(trembling) == []
    assert kinds([(150, 50), *trembling, (250, 50)]) == []
    # It crosses once, however long it runs along.
    assert kinds([(150, 50), *trembling, (250, 150)]) == ["in"]
    # Without a margin every change of sides counts.
    assert len(kinds(trembling, margin=0)) == 59


def test_an_object_that_turns_on_a_line_is_not_counted() -> None:
    assert kinds([(200, 60), (200, 99), (200, 101.5), (200, 99), (200, 60)]) == []
    # Beyond the margin it was on the other side.
    assert kinds([(200, 60), (200, 99), (200, 103), (200, 99), (200, 60)]) == ["in", "out"]
    # One that begins on the line has come from nowhere.
    assert kinds([(200, 100), (200, 140)]) == []
    assert kinds([(200, 60), (200, 100), (200, 140)]) == ["in"]


def test_a_gap_in_a_track_is_a_straight_way() -> None:
    counter = Counter(CountSettings(places=(DOOR,), forget_s=1.0))
    counter.update(at((1, 200, 60)), 0.0, SIZE_HW)
    counter.update(at(), 0.5, SIZE_HW)
    assert [e.kind for e in counter.update(at((1, 210, 140)), 1.0, SIZE_HW)] == ["in"]
    counter.update(at(), 1.5, SIZE_HW)
    counter.update(at((1, 210, 60)), 2.5, SIZE_HW)  # forgotten, and back as if new
    assert counter.totals["door"]["person"].in_ == 1
    assert counter.totals["door"]["person"].out == 0


@pytest.mark.parametrize("apart_s", [0.1, 1.0, 1.1, 60.0])
def test_frames_that_are_far_apart_count_as_others_do(apart_s: float) -> None:
    """A time-lapse: an object that is seen in each frame is never lost, however long that takes."""
    counter = Counter(CountSettings(places=(DOOR, YARD), forget_s=1.0))
    for i, y in enumerate(range(40, 180, 20)):
        counter.update(at((1, 200, y)), i * apart_s, SIZE_HW)
    counter.end()
    door, yard = (counter.totals[place]["person"] for place in ("door", "yard"))
    assert (door.in_, door.out, yard.entered, yard.left) == (1, 0, 1, 1)
    assert yard.dwell_total_s == pytest.approx(4 * apart_s)  # from y = 60 to y = 140


def test_dwell_times_are_those_between_the_first_and_the_last_frame_inside() -> None:
    inside = straight((110, 100), (290, 100), 19)
    events = walk([(50, 100), (80, 100), *inside, (330, 100), (350, 100)], YARD)
    assert [(e.kind, round(e.time_s, 3)) for e in events] == [("enter", 0.2), ("leave", 2.0)]
    assert events[1].dwell_s == pytest.approx(1.8)


def test_a_zone_is_left_at_the_margin_or_with_the_track() -> None:
    # Trembling on the border is one visit; one that begins inside has entered.
    assert kinds([(298, 100), (301, 100), (299, 100), (301, 100), (297, 100), (303, 100)], YARD) == ["enter", "leave"]
    counter = Counter(CountSettings(places=(YARD,), forget_s=1.0))
    counter.update(at((7, 200, 100)), 0.0, SIZE_HW)
    assert counter.totals["yard"]["person"].inside == 1
    assert counter.update(at(), 0.9, SIZE_HW) == []
    (left,) = counter.update(at(), 1.1, SIZE_HW)
    assert (left.kind, left.track_id, left.time_s, left.dwell_s) == ("leave", 7, 0.0, 0.0)
    assert counter.totals["yard"]["person"].inside == 0
    assert counter._known == {}  # what has ended costs no memory


def test_classes_and_places_are_counted_apart() -> None:
    counter = Counter(CountSettings(places=(DOOR, YARD, Place("gate", ((0, 0.5), (1, 0.5))))))
    for i, y in enumerate((60, 99, 140)):
        counter.update(at((1, 200, y), (2, 250, y)), i / 10, SIZE_HW)
        counter.update(at((3, 150, 200 - y), label=1), i / 10, SIZE_HW)
    assert {place: {label: (t.in_, t.out, t.inside) for label, t in classes.items()} for place, classes in
            counter.totals.items()} == {
        "door": {"person": (2, 0, 0), "dog": (0, 1, 0)},
        "yard": {"person": (0, 0, 2), "dog": (0, 0, 1)},
        "gate": {"person": (2, 0, 0), "dog": (0, 1, 0)},  # shares of the image
    }  # fmt: skip


def test_the_centre_may_be_the_anchor() -> None:
    counter = Counter(CountSettings(places=(DOOR,), anchor="centre"))
    # The lower edge crosses at 100, the centre 10 pixels later.
    events = [counter.update(at((1, 200, y)), y / 100, SIZE_HW) for y in (90, 105, 109, 113)]
    assert [len(e) for e in events] == [0, 0, 0, 1]


star = [(0, 0), (100, 0), (100, 80), (60, 20), (0, 80)]  # concave


@given(st.floats(-20, 120), st.floats(-20, 100))
def test_inside_is_what_winds_around_the_point(x: float, y: float) -> None:
    polygon, point = np.array(star, np.float64), np.array((x, y))
    rays = polygon - point
    ways = np.roll(polygon, -1, axis=0) - polygon
    along = np.clip(((point - polygon) * ways).sum(1) / (ways**2).sum(1), 0, 1)
    if np.linalg.norm(polygon + along[:, None] * ways - point, axis=1).min() < 1e-3:
        return  # on the border
    following = np.roll(rays, -1, axis=0)
    turns = np.arctan2(rays[:, 0] * following[:, 1] - rays[:, 1] * following[:, 0], (rays * following).sum(1))
    assert is_inside(polygon, point) == (abs(turns.sum()) > np.pi)


@given(st.floats(0, 400), st.floats(0, 400), st.floats(0, 200), st.floats(0, 200))
def test_a_mirrored_way_over_a_mirrored_line_is_the_other_direction(x1: float, x2: float, y1: float, y2: float) -> None:
    if y1 != y2:
        meeting = x1 + (x2 - x1) * (100 - y1) / (y2 - y1)
        assume(min(abs(meeting - 100), abs(meeting - 300)) > 1e-3)  # there rounding decides
    way = straight((x1, y1), (x2, y2), 4)
    mirrored = [(400 - x, y) for x, y in way]
    door = Place("door", ((300, 100), (100, 100)))
    flipped = {"in": "out", "out": "in"}
    assert kinds(mirrored, Place("door", ((100, 100), (300, 100)))) == [flipped[k] for k in kinds(way, door)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("door", "expected NAME=x1,y1,x2,y2 for a line"),
        ("door=1,2,3", "expected NAME=x1,y1,x2,y2"),
        ("door=1,2,3,4,5", "expected NAME=x1,y1,x2,y2"),
        ("=1,2,3,4", "expected NAME=x1,y1,x2,y2"),
        ("door=a,2,3,4", "got 'door=a,2,3,4'"),
        ("door=1,2,1,2", "door: its points lie on one spot"),
        ("door=1,2,nan,2", r"door: expected finite numbers, got \(\(1\.0, 2\.0\), \(nan"),
        ("yard=0,0,0,0,1,1,2,2", "yard: its points lie on one line, .*: a zone has an area"),
        ("yard=0,0,1,1,1,0,0,1", "yard: its sides cross: give the corners in their order around the zone"),
        ("yard=0,0,4,0,2,3,2,-1,0,2", "yard: its sides cross"),
    ],
)
def test_places_of_another_form_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_place(text)


@pytest.mark.parametrize("text", ["a=0,0,4,0,4,4,2,1,0,4", "a=0,0,0.5,0,1,0,1,1", "a=0,0,1,0,1,1,0,1,0,0"])
def test_zones_may_be_hollow_have_straight_corners_and_end_where_they_began(text: str) -> None:
    assert len(parse_place(text).points) == (len(text.split(",")) + 1) // 2


def test_places_where_nothing_can_be_counted_are_named_once_a_size(caplog: pytest.LogCaptureFixture) -> None:
    places = [
        parse_place(t) for t in ("far=500,10,500,90", "tiny=0.1,0.5,1.2,0.5", "door=0.1,0.5,0.9,0.5", "b=9,0,9,9")
    ]
    counter = Counter(CountSettings(places=tuple(places)))
    for time_s, size_hw in ((0.0, SIZE_HW), (0.1, SIZE_HW), (0.2, (300, 600))):
        counter.update(at(), time_s, size_hw)
    tiny = "tiny is smaller than 3 pixels: only numbers that are all 0…1 are shares of the image"
    outside = "far lies outside of the image, 400×200 pixels: nothing is counted there"
    assert [record.message for record in caplog.records] == [outside, tiny, tiny]


def test_places_come_from_text_and_files(tmp_path: Path) -> None:
    line = parse_place("main door=0.1,0.5,0.9,0.5")
    assert (line.name, line.is_line) == ("main door", True)
    np.testing.assert_allclose(line.in_pixels((200, 400)), [[40, 100], [360, 100]])
    np.testing.assert_allclose(parse_place("z=0,0,10,0,10,10").in_pixels((200, 400)), [[0, 0], [10, 0], [10, 10]])
    (tmp_path / "places.json").write_text('{"door": [[0.1, 0.5], [0.9, 0.5]]}')
    assert read_places(tmp_path / "places.json") == [Place("door", ((0.1, 0.5), (0.9, 0.5)))]
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(InputError, match=r'bad\.json: expected \{"NAME"'):
        read_places(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="two lines or zones named 'door'"):
        CountSettings(places=(DOOR, DOOR))
    with pytest.raises(UnknownNameError, match="unknown anchor 'top'"):
        CountSettings(places=(DOOR,), anchor="top")  # type: ignore[arg-type]


def hottest(image: Image.Image) -> tuple[int, int]:
    """Column and row of the lightest colour, above the scale."""
    light: npt.NDArray[np.int_] = np.asarray(image)[: image.height // 2].astype(int).sum(axis=-1)
    y, x = np.unravel_index(light.argmax(), light.shape)
    return int(x), int(y)


def test_a_heat_map_is_hot_where_the_time_was_spent() -> None:
    heat = HeatMap()
    heat.add(np.array([[100.0, 100.0]]), 1.0, (400, 800))
    heat.add(np.array([[600.0, 100.0], [600.0, 100.0]]), 4.0, (400, 800))
    heat.add(np.array([[300.0, 50.0]]), 1.0, (200, 400))  # the stream has become smaller: the same place
    assert heat.total_s == 10.0
    drawn = heat.draw(np.full((400, 800, 3), 90, np.uint8))
    x, y = hottest(drawn)
    assert abs(x - 600) <= 4
    assert abs(y - 100) <= 4
    assert drawn.getpixel((400, 250)) == (90, 90, 90)  # where nobody was, the image is seen


@pytest.mark.parametrize("size_hw", [(1080, 1920), (60, 80), (8, 10)])
def test_the_scale_of_a_heat_map_is_the_time_that_was_spent(
    size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []
    monkeypatch.setattr("phidet.detections.tracking.heat_map._draw_scale", lambda _, most_s: scales.append(most_s))
    heat = HeatMap()
    for _ in range(100):
        heat.add(np.array([[size_hw[1] / 2, size_hw[0] / 2]]), 0.1, size_hw)  # one object stands still for ten seconds
    heat.draw(np.zeros((*size_hw, 3), np.uint8))
    assert scales == [pytest.approx(10.0, rel=0.02)]
