"""Which files are decoded, which are refused and by what name, and that no decoder's error gets through."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from odd_images import chunk, encoded, photo, png
from phidet.cli.main import main
from phidet.core.errors import InputError
from phidet.images import decoders
from phidet.images.decode import encoding, image_size, pixels_of, read_image
from phidet.images.formats import count_left_out, format_of, other_image
from phidet.images.sources import SourceImage, Unusable, read_sources
from pillow_formats import DECODED, HAS_AVIF, SIDE, pillow_files

FILES = pillow_files()
NAMED = {  # what the formats of Pillow that are not decoded are called; None where nothing in the file tells
    "BLP": "a BLP texture", "BUFR": "a BUFR file", "CUR": "a CUR (Windows cursor) file", "DCX": "a DCX file",
    "DDS": "a DDS texture", "DIB": None, "EPS": "an EPS (PostScript) file", "FITS": "a FITS file",
    "FLI": "an FLI or FLC animation", "FTEX": "an FTEX texture", "GBR": "a GIMP brush", "GRIB": "a GRIB file",
    "HDF5": "an HDF5 file", "ICNS": "an ICNS (macOS icon) file", "ICO": "an ICO (Windows icon) file",
    "IM": "an IM (IFUNC) image", "IMT": None, "IPTC": "an IPTC record", "MCIDAS": "a McIDAS area file",
    "MPEG": "an MPEG video", "MSP": "an MSP (Windows Paint) image", "PCD": "a Photo CD image",
    "PCX": "a PCX image", "PIXAR": "a PIXAR image", "PSD": "a PSD (Photoshop) file", "QOI": "a QOI image",
    "SGI": "an SGI image", "SPIDER": None, "SUN": "a Sun raster image", "TGA": "a TGA (Targa) image",
    "WMF": "an EMF drawing", "XBM": "an XBM image", "XPM": "an XPM image", "XVTHUMB": "an XV thumbnail",
}  # fmt: skip
HEIC = Path(__file__).parent / "data" / "heic"


def refusal(source: Path | bytes) -> str:
    """The error of all three ways to read, which is one line."""
    errors = []
    for read in (image_size, read_image, encoding):
        if isinstance(source, Path) or read is read_image:
            with pytest.raises(InputError) as caught:
                read(source)  # type: ignore[operator]
            errors.append(str(caught.value))
    assert len(set(errors)) == 1
    assert "\n" not in errors[0]
    return errors[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of formats that Pillow will drop
def test_there_is_a_file_of_every_format_that_pillow_knows() -> None:
    assert set(Image.ID) <= set(FILES)
    for name in set(FILES) - {"IMT"}:  # whose text has no beginning of its own
        with Image.open(io.BytesIO(FILES[name])) as image:
            assert (image.format or "").upper() == name


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_read_or_refused_by_its_name_whatever_its_ending(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(FILES[name])
    if name in DECODED:
        assert image_size(path) == (SIDE, SIDE)
        expected = np.asarray(Image.open(io.BytesIO(FILES[name])).convert("RGB"))
        np.testing.assert_array_equal(read_image(path), expected)
        return
    what = "not an image that can be read:" if NAMED[name] is None else f"{NAMED[name]}, which is not read:"
    assert refusal(path) == (f"{path} is {what} expected JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000, PPM or HEIC")


def test_what_the_content_does_not_tell_the_ending_does(tmp_path: Path) -> None:
    path = tmp_path / "photo.SPIDER"
    path.write_bytes(FILES["SPIDER"])
    assert "is a SPIDER image, which is not read" in refusal(path)
    old_targa = FILES["TGA"].removesuffix(b"TRUEVISION-XFILE.\0")  # the footer came with the second version
    mapped = b"\0\1" + FILES["TGA"][2:]
    for content in (old_targa, mapped):
        assert "is a TGA (Targa) image, which is not read" in refusal(content)


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of ``data``, which begins at byte 8, and of (tag, type, count, value)."""
    data += bytes(len(data) % 2)
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in sorted(tags))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def grey_tiff(values: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    height, width = values.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    packed = [int(row + "0" * (-len(row) % 8), 2).to_bytes(-(-len(row) // 8), "big") for row in rows]
    data = b"".join(packed) if bits == 12 else values.astype("<u2").tobytes()
    sizes = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)]
    return tiff([*sizes, (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, len(data))], data)


RAW = tiff([(254, 4, 1, 1), (256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 1), (330, 4, 1, 8)], b"\x7f")  # fmt: skip
OTHERS = {
    "pdf": (b"%PDF-1.7\n%", "a PDF document"),
    "illustrator": (b"\xc5\xd0\xd3\xc6" + bytes(30), "an EPS (PostScript) file"),
    "page": (b"\n <!DOCTYPE html><html>404", "a web page (HTML)"),
    "svg": (b'<?xml version="1.0"?>\n<!-- a --><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "xml": (b'<?xml version="1.0"?><annotation/>', "an XML text"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS, for git lfs pull"),
    "mac": (b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(60), "a file of macOS beside the real one (AppleDouble)"),
    "jxl": (b"\xff\x0a" + bytes(30), "a JPEG XL image"),
    "jxl-box": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "a JPEG XL image"),
    "jxr": (b"II\xbc\1" + bytes(30), "a JPEG XR image"),
    "exr": (b"\x76\x2f\x31\1" + bytes(30), "an OpenEXR image"),
    "dicom": (bytes(128) + b"DICM" + bytes(30), "a DICOM file"),
    "cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera raw file (CR3)"),
    "raf": (b"FUJIFILMCCD-RAW 0201", "a camera raw file (RAF)"),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "an MP4 or MOV video"),
    "mkv": (b"\x1a\x45\xdf\xa3" + bytes(30), "a Matroska or WebM video"),
    "avi": (b"RIFF\x10\0\0\0AVI LIST", "an AVI video"),
    "zip": (b"PK\3\4" + bytes(30), "a ZIP archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "a gzip archive"),
    "pfm": (b"PF\n1 1\n-1.0\n" + bytes(12), "a PFM image (floating point)"),
    "pam": (b"P7\nWIDTH 1\nHEIGHT 1\n", "a PAM image"),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    content, what = OTHERS[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert f"{path} is {what}, which is not read: expected JPEG, PNG" in refusal(path)
    assert f"the content ({len(content)} bytes) is {what}, which is not read" in refusal(content)


def test_nothing_is_called_empty_and_noise_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "a.jpg is empty: expected JPEG" in refusal(tmp_path / "a.jpg")
    for content in (b"BMW and other cars", b"P1ain text", b"P6", b"This is text.", bytes(5000), b"\xff\xd8"):
        (tmp_path / "a.jpg").write_bytes(content)
        assert "a.jpg is not an image that can be read: expected JPEG" in refusal(tmp_path / "a.jpg")


def test_the_preview_of_a_raw_file_is_not_taken_for_the_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    for content in (RAW, RAW.replace(struct.pack("<H", 330), struct.pack("<H", 50706))):
        path.write_bytes(content)
        assert "is a camera raw file that begins with a small preview: convert it first" in refusal(path)
    path.write_bytes(RAW.replace(struct.pack("<HHII", 254, 4, 1, 1), struct.pack("<HHII", 254, 4, 1, 0)))
    np.testing.assert_array_equal(read_image(path), [[[127, 127, 127]]])  # a pyramid begins with the whole image


def test_brands_decide_between_heic_avif_and_videos() -> None:
    def box(major: bytes, *compatible: bytes) -> bytes:
        return struct.pack(">I4s4sI", 16 + 4 * len(compatible), b"ftyp", major, 0) + b"".join(compatible)

    assert [format_of(box(brand)) for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")] == ["HEIC"] * 5
    assert [format_of(box(brand)) for brand in (b"avif", b"avis")] == ["AVIF"] * 2
    assert format_of(box(b"mif1", b"miaf", b"avif")) == "AVIF"
    assert format_of(box(b"mif1", b"miaf", b"heic") + b"avif") == "HEIC"  # what follows the box is no brand
    assert [format_of(box(brand, b"avif")) for brand in (b"isom", b"mp42", b"qt  ", b"crx ")] == [None] * 4


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    path.write_bytes((HEIC / "plain.heic").read_bytes())
    assert refusal(path) == (
        f"{path} is a HEIC image, which needs a package that is not installed: pip install 'phidet[heic]'"
    )
    for plugin in ("PIL.AvifImagePlugin", "PIL._avif"):
        monkeypatch.setitem(sys.modules, plugin, None)
    monkeypatch.delattr(PIL, "AvifImagePlugin", raising=False)
    path.write_bytes(b"\0\0\0\x14ftypavif\0\0\0\0mif1")
    assert f"{path} is an AVIF image, which needs Pillow 11.3 or newer" in refusal(path)


@pytest.mark.parametrize("name", ["plain", "turned", "alpha", "ten-bit", "grey"])
def test_heic_is_upright_rgb(name: str) -> None:
    pytest.importorskip("pi_heif")
    path = HEIC / f"{name}.heic"
    y, x = np.mgrid[:48, :64]
    rgb = np.stack([4 * x, 5 * y, 2 * (x + y)], -1).clip(0, 255)
    if name == "turned":
        rgb = np.rot90(rgb, -1)
    if name == "grey":
        rgb = (rgb @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1)
    assert image_size(path) == rgb.shape[:2]
    assert np.abs(read_image(path) - rgb).max() <= 12
    assert encoding(path).orientation == 1


@pytest.mark.parametrize("place", [b"hvc1", b"hvc1\0"], ids=["type", "name"])
def test_heic_items_whose_words_are_not_utf8_do_not_crash(tmp_path: Path, place: bytes) -> None:
    """pi-heif 1.4 ends the process on some of them, so another one looks."""
    pytest.importorskip("pi_heif")
    content = (HEIC / "turned.heic").read_bytes()
    at = content.index(place, content.index(b"infe")) + len(place) - 1
    path = tmp_path / "a.heic"
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    code = "from pathlib import Path; from phidet.images.decode import read_image; read_image(Path('a.heic'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InputError: a.heic cannot be decoded as HEIC: 'utf-8' codec can't decode" in done.stderr


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    """95 bytes make a decoder go over all pixels once more: a megabyte of them takes it half an hour."""
    content = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    path = tmp_path / "a.jpg"
    for more, refused in ((0, False), (100, False), (600, True)):
        path.write_bytes(content[:-2] + more * scan + content[-2:])
        assert image_size(path) == (64, 64)
        if refused:
            with pytest.raises(InputError, match=r"a\.jpg has 6\d\d scans, more than 500: save it again"):
                read_image(path)
        else:
            np.testing.assert_array_equal(read_image(path), np.full((64, 64, 3), 128))
    with Image.open(path) as image, pytest.raises(InputError, match="scans, more than 500"):
        pixels_of(image)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP"])
def test_much_text_in_a_png_does_not_matter(tmp_path: Path, kind: str, after: bool) -> None:
    # 70 MB of text is beyond what Pillow keeps, 2 MB beyond what it unpacks of one chunk.
    long = zlib.compress(b'{"node": 1}' * 200_000)
    extra = {
        "zTXt": chunk(b"zTXt", b"workflow\0\0" + long),
        "iTXt": chunk(b"iTXt", b"a\0\1\0\0\0" + long),
        "tEXt": chunk(b"tEXt", b"a\0" + bytes(70_000_000)),
        "iCCP": chunk(b"iCCP", b"a\0\0" + long),
    }[kind]
    rows = zlib.compress(b"\0" + bytes(range(24)) + b"\0" + bytes(range(100, 124)))
    content = png(8, 2, rows, extra=b"" if after else extra)
    if after:
        content = content[:-12] + extra + content[-12:]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    expected = np.array([[*range(24)], [*range(100, 124)]]).reshape(2, 8, 3)
    assert image_size(path) == (2, 8)
    assert encoding(path).bits == 8
    sizes: list[tuple[int, int]] = []
    np.testing.assert_array_equal(read_image(path, None, lambda *size: sizes.append(size)), expected)
    assert sizes == [(2, 8)]  # counted once, however often it was opened


def test_sixteen_and_twelve_bits_of_a_tiff(tmp_path: Path) -> None:
    twelve = np.array([[0, 16, 257, 2048, 4095], [8, 9, 24, 4079, 4087]])
    grey = np.rint(twelve * 255 / 4095)
    path = tmp_path / "a.tif"
    for values, bits, photometric, expected in (
        (twelve, 12, 1, grey),
        (twelve * 16, 16, 1, np.rint(twelve * 16 * 255 / 65535)),
        (twelve * 16, 16, 0, np.rint(255 - twelve * 16 * 255 / 65535)),  # white is zero
    ):
        path.write_bytes(grey_tiff(values, bits, photometric))
        np.testing.assert_array_equal(read_image(path), np.repeat(expected[..., None], 3, axis=2))
        assert encoding(path).bits == bits


@pytest.mark.parametrize(
    ("marker", "bits", "what"),
    [(0xC1, 12, "of 12 bits per channel"), (0xC3, 8, "without loss"), (0xC3, 16, "of 16 bits per channel"),
     (0xF7, 8, "without loss (JPEG-LS)")],
)  # fmt: skip
def test_whole_jpegs_of_other_kinds_are_not_called_damaged(tmp_path: Path, marker: int, bits: int, what: str) -> None:
    content = bytearray(FILES["JPEG"])
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = marker, bits
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path} is a JPEG image {what}, which is not read: convert it first"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Failed to decode\n  frame"), NotImplementedError("Unknown pixel format"), MemoryError(), KeyError(3),
     RecursionError("maximum depth"), struct.error("unpack"), Image.DecompressionBombError("bomb"), AssertionError(),
     Image.DecompressionBombWarning("bomb"), zlib.error("Error -3"), UnicodeDecodeError("ascii", b"\xff", 0, 1, "?"),
     SystemError("tile cannot extend"), OSError("broken data stream"), TypeError("x" * 5000)],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: object) -> Image.Image:
        raise error

    path = tmp_path / "a.webp"
    path.write_bytes(FILES["WEBP"])
    monkeypatch.setitem(decoders.DECODERS, "WebP", fail)  # type: ignore[misc]
    message = refusal(path)
    assert message.startswith(f"{path} cannot be decoded as WebP: ")
    assert message.endswith(". Copy it again, convert it, or leave it out")
    assert len(message) < len(str(path)) + 300
    [item] = read_sources([str(path)])
    assert isinstance(item, Unusable)


def test_an_error_of_the_disk_is_not_one_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Image.Image:
        raise OSError(5, os.strerror(5))

    (tmp_path / "a.webp").write_bytes(FILES["WEBP"])
    monkeypatch.setitem(decoders.DECODERS, "WebP", fail)  # type: ignore[misc]
    assert refusal(tmp_path / "a.webp") == f"cannot read {tmp_path / 'a.webp'}: Input/output error"
    with pytest.raises(InputError, match="cannot read"):
        read_image(Path("a\0b.jpg"))


def test_a_huge_file_is_not_taken_into_memory(tmp_path: Path) -> None:
    for name in ("WEBP", "JPEG2000", "PNG", "JPEG"):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(FILES[name])
        os.truncate(path, 2**36)  # sparse
        assert f"{path} has more than 1,073,741,824 bytes" in refusal(path)
        path.unlink()


def test_an_image_opened_with_pillow_is_decoded_by_the_same_decoders(tmp_path: Path) -> None:
    for name in ("EPS", "WMF", "TGA"):
        image = Image.open(io.BytesIO(FILES[name]))
        with pytest.raises(InputError, match=rf"the image is a {name} image, which phidet does not decode: call its l"):
            pixels_of(image)
    image.load()
    np.testing.assert_array_equal(pixels_of(image), np.asarray(image))
    assert image.format == "TGA"
    path = tmp_path / "a.png"
    path.write_bytes(FILES["PNG"][:-100])
    with Image.open(path) as image, pytest.raises(InputError, match=r"a\.png cannot be decoded: "):
        pixels_of(image)

    class Failing(ImageFile.ImageFile):
        format = "PNG"

        def _open(self) -> None:
            self._mode, self._size = "L", (1, 1)

        def load(self) -> None:
            raise RuntimeError("no\nway")

    with pytest.raises(InputError, match="the image cannot be decoded: no way"):
        pixels_of(Failing(io.BytesIO(b"")))


MORE = {
    "jp2": "JPEG2000",
    "ppm": "PPM",
    "mpo": "MPO",
    "jpe": "JPEG",
    "apng": "PNG",
    "avif": "AVIF" if HAS_AVIF else "PNG",
}


def test_a_folder_is_searched_for_every_format_and_what_it_leaves_out_is_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for ending, form in MORE.items():
        (tmp_path / f"a.{ending}").write_bytes(encoded(photo(rng), form))
    (tmp_path / "b.heic").write_bytes((HEIC / "plain.heic").read_bytes())
    for name in ("c.psd", "d.PSD", "e.NEF", "f.svg", "g.jpg_large", "h", "i.txt", "j.onnx"):
        (tmp_path / name).write_bytes(FILES["JPEG"] if name in ("g.jpg_large", "h") else b"something")
    notes: list[str] = []
    found = list(read_sources([str(tmp_path)], note=notes.append))
    assert [Path(item.source).suffix[1:] for item in found] == [*sorted(MORE), "heic"]
    assert {type(item) for item in found if not item.source.endswith("heic")} == {SourceImage}
    left_out = "6 image files left out: 2 PSD, 2 JPEG without an image's ending, 1 NEF, 1 SVG"
    [note] = notes
    assert note == f"{tmp_path}: {left_out}; phidet reads JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000, PPM or HEIC"

    notes.clear()
    assert len(list(read_sources([f"{tmp_path}/*"], note=notes.append))) == 7
    assert notes == [f"{tmp_path}/*{note[len(str(tmp_path)) :]}"]
    [item] = read_sources([f"{tmp_path}/*.[Pp][Ss][Dd]"], note=notes.append)
    assert isinstance(item, Unusable)
    assert "matches 2 files or folders, but no image or video that phidet reads: 2 image files left out: 2 PSD" in str(
        item.error
    )
    assert len(notes) == 1

    only = tmp_path / "only"
    only.mkdir()
    (only / "a.jxl").write_bytes(b"\xff\x0a")
    [item] = read_sources([str(only)], note=notes.append)
    assert isinstance(item, Unusable)
    assert f"{only} holds no image or video that phidet reads: 1 image file left out: 1 JPEG XL, expected JPEG" in str(
        item.error
    )


def test_what_is_left_out_of_a_search(tmp_path: Path) -> None:
    def name(file: str, content: bytes = b"") -> str | None:
        (tmp_path / file).write_bytes(content)
        return other_image(tmp_path / file)

    assert name("a.jpg", b"no image, but searched for") is None
    assert name("a.tga") == "TGA"
    assert name("a.DNG") == "DNG"
    assert name("a.bak", FILES["PNG"]) == "PNG without an image's ending"
    assert name("a.bak", b"text") is None
    assert name("a.txt", FILES["PNG"]) is None
    assert other_image(tmp_path / "missing") is None
    assert count_left_out(["PSD"]) == "1 image file left out: 1 PSD"


def test_detect_says_what_it_left_out_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("phone").mkdir()
    (tmp_path / "phone/a.jpg").write_bytes(encoded(photo(np.random.default_rng(0)), "JPEG"))
    (tmp_path / "phone/b.psd").write_bytes(FILES["PSD"])
    assert main(["detect", "phone", "--json"]) == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1
    assert "phidet: phone: 1 image file left out: 1 PSD; phidet reads JPEG, PNG" in err
    assert main(["detect", "phone/b.psd", "phone/a.jpg", "--json"]) == 3
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert "phidet: phone/b.psd is a PSD (Photoshop) file, which is not read: expected JPEG" in err
