"""Text files in every encoding that tools write: read, or refused with the encoding named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phidet.core.errors import InputError
from phidet.data.text import decode_text, read_lines, read_text, unicode_encoding

TEXT = "0 0.5 0.5 0.25 0.25\r\n1 0.1 0.1 0.1 0.1\nKühe – 牛\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_a_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT
    assert read_lines(path) == ["0 0.5 0.5 0.25 0.25", "1 0.1 0.1 0.1 0.1", "Kühe – 牛"]


@pytest.mark.parametrize(
    ("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\0\0\xfe\xff", "utf-32-be")]
)
def test_both_byte_orders(mark: bytes, encoding: str) -> None:
    assert decode_text(mark + TEXT.encode(encoding), Path("a.txt")) == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_recognised(encoding: str) -> None:
    text = TEXT * 3
    assert decode_text(text.encode(encoding), Path("a.txt")) == text


@given(text=st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])))
def test_utf_8_is_never_taken_for_another_encoding(text: str) -> None:
    assert unicode_encoding(text.encode()) == "utf-8"
    assert decode_text(text.encode(), Path("a.txt")) == text


def test_other_encodings_are_named_with_place_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("dog\nKühe\n".encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_text(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not UTF-8: byte 0xFC in line 2")
    assert "Windows-1252 (Latin-1) reads 'Kühe'" in message
    assert message.endswith("UTF-8")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfea\0b", "begins like UTF-16, but is not UTF-16 at byte"),  # an odd number of bytes
        (b"\xff\xfe\0\0abcdefgh", "begins like UTF-32"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not text (byte 0x89 at 0)"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_text(content, Path("a.txt"))
    assert says in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*a\.txt: No such file"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(InputError, match="cannot read"):
        read_text(tmp_path)
