"""What stands for letters that a modality can't show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worklist.transliteration import UNKNOWN, fitted

pytestmark = pytest.mark.unit


def ascii_only(text: str) -> bool:
    return text.isascii()


def latin(text: str) -> bool:
    return all(ord(each) < 256 for each in text)


@pytest.mark.parametrize(
    ("character", "stands"),
    [
        ("é", "e"), ("Ñ", "N"), ("ñ", "n"), ("ß", "ss"), ("Æ", "Ae"), ("æ", "ae"), ("Ø", "Oe"), ("å", "aa"), ("Ł", "L"),
        ("ı", "i"), ("Þ", "Th"), ("Щ", "Shch"), ("щ", "shch"), ("Ж", "Zh"), ("ь", ""), ("Ъ", "Ie"), ("ё", "e"),
        ("Є", "Ie"), ("ї", "i"), ("ў", "u"), ("љ", "lj"), ("Θ", "Th"), ("ψ", "ps"), ("ς", "s"), ("ά", "a"), ("Ώ", "O"),
        ("أ", "a"), ("غ", "gh"), ("ش", "sh"), ("ة", "h"), ("گ", "g"), ("\u2019", "'"), ("\u201c", '"'), ("\u2013", "-"),
        ("\u00a0", " "), ("€", "EUR"), ("№", "No"), ("…", "..."), ("ﾔ", UNKNOWN), ("山", UNKNOWN), ("한", UNKNOWN),
        ("ﬁ", "fi"), ("Ａ", "A"), ("\u0301", ""),
    ],
)  # fmt: skip
def test_what_stands_for_a_letter(character: str, stands: str) -> None:
    assert fitted(character, ascii_only) == stands


def test_the_nearest_that_fits_is_taken() -> None:
    # A letter that the table has goes by the table, where that fits.
    assert fitted("Ĺ", latin) == "L"
    assert fitted("ά", lambda text: text == "α") == UNKNOWN
    assert fitted("щ", lambda _: False) == UNKNOWN


@given(st.characters(exclude_categories=["Cs"]))
def test_what_stands_for_a_letter_can_be_written(character: str) -> None:
    assert ascii_only(fitted(character, ascii_only))
