"""The doctor's pictures: boxes where they are, in their colours, and names that can be read."""

from __future__ import annotations

import numpy as np

from phidet.images.sheet import Tile, draw_tile, shorten
from phidet.images.style import PALETTE, font


def test_boxes_are_drawn_in_their_class_colour_where_they_are() -> None:
    grey = np.full((300, 400, 3), 127, np.uint8)
    tile = Tile("a", "b", grey, np.array([[100, 60, 200, 160]], np.float32), ["cat"], [2])
    picture = np.asarray(draw_tile(tile))
    colour = [int(PALETTE[2][i : i + 2], 16) for i in (1, 3, 5)]
    for x, y in ((100, 110), (200, 110), (150, 160)):
        assert picture[y, x].tolist() == colour
    assert picture[110, 150].tolist() == [127, 127, 127]


def test_names_stand_apart_and_inside_the_picture() -> None:
    black = np.zeros((300, 400, 3), np.uint8)
    boxes = np.array([[10 + 3 * i, 40, 120 + 3 * i, 150] for i in range(8)], np.float32)
    plain = np.asarray(draw_tile(Tile("a", "b", black, boxes, [""] * 8, [0] * 8)))
    named = np.asarray(draw_tile(Tile("a", "b", black, boxes, ["person"] * 8, [0] * 8)))
    changed = (plain != named).any(axis=2)
    chip = (font(12).getlength("person") + 8) * 17
    assert changed[:300].sum() > 3 * 0.7 * chip  # several find a place
    assert not changed[300:].any()


def test_a_long_name_loses_its_middle() -> None:
    name = "images/" + "very-long-" * 20 + "000123.jpg"
    short = shorten(name, font(15), 300)
    assert font(15).getlength(short) <= 300
    assert short.startswith("images/")
    assert short.endswith("123.jpg")
    assert shorten("short.jpg", font(15), 300) == "short.jpg"
