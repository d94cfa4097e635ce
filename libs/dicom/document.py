"""A dataset's header as a document after the pattern of the DICOM JSON Model, PS3.18 annex F."""

from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import keyword_for_tag

from libs.dicom import charset, element, tokenizer
from libs.dicom.charset import Encodings
from libs.dicom.tokenizer import Form, Raw

_CHARACTER_SET: Final = 0x00080005
_DEEPEST: Final = 16


def document(found: dict[int, Raw], form: Form, parent: Encodings, depth: int = 0) -> dict[str, Any]:
    """Give tag (eight hexadecimal digits) to `{"vr": ..., "keyword": ..., "Value": [...]}`, sequences included.

    Parameters
    ----------
    found
        Elements by tag.
    form
        How they are encoded.
    parent
        Codecs that apply where the dataset names no character set itself, PS3.5 section 7.5.3.
    depth
        Sequences around the dataset; beyond 16 they are left without items.
    """
    encodings = encodings_of(found, form, parent)
    little_endian = form.little_endian
    said: dict[str, Any] = {}
    for tag in sorted(found):
        vr, value = found[tag]
        name, keyword, known = _entry(tag)
        if vr in ("", "UN"):
            vr = known
        entry: dict[str, Any] = {"vr": vr}
        if vr == "SQ":
            if depth < _DEEPEST:
                entry["Value"] = [document(item, own, encodings, depth + 1) for item, own in _items(value, form)]
        elif value:
            values = element.values(vr, value, encodings, little_endian=little_endian)
            if values:
                entry["Value"] = values
        if keyword:
            entry["keyword"] = keyword
        said[name] = entry
    return said


def encodings_of(found: dict[int, Raw], form: Form, parent: Encodings) -> Encodings:
    """Give the codecs of a dataset: by its (0008,0005), else those of the dataset around it."""
    if _CHARACTER_SET not in found:
        return parent
    vr, value = found[_CHARACTER_SET]
    terms = element.said(_CHARACTER_SET, vr, value, ("ascii",), little_endian=form.little_endian)
    return charset.encodings(tuple(str(term) for term in terms)) if terms else parent


def _items(value: bytes, form: Form) -> list[tuple[dict[int, Raw], Form]]:
    try:
        return tokenizer.items(value, form)
    except tokenizer.MalformedError:
        return []


@lru_cache(maxsize=8192)
def _entry(tag: int) -> tuple[str, str, str]:
    return f"{tag:08X}", keyword_for_tag(tag), element.known_vr(tag)
