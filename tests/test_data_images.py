"""Every kind of image becomes upright RGB of 8 bits; what cannot is told."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phidet.core.errors import InputError
from phidet.images.decode import encoding, image_size, pixels_of, read_image

ORIENTATION = 0x0112
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[..., 0]

# How a camera stores an upright image under each orientation: the inverse of what a viewer does.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def save(path: Path, pixels: np.ndarray, orientation: int | None = None, **options: object) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
        options["exif"] = exif.tobytes()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_exif_orientations(tmp_path: Path, orientation: int, ending: str) -> None:
    lossless = {"lossless": True} if ending == "webp" else {}
    stored = STORED[orientation](RGB)
    path = save(tmp_path / f"a.{ending}", stored, orientation, **lossless)
    assert image_size(path) == (20, 30)
    np.testing.assert_array_equal(read_image(path), RGB)
    np.testing.assert_array_equal(read_image(path, (20, 30)), RGB)
    assert encoding(path).orientation == orientation
    if orientation >= 5:  # labels made on the pixels as they are stored
        np.testing.assert_array_equal(read_image(path, (30, 20)), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_of_jpeg(tmp_path: Path, orientation: int) -> None:
    smooth = np.stack(np.meshgrid(np.arange(0, 240, 8), np.arange(0, 160, 8)) * 2, -1)[..., :3].astype(np.uint8)
    path = save(tmp_path / "a.jpg", STORED[orientation](smooth), orientation, quality=100, subsampling=0)
    assert image_size(path) == read_image(path).shape[:2] == (20, 30)
    assert np.abs(read_image(path).astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("value", [0, 9, 77])
def test_orientations_that_do_not_exist_are_upright(tmp_path: Path, value: int) -> None:
    path = save(tmp_path / "a.png", RGB, value)
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_damaged_exif_is_as_if_there_were_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert image_size(path) == read_image(path).shape[:2] == (20, 30)


def grey3(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


def test_grey_alpha_and_one_bit(tmp_path: Path) -> None:
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(RGB).convert(mode)
        image.putalpha(Image.fromarray(GREY))
        image.save(tmp_path / f"{mode}.png")
    np.testing.assert_array_equal(read_image(tmp_path / "RGBA.png"), RGB)
    np.testing.assert_array_equal(
        read_image(tmp_path / "LA.png"), np.array(Image.fromarray(RGB).convert("L").convert("RGB"))
    )
    np.testing.assert_array_equal(read_image(save(tmp_path / "L.png", GREY)), grey3(GREY))
    bits = GREY > 127
    np.testing.assert_array_equal(read_image(save(tmp_path / "1.png", bits)), grey3(bits.astype(np.uint8) * 255))


@pytest.mark.parametrize(
    ("ending", "transparency"), [("png", None), ("png", 3), ("png", bytes(range(256))), ("gif", None), ("gif", 3)]
)
def test_palettes(tmp_path: Path, ending: str, transparency: int | bytes | None) -> None:
    image = Image.fromarray(RGB).quantize(256)
    expected = np.array(image.convert("RGB"))
    path = tmp_path / f"a.{ending}"
    image.save(path, **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("ending", ["bmp", "webp", "tif", "gif"])
def test_other_formats(tmp_path: Path, ending: str) -> None:
    pixels = grey3(GREY) if ending == "gif" else RGB
    path = save(tmp_path / f"a.{ending}", pixels, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), pixels)
    assert image_size(path) == (20, 30)


def test_cmyk_jpeg_has_the_colours_that_viewers_show(tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), (200, 60, 30))
    flat.convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [200, 60, 30]).max() <= 2


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_become_8(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 257, 128, 129, 65535, 32768]], np.uint16)
    path = save(tmp_path / f"a.{ending}", values)
    assert encoding(path).bits == 16
    np.testing.assert_array_equal(read_image(path), grey3(np.array([[0, 1, 0, 1, 255, 128]], np.uint8)))


def test_kinds_of_pixels_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="floating point numbers, expected 8 or 16 bits"):
        read_image(save(tmp_path / "f.tif", np.full((4, 4), 0.5, np.float32)))
    for value in (70000, 200):  # whether 200 is bright or dark nothing tells
        with pytest.raises(
            InputError, match=r"i\.tif has pixels that are 32-bit integers, expected 8 or 16 bits: convert it first"
        ):
            read_image(save(tmp_path / "i.tif", np.full((4, 4), value, np.int32)))
        with pytest.raises(InputError, match="the image has pixels that are 32-bit integers"):
            pixels_of(Image.fromarray(np.full((4, 4), value, np.int32)))


def test_truncated_images(tmp_path: Path) -> None:
    for ending in ("jpg", "png", "webp", "bmp", "tif", "gif"):
        path = save(tmp_path / f"a.{ending}", np.tile(RGB, (8, 8, 1)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=rf"a\.{ending}"):
            read_image(path)


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)
    for limit in (500, 200):  # Pillow warns above its limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for read in (read_image, image_size):
            with pytest.raises(InputError, match="too large to open safely"):
                read(path)
    monkeypatch.setattr("warnings.warn", lambda *_, **__: None)  # as where a user silenced warnings
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(InputError, match="30×20, limit 500"):
        read_image(path)


def test_a_png_is_not_decoded_for_its_size(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.tile(RGB, (8, 8, 1)))
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (160, 240)


def test_missing_and_folders(tmp_path: Path) -> None:
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="there is no image at"):
            read(tmp_path / "a.png")
        with pytest.raises(InputError, match="cannot read"):
            read(tmp_path)


def _encoded(ending: str) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(RGB).save(stream, ending, exif=exif.tobytes())
    return stream.getvalue()


ENCODED = {ending: _encoded(ending) for ending in ("JPEG", "PNG", "WEBP", "TIFF")}


@pytest.mark.filterwarnings("ignore")  # Pillow's own words about damaged metadata
@given(
    ending=st.sampled_from(sorted(ENCODED)),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 4000),
)
@settings(max_examples=300)
def test_damage_never_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, ending: str, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(ENCODED[ending])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:length] if length % 2 else content)
    for read in (image_size, read_image, encoding):
        with contextlib.suppress(InputError):
            read(path)
