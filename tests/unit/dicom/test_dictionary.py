"""The dictionary says what pydicom's own functions say, of every element."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword

from libs.dicom import dictionary

pytestmark = pytest.mark.unit


def agrees(tag: int) -> None:
    """Compare what is said of one element."""
    try:
        vr, vm = dictionary_VR(tag), dictionary_VM(tag)
    except KeyError:
        assert dictionary.known_vr(tag) == "UN"
        assert dictionary.keyword_of(tag) == ""
        with pytest.raises(KeyError):
            dictionary.is_single(tag)
        return
    assert (dictionary.known_vr(tag), dictionary.is_single(tag)) == (vr, vm == "1")
    assert dictionary.keyword_of(tag) == keyword_for_tag(tag)


def test_every_listed_element() -> None:
    for tag in DicomDictionary:
        agrees(tag)


@given(st.sampled_from(sorted(RepeatersDictionary)), st.lists(st.sampled_from("0123456789abcdef"), min_size=4))
def test_repeating_groups(mask: str, digits: list[str]) -> None:
    filled = mask
    for digit in digits:
        filled = filled.replace("x", digit, 1)
    agrees(int(filled.replace("x", "0"), 16))


@given(st.integers(0, 0xFFFFFFFF))
def test_any_element(tag: int) -> None:
    agrees(tag)


def test_keywords() -> None:
    wanted = frozenset({"PatientID", "Rows", "SOPInstanceUID", "NoSuchKeyword"})
    assert dictionary.tags_of(wanted) == {name: tag_for_keyword(name) for name in wanted - {"NoSuchKeyword"}}


@pytest.mark.parametrize("module", ["services.ingest.receiver", "libs.dicom.identity"])
def test_what_every_receiver_loads_is_small(module: str) -> None:
    heavy = ("pydicom", "pynetdicom", "pydantic", "sqlalchemy", "numpy", "opentelemetry", "asyncio")
    code = f"import sys, {module}; print([each for each in {heavy} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
