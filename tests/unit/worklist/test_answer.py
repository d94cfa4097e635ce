"""Items as datasets, read again by pydicom."""

from io import BytesIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread

from services.worklist.answer import ASCII, AUTOMATIC, Answer, answer
from services.worklist.attributes import Attributes
from services.worklist.identifier import Key
from services.worklist.query import Query

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
NAME = Key(0x00100010, "PN")
CODES = 0x00321064


def read(made: Answer, syntax: str = EXPLICIT) -> Dataset:
    found = Dataset()
    parsed = dcmread(BytesIO(_meta(syntax) + made.dataset), force=True)
    found.update(parsed)
    found.decode()
    return found


def _meta(syntax: str) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\x02\x00\x10\x00UI" + len(uid).to_bytes(2, "little") + uid
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + len(element).to_bytes(4, "little") + element


def write(item: Attributes, *keys: Key, charset: tuple[str, ...] = (AUTOMATIC,), syntax: str = EXPLICIT) -> Answer:
    return answer(Query(keys), item, syntax, charset)


@pytest.mark.parametrize(
    ("name", "charset", "said"),
    [
        ("Müller^José", (AUTOMATIC,), "ISO_IR 100"),
        ("Люк^Иван", (AUTOMATIC,), "ISO_IR 192"),
        ("DOE^JANE", (AUTOMATIC,), "ISO_IR 100"),
        ("Люк^Иван", ("ISO_IR 144",), "ISO_IR 144"),
        ("Διονυσιος^Άννα", ("ISO_IR 126",), "ISO_IR 126"),
        ("قباني^لنزار", ("ISO_IR 127",), "ISO_IR 127"),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            ("ISO 2022 IR 6", "ISO 2022 IR 87"),
            ["ISO 2022 IR 6", "ISO 2022 IR 87"],
        ),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", ("ISO 2022 IR 13", "ISO 2022 IR 87"), ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ("ISO 2022 IR 6", "ISO 2022 IR 149"), ["ISO 2022 IR 6", "ISO 2022 IR 149"]),
        ("Wang^XiaoDong=王^小东", ("GB18030",), "GB18030"),
        ("Buc^Jérôme=Люк^Иван", ("ISO 2022 IR 100", "ISO 2022 IR 144"), ["ISO 2022 IR 100", "ISO 2022 IR 144"]),
    ],
)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_name_comes_in_the_character_set_that_the_modality_shows(
    name: str, charset: tuple[str, ...], said: str, syntax: str
) -> None:
    made = write({"PatientName": (name,)}, NAME, charset=charset, syntax=syntax)
    found = read(made, syntax)
    assert found.SpecificCharacterSet == said
    assert str(found.PatientName) == name
    assert not made.replaced


@pytest.mark.parametrize(
    ("name", "charset", "shown"),
    [
        ("Müller^Łukasz", ("ISO_IR 100",), "Müller^Lukasz"),
        ("Müller^José", (ASCII,), "Muller^Jose"),
        ("Щукин^Юрий", ("ISO_IR 100",), "Shchukin^Iurii"),
        ("Άννα^Χριστίνα", (ASCII,), "Anna^Christina"),
        ("أحمد^علي", ("ISO_IR 100",), "ahmd^aly"),
        ("山田^太郎", ("ISO_IR 100",), "??^??"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ("ISO_IR 100",), "Yamada^Tarou"),
        ("O\u2019Brien^Seán", (ASCII,), "O'Brien^Sean"),
        ("山田^太郎", ("ISO_IR 13",), "??^??"),
    ],
)
def test_what_can_not_be_shown_is_written_otherwise_and_said(name: str, charset: tuple[str, ...], shown: str) -> None:
    made = write({"PatientName": (name,)}, NAME, charset=charset)
    assert str(read(made).PatientName) == shown
    assert made.replaced == {"PatientName"}


def test_a_character_set_is_always_said() -> None:
    assert read(write({}, NAME)).SpecificCharacterSet == "ISO_IR 100"
    assert read(write({}, NAME, charset=(ASCII,))).SpecificCharacterSet == ""


def test_only_what_was_asked_for_is_there_and_all_of_that() -> None:
    keys = (
        NAME,
        Key(0x00100020, "LO"),
        Key(CODES, "SQ", items=()),
        Key(0x00080201, "SH"),
        Key(0x00091001, "LO", ("X",)),
    )
    found = read(write({"PatientName": ("A",), "PatientSex": ("F",)}, *keys))
    assert [each.tag for each in found] == [0x00080005, 0x00091001, 0x00100010, 0x00100020, CODES]
    assert (found.PatientName, found.PatientID, list(found[CODES].value)) == ("A", "", [])


def test_of_a_sequence_come_the_matching_items_with_what_was_asked_for() -> None:
    code = {"CodeValue": ("1",), "CodeMeaning": ("A",), "CodingSchemeDesignator": ("S",)}
    item: Attributes = {"RequestedProcedureCodeSequence": (code, {**code, "CodeValue": ("2",)})}
    asked = Key(CODES, "SQ", items=((Key(0x00080100, "SH", ("2",)), Key(0x00080104, "LO")),))
    (inner,) = read(write(item, asked))[CODES].value
    assert [(each.keyword, each.value) for each in inner] == [("CodeValue", "2"), ("CodeMeaning", "A")]
    whole = read(write(item, Key(CODES, "SQ", items=())))[CODES].value
    assert [len(each) for each in whole] == [3, 3]
    assert [len(each) for each in read(write(item, Key(CODES, "SQ", items=((),))))[CODES].value] == [3, 3]


@pytest.mark.parametrize(
    ("tag", "vr", "value", "expected"),
    [
        (0x001021C0, "US", "4", 4),
        (0x001021C0, "US", "many", None),
        (0x00101030, "DS", "61.5", 61.5),
        (0x0020000D, "UI", "1.2.3", "1.2.3"),
        (0x00102000, "LO", "a\x1b$Bx\n", "a$Bx"),
        (0x00104000, "LT", "one\r\ntwo\\three", "one\r\ntwo\\three"),
    ],
)
def test_values_of_every_kind_are_written(tag: int, vr: str, value: str, expected: object) -> None:
    key = Key(tag, vr)
    assert read(write({key.keyword: (value,)}, key))[tag].value == expected


@pytest.mark.parametrize(
    ("tag", "vr", "value", "padded"),
    [
        (0x00100010, "PN", "ABC", b"ABC "),
        (0x0020000D, "UI", "1.2.3", b"1.2.3\0"),
        (0x00080060, "CS", "CT", b"CT"),
        (0x00100020, "LO", "P", b"P "),
    ],
)
def test_values_of_odd_length_are_padded(tag: int, vr: str, value: str, padded: bytes) -> None:
    """PS3.5 section 6.2: each value field has an even length; a UID is padded with NUL, text with a space."""
    key = Key(tag, vr)
    made = write({key.keyword: (value,)}, key, charset=(ASCII,)).dataset
    assert made.endswith(vr.encode() + len(padded).to_bytes(2, "little") + padded)


def test_what_is_too_long_for_its_length_field_is_written_all_the_same() -> None:
    found = read(write({"PatientComments": ("x" * 70_000,)}, Key(0x00104000, "LT")))
    assert len(found[0x00104000].value) == 70_000


@example(text="\u00a5", charset=("ISO_IR 13",))  # its byte is the delimiter of values
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\^="), max_size=20),
    st.sampled_from(
        [
            (ASCII,),
            ("ISO_IR 100",),
            ("ISO_IR 144",),
            ("ISO_IR 13",),
            ("ISO 2022 IR 6", "ISO 2022 IR 87"),
            ("GB18030",),
            ("GBK",),
            ("ISO_IR 192",),
            ("ISO 2022 IR 6", "ISO 2022 IR 149"),
        ]
    ),
)
def test_no_text_can_not_be_written(text: str, charset: tuple[str, ...]) -> None:
    made = write({"PatientName": (text,)}, NAME, charset=charset)
    found = read(made)
    if not made.replaced:
        assert str(found.PatientName).strip() == text.strip()
