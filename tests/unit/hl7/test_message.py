"""Messages taken apart: delimiters, line ends, escapes, character sets."""

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.charset import python_encoding

from libs.hl7.charset import UnknownCharsetError, codec_of, decode
from libs.hl7.delimiter import DEFAULT, Delimiters
from libs.hl7.escape import escape, unescape
from libs.hl7.message import MalformedError, Message, messages, parse, trimmed

pytestmark = pytest.mark.unit


def read(raw: bytes, default: str = "ASCII") -> Message:
    return parse(decode(trimmed(raw), default))


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\n\r"])
def test_any_line_end_ends_a_segment(end: bytes) -> None:
    found = read(end.join([rb"MSH|^~\&|A", b"PID|||1", b"ZZZ|x", b""]))
    assert [segment.name for segment in found.segments] == ["MSH", "PID", "ZZZ"]
    assert found.oddities == ()


def test_a_line_end_within_a_text_is_text() -> None:
    found = read(b"MSH|^~\\&|A\rNTE|1||first\nsecond | third\rPID|||1\r")
    assert [segment.name for segment in found.segments] == ["MSH", "NTE", "PID"]
    assert found.segments[1].field(3) == "first\nsecond "
    assert len(found.oddities) == 1


def test_fields_are_counted_as_hl7_does() -> None:
    found = read(b"MSH|^~\\&|APP|FAC\rPID|1|2|A~B\r")
    assert (found.header.field(1), found.header.field(2), found.header.field(3)) == ("|", "^~\\&", "APP")
    assert found.segments[1].repetitions(3) == ["A", "B"]
    assert found.segments[1].repetitions(9) == []
    assert found.header.repetitions(2) == ["^~\\&"]


def test_delimiters_are_those_of_the_message() -> None:
    found = read(b"MSH$%*!:$APP%x\r")
    assert found.delimiters == Delimiters("$", "%", "*", "!", ":")
    assert found.header_value(3) == "APP"
    assert read(b"MSH|^~\\&#|APP\r").delimiters.truncation == "#"
    assert read(b"MSH|^|APP\r").delimiters.repetition == ""


@pytest.mark.parametrize(
    "raw",
    [b"", b"PID|||1\r", b"MSHABCD", b"MSH", b"MSH|^^^^|A\r", b"MSH|abcd|A\r", b"hello", b"MSH|^~\\&|\rPID|\rMSH|x"],
)
def test_what_is_no_message_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        read(raw)


def test_a_frame_with_two_messages_has_two() -> None:
    one, two = b"MSH|^~\\&|A\rPID|||1\r", b"MSH|^~\\&|B\rPID|||2\r"
    assert messages(one + two) == [one, two]
    assert messages(one) == [one]
    assert messages(b"MSH|^~\\&|A\rNTE|1||MSH| in a text\r") == [b"MSH|^~\\&|A\rNTE|1||MSH| in a text\r"]


def test_a_batch_is_its_messages() -> None:
    batch = b"FHS|^~\\&|A\rBHS|^~\\&|A\rMSH|^~\\&|A\rPID|||1\rMSH|^~\\&|B\rPID|||2\rBTS|2\rFTS|1\r"
    found = [read(each) for each in messages(batch)]
    assert [[segment.name for segment in each.segments] for each in found] == [["MSH", "PID"], ["MSH", "PID"]]
    assert read(b"BHS|^~\\&|A\rMSH|^~\\&|A\rPID|||1\rBTS|1\r").segments[1].name == "PID"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\F\b", "a|b"),
        (r"a\S\b\T\c\R\d\E\e", r"a^b&c~d\e"),
        (r"\X41\\X4243\x", "ABCx"),
        (r"one\.br\two", "one\ntwo"),
        (r"\.sp3\x", "\n\n\nx"),
        (r"\.sk2\x\.in+4\y\.ti-2\z", "  xyz"),
        (r"\H\loud\N\ soft", "loud soft"),
        (r"\Zlocal\x", "x"),
        (r"C:\temp\new", r"C:\temp\new"),
        (r"half \F", r"half \F"),
        (r"\C2842\x\M2442\y", "xy"),
        (r"\Xzz\x", r"\Xzz\x"),
    ],
)
def test_escapes(written: str, meant: str) -> None:
    assert unescape(written, DEFAULT) == meant


def test_bytes_of_an_escape_are_of_the_character_set() -> None:
    assert unescape(r"M\XFC\ller", DEFAULT, "iso8859_1") == "Müller"
    assert unescape(r"M\XC3BC\ller", DEFAULT, "utf_8") == "Müller"


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=100)
def test_what_was_escaped_is_unescaped(text: str) -> None:
    escaped = escape(text, DEFAULT)
    assert not set("|^~&\n") & set(escaped)
    assert unescape(escaped, DEFAULT) == text


@pytest.mark.parametrize(
    ("charset", "codec", "name"),
    [
        ("8859/1", "iso8859_1", "Müller"),
        ("8859/2", "iso8859_2", "Dvořák"),
        ("8859/5", "iso8859_5", "Иванов"),
        ("8859/6", "iso8859_6", "محمد"),
        ("8859/7", "iso8859_7", "Παπαδόπουλος"),
        ("8859/8", "iso8859_8", "כהן"),
        ("8859/9", "iso8859_9", "Çağlayan"),
        ("8859/15", "iso8859_15", "Œuvré"),
        ("UNICODE UTF-8", "utf_8", "山田 محمد"),
        ("UNICODE", "utf_8", "Müller"),
        ("~ISO IR87", "iso2022_jp_2", "山田太郎"),
        ("ISO IR6~ISO IR87~ISO IR159", "iso2022_jp_2", "山田丂"),
        ("ISO IR14", "shift_jis", "ﾔﾏﾀﾞ"),
        ("GB 18030-2000", "gb18030", "王小東"),
        ("KS X 1001", "euc_kr", "김희중"),
        ("BIG-5", "big5", "王小東"),
        ("utf-8", "utf_8", "Müller"),
        ("ISO-8859-1", "iso8859_1", "Müller"),
        ("WINDOWS-1256", "cp1256", "محمد"),
    ],
)
def test_character_sets(charset: str, codec: str, name: str) -> None:
    text = rf"MSH|^~\&|A|||||||||||||||{charset}" + f"\rPID|||1||{name}^x\r"
    found = read(text.encode(codec))
    assert found.segments[1].field(5) == f"{name}^x"
    assert (found.codec, found.charset) == (codec, charset)


@pytest.mark.parametrize("part", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16])
def test_every_part_of_iso_8859(part: int) -> None:
    assert codecs.lookup(codec_of(f"8859/{part}")).name == f"iso8859-{part}"
    with pytest.raises(UnknownCharsetError):
        codec_of("8859/12")


@pytest.mark.parametrize("number", [6, 13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 192])
def test_a_registered_set_is_that_of_dicom(number: int) -> None:
    """The same registration numbers, as pydicom has them."""
    for name in (f"ISO IR{number}", f"ISO_IR {number}", f"ISO 2022 IR {number}"):
        theirs = python_encoding["ISO_IR 6" if number == 6 else f"ISO_IR {number}"]
        ours = codecs.lookup(codec_of(name)).name
        assert ours == codecs.lookup(theirs).name or (number, ours) == (6, "ascii")


@pytest.mark.parametrize("page", range(1250, 1259))
def test_code_pages_of_windows(page: int) -> None:
    assert codec_of(f"windows-{page}") == codec_of(f"CP{page}") == f"cp{page}"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_wide_characters_are_known_by_their_first_bytes(codec: str) -> None:
    assert read("MSH|^~\\&|A\rPID|||1||山田\r".encode(codec)).segments[1].field(5) == "山田"


def test_a_double_byte_that_looks_like_a_delimiter_is_none() -> None:
    # The second byte of these is a backslash, a bar and a circumflex in their character sets.
    for charset, name in (("ISO IR14", "表示"), ("GB 18030-2000", "亅"), ("~ISO IR87", "本")):
        text = rf"MSH|^~\&|A|||||||||||||||{charset}" + f"\rPID|||1||{name}^x\r"
        assert read(text.encode(codec_of(charset.strip("~")))).segments[1].field(5) == f"{name}^x"


def test_without_msh_18_the_sender_s_set_counts() -> None:
    raw = "MSH|^~\\&|A\rPID|||1||Müller\r".encode("latin-1")
    assert read(raw, "8859/1").segments[1].field(5) == "Müller"
    lost = decode(raw, "ASCII")
    assert (lost.lost, "\N{REPLACEMENT CHARACTER}" in lost.text) == (1, True)


def test_a_set_that_always_counts_wins() -> None:
    raw = "MSH|^~\\&|A|||||||||||||||UNICODE UTF-8\rPID|||1||Müller\r".encode("latin-1")
    assert decode(raw, "8859/1", always=True).lost == 0
    assert decode(raw, "8859/1").lost == 1


def test_a_set_that_is_not_known_is_said() -> None:
    with pytest.raises(UnknownCharsetError, match="KLINGON"):
        read(rb"MSH|^~\&|A|||||||||||||||KLINGON" + b"\r")


@pytest.mark.parametrize(("marks", "meant"), [("^~\\&#", "~ # &"), ("^", "\\R\\ \\P\\ \\T\\"), ("^$!%", "$ # %")])
def test_an_escape_stands_for_what_the_message_says(marks: str, meant: str) -> None:
    escape_ = marks[2] if len(marks) > 2 else "\\"
    text = r"\R\ \P\ \T\ ".strip().replace("\\", escape_)
    message = parse(decode(f"MSH|{marks}|RIS|{text}".encode(), "ASCII"))
    assert message.plain(message.header.field(4)) == meant


def test_what_names_no_set_is_ascii() -> None:
    assert decode(b"MSH|^~\\&" + b"|" * 16 + b"~", "ASCII").codec == "ascii"
    assert decode("MSH|^~\\&".encode("utf-16"), "ASCII").stated == ""
