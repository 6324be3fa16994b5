"""Drawn boxes: where ink falls and where not, colours that people tell apart, labels that stay inside."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phidet.core.errors import InputError
from phidet.detections import draw
from phidet.detections.detections import Detections
from phidet.detections.draw import PALETTE, colour, draw_boxes, font_size, line_width
from phidet.images.decode import as_pil_image

# Linear RGB as people without red and without green cones see it (G. Machado et al., 2009, table 1, severity 1).
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def linear(rgb: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    v = np.array(rgb) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CIE L*a*b* under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear_rgb
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["all cones", "no red", "no green"])
def test_the_first_seven_classes_are_told_apart_by_colour_blind_people(eye: object) -> None:
    seen = [lab(np.clip(np.array(eye) @ linear(colour(i)), 0, 1)) for i in range(len(PALETTE))]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 11  # 2.3 is a just noticeable difference


def test_21_classes_have_colours_of_their_own_on_which_text_is_legible() -> None:
    colours = [colour(i) for i in range(21)]
    assert len(set(colours)) == 21
    assert colour(21) == colour(0)
    for rgb in colours:
        luminances = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (rgb, draw._ink(rgb)))
        assert (luminances[1] + 0.05) / (luminances[0] + 0.05) >= 4.5  # WCAG 2, level AA


def one_box(height: int, width: int, box: tuple[float, ...], ground: int) -> npt.NDArray[np.uint8]:
    image = Image.new("RGB", (width, height), (ground,) * 3)
    drawn = draw_boxes(image, np.array([box], np.float32), np.array([0]), [""])
    assert np.all(np.asarray(image) == ground)  # the original stays
    return np.asarray(drawn)


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize(("height", "width"), [(60, 80), (480, 640), (1500, 2000)])
def test_ink_is_in_the_box_along_its_sides_and_nowhere_else(height: int, width: int, ground: int) -> None:
    x1, y1, x2, y2 = width // 4, height // 4, width // 2, height * 3 // 4
    drawn = one_box(height, width, (x1, y1, x2, y2), ground)
    inked = (drawn != ground).any(axis=-1)
    line = line_width((width, height))
    edge = line + 2 * max(1, line // 3)  # coloured, and dark on both sides
    assert not inked[:y1].any()
    assert not inked[y2:].any()
    assert not inked[:, :x1].any()
    assert not inked[:, x2:].any()
    assert not inked[y1 + edge : y2 - edge, x1 + edge : x2 - edge].any()
    is_colour = (drawn == colour(0)).all(axis=-1)
    middle_y, middle_x = (y1 + y2) // 2, (x1 + x2) // 2
    assert is_colour[middle_y, x1 : x1 + edge].sum() == is_colour[middle_y, x2 - edge : x2].sum() == line
    assert is_colour[y1 : y1 + edge, middle_x].sum() == is_colour[y2 - edge : y2, middle_x].sum() == line
    if ground:
        assert inked[middle_y, x1 : x1 + edge].all()  # the dark edges show


def test_lines_grow_with_the_image() -> None:
    assert [font_size(size) for size in ((64, 64), (640, 480), (4000, 3000), (20_000, 15_000))] == [11, 13, 82, 160]
    assert [line_width(size) for size in ((64, 64), (640, 480), (1920, 1080), (4000, 3000))] == [1, 2, 6, 15]


def test_labels_of_many_small_boxes_are_smaller_but_legible() -> None:
    small, large = (0.0, 0.0, 50.0, 50.0), (0.0, 0.0, 1500.0, 1500.0)
    assert font_size((4000, 3000), [small, small, large]) == 41
    assert font_size((4000, 3000), [small, large, large]) == 82
    assert font_size((640, 480), [small, small]) == 11


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (10, 20_000), (3000, 2)])
def test_images_without_room_get_frames_but_no_labels(height: int, width: int) -> None:
    image = Image.new("RGB", (width, height))
    whole = np.array([[0, 0, width, height]], np.float32)
    with_label = draw_boxes(image, whole, np.array([0]), ["person 90%"])
    assert with_label.size == (width, height)
    assert with_label.tobytes() == draw_boxes(image, whole, np.array([0]), [""]).tobytes()
    assert np.asarray(with_label).any()


def test_what_is_outside_is_not_drawn_and_what_is_half_outside_is_cut() -> None:
    outside = one_box(100, 100, (150, 10, 190, 50), 50)
    assert (outside == 50).all()
    half = one_box(100, 100, (50, -40, 190, 60), 50)
    assert (half[0, 60:] != 50).any(axis=-1).all()  # its upper side lies on the image's border


@given(
    st.tuples(st.floats(-50, 700), st.floats(-50, 500), st.floats(0, 400), st.floats(0, 400)),
    st.tuples(st.integers(1, 640), st.integers(1, 120)),
    st.integers(0, 8),
)
def test_labels_stay_inside_the_image(
    box: tuple[float, float, float, float], label: tuple[int, int], others: int
) -> None:
    x, y, w, h = box
    inside = (max(0.0, x), max(0.0, y), min(640.0, x + w), min(480.0, y + h))
    placed = [(40.0 * i, 30.0 * i, 40.0 * i + 200, 30.0 * i + 60) for i in range(others)]
    left, top = draw._place(inside, label, (640, 480), np.array(placed).reshape(-1, 4))
    assert 0 <= left <= left + label[0] <= 640
    assert 0 <= top <= top + label[1] <= 480


def test_a_label_gives_way_to_another_one() -> None:
    box = (100.0, 100.0, 300.0, 300.0)
    first = draw._place(box, (80, 20), (640, 480), np.zeros((0, 4)))
    assert first == (100, 80)  # above
    second = draw._place(box, (80, 20), (640, 480), np.array([(100.0, 80.0, 180.0, 100.0)]))
    assert second == (100, 100)  # into the box
    assert draw._place((100.0, 5.0, 300.0, 300.0), (80, 20), (640, 480), np.zeros((0, 4))) == (100, 5)  # no room above


def test_a_label_wider_than_the_image_is_cut() -> None:
    font, text = draw._fitting("a" * 200, 12, 150)
    assert text.endswith("a…")
    assert font.getlength(text) <= 150
    assert draw._fitting("person\n90%", 12, 150)[1] == "person 90%"
    font, text = draw._fitting("a very long name " * 9 + "87%", 12, 150)
    assert text.startswith("a very long na")
    assert text.endswith("… 87%")
    assert 130 < font.getlength(text) <= 150


@pytest.mark.parametrize("text", ["Straße", "人物 80%", "Привет", "كلب", "🐕", "\x1b[31m"])
def test_letters_that_no_font_has_become_plain_ones(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    font, shown = draw.font_for(text, 14)
    assert shown == text or "?" in shown
    monkeypatch.setattr(draw, "_OTHER_FONTS", ())
    font, shown = draw.font_for(text, 14)
    assert len(shown) >= len(text) - 1
    assert all(c == "?" or c.isascii() or draw._has(None, c) for c in shown)
    assert font.getname()[0] == "Aileron"


def test_accents_go_before_letters_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "_OTHER_FONTS", ())
    assert draw.font_for("ťŕńv", 14)[1] == "trnv"


def test_whatever_is_an_image_becomes_one(tmp_path: Path) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    for given_ in (pixels, path, str(path), Image.open(path), pixels[:, ::-1][:, ::-1]):
        assert np.asarray(as_pil_image(given_)).tolist() == pixels.tolist()
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    assert as_pil_image(Image.open(tmp_path / "turned.jpg")).size == (4, 5)
    with pytest.raises(InputError, match=r"\(height, width, 3\) uint8 RGB, got shape \(4, 5\) uint8"):
        as_pil_image(pixels[..., 0])


def test_detections_draw_best_on_top_and_only_on_their_own_image() -> None:
    box = [10.0, 40.0, 90.0, 90.0]
    found = Detections(np.array([box, box]), np.array([0.5, 0.9]), np.array([0, 1]), ("a", "b"), (100, 100))
    drawn = np.asarray(found.draw(np.full((100, 100, 3), 255, np.uint8)))
    assert (drawn[60, 10:14] == colour(1)).all(axis=-1).any()
    assert not (drawn[60, 10:14] == colour(0)).all(axis=-1).any()
    with pytest.raises(InputError, match="expected the image that was detected on, 100×100, got 50×100"):
        found.draw(np.zeros((100, 50, 3), np.uint8))
