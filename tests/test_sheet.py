"""Sheets of images: boxes where they are, in their colours, and names that can be read."""

from __future__ import annotations

import numpy as np

from phidet.detections.draw import colour, shorten
from phidet.detections.sheet import Tile, draw_sheet, draw_tile
from phidet.images.style import font


def test_boxes_are_drawn_in_their_class_colour_where_they_are() -> None:
    grey = np.full((300, 400, 3), 127, np.uint8)
    tile = Tile("a", "b", grey, np.array([[100, 60, 200, 160]], np.float32), ["cat"], [2])
    image = np.asarray(draw_tile(tile))
    coloured = (image == colour(2)).all(axis=2)
    for side in (coloured[110, 100:105], coloured[110, 195:200], coloured[155:160, 150]):
        assert side.sum() == 2
    assert image[110, 150].tolist() == [127, 127, 127]
    assert not coloured[:, :100].any()
    assert not coloured[:, 200:].any()


def test_small_boxes_lie_on_large_ones() -> None:
    boxes = np.array([[50, 60, 150, 160], [50, 60, 300, 250]], np.float32)
    for order in ([0, 1], [1, 0]):
        tile = Tile("a", "b", np.zeros((300, 400, 3), np.uint8), boxes[order], ["", ""], [3 + i for i in order])
        image = np.asarray(draw_tile(tile))
        assert (image[110, 50:54] == colour(3)).all(axis=1).sum() == 2
        assert (image[200, 50:54] == colour(4)).all(axis=1).sum() == 2


def test_names_stand_apart_and_inside_the_image() -> None:
    black = np.zeros((300, 400, 3), np.uint8)
    boxes = np.array([[10 + 3 * i, 40, 120 + 3 * i, 150] for i in range(8)], np.float32)
    plain = np.asarray(draw_tile(Tile("a", "b", black, boxes, [""] * 8, [0] * 8)))
    one = np.asarray(draw_tile(Tile("a", "b", black, boxes, ["person"] + [""] * 7, [0] * 8)))
    named = np.asarray(draw_tile(Tile("a", "b", black, boxes, ["person"] * 8, [0] * 8)))
    label = (plain != one).any(axis=2).sum()
    changed = (plain != named).any(axis=2)
    assert 3 * label < changed[:300].sum() < 8 * label  # several find a place, the others are left out
    assert not changed[300:].any()


def test_marks_are_drawn_wherever_the_box_is() -> None:
    black = np.zeros((300, 400, 3), np.uint8)
    plain = np.asarray(draw_tile(Tile("a", "b", black)))
    for mark in ((100.0, 100.0, 100.0, 100.0), (390.0, 290.0, 800.0, 900.0), (300.0, 200.0, 100.0, 50.0)):
        marked = np.asarray(draw_tile(Tile("a", "b", black, marks_xyxy=[mark])))
        assert (marked != plain).any()


def test_a_legend_names_colours_as_far_as_there_is_room() -> None:
    few = np.asarray(draw_sheet("x", [], columns=3, legend=[("ant", 0), ("bee", 1)]))
    many = np.asarray(draw_sheet("x", [], columns=3, legend=[("a rather long name", i) for i in range(12)]))
    for sheet, shown in ((few, [0, 1]), (many, [0, 1, 2])):
        for i in shown:
            assert (sheet == colour(i)).all(axis=2).sum() > 200
    assert not (many == colour(11)).all(axis=2).any()


def test_a_long_name_is_shortened_before_its_end() -> None:
    name = "images/" + "very-long-" * 20 + "000123.jpg"
    short = shorten(name, lambda part: font(15).getlength(part) <= 300, end=10)
    assert 280 < font(15).getlength(short) <= 300
    assert short.startswith("images/very-long-")
    assert short.endswith("…000123.jpg")
    assert shorten("short.jpg", lambda part: len(part) <= 9, end=4) == "short.jpg"
    assert shorten("short.jpeg", lambda part: len(part) <= 9) == "short.jp…"
    assert shorten("short.jpeg", lambda part: len(part) <= 9, end=5) == "sho….jpeg"
    assert shorten("short.jpeg", lambda part: len(part) <= 1) == ""
