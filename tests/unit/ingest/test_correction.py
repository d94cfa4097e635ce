"""What may be corrected, and with what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.correction import CORRECTABLE, CorrectionError, checked


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyInstanceUID", "1.2.840.113619"),
        ("SOPInstanceUID", "1" * 64),
        ("SeriesInstanceUID", "1.02.3"),
        ("PatientName", "Doe^Jane^Maria^Dr.^Jr.=山田^太郎=やまだ^たろう"),
        ("PatientBirthDate", "20240229"),
        ("PatientBirthDate", ""),
        ("PatientID", "P 1"),
        ("AccessionNumber", "A" * 16),
        ("PatientSex", "F"),
        ("IssuerOfPatientID", ""),
    ],
)
def test_what_can_be_set(keyword: str, value: str) -> None:
    (given_back,) = checked({keyword: f"{value} "}).values()
    assert given_back == value


@pytest.mark.parametrize(
    ("keyword", "value", "why"),
    [
        ("StudyInstanceUID", "1.2..3", "not a valid UID"),
        ("StudyInstanceUID", "", "can't be empty"),
        ("SOPInstanceUID", "1" * 65, "not a valid UID"),
        ("SeriesInstanceUID", "1.2.x", "not a valid UID"),
        ("SOPClassUID", "1.2/3", "not a valid UID"),
        ("PatientBirthDate", "20230229", "not a date"),
        ("PatientBirthDate", "1970-01-01", "not a date"),
        ("PatientName", "a^b^c^d^e^f", "not a name"),
        ("PatientName", "a=b=c=d", "not a name"),
        ("PatientName", "a" * 65, "too long"),
        ("PatientID", "P\\1", "backslash"),
        ("PatientID", "P\n1", "control character"),
        ("PatientID", "P" * 65, "too long"),
        ("AccessionNumber", "A" * 17, "too long"),
        ("PatientSex", "X", "M, F or O"),
        ("PixelData", "", "can't be corrected"),
        ("Doe^Jane", "", "that can't be corrected"),
    ],
)
def test_what_can_not_be_set_is_said_without_the_value(keyword: str, value: str, why: str) -> None:
    with pytest.raises(CorrectionError, match=why) as refused:
        checked({keyword: value})
    assert not value or len(value) < 6 or value not in str(refused.value)
    assert "Doe" not in str(refused.value)


@given(st.dictionaries(st.sampled_from([*CORRECTABLE, "Rows", "x"]), st.text(max_size=70), max_size=4))
def test_whatever_is_given_is_set_as_dicom_allows_or_refused(corrections: dict[str, str]) -> None:
    try:
        values = checked(corrections)
    except CorrectionError:
        return
    assert len(values) == len(corrections)
    for value in values.values():
        assert "\\" not in value
        assert value.isprintable() or not value.isascii()
