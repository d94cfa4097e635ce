"""Descriptions cleaned by a list of what may stay: the words of DICOM's own terms, PS3.15 section E.3.5.

What may not stay is unknown; what may stay is known. Words of the names and codes of the Standard (PS3.6, PS3.16) stay,
unless they are in a name or identifier of the same instance; so do short numbers, and marks such as T1 or L5.
"""

import re
from collections.abc import Collection
from functools import cache
from typing import Final, cast

from pydicom._dicom_dict import DicomDictionary  # the public module has it without saying so

from services.egress.transforms.traces import Traces

_TOKEN: Final = re.compile(r"[^\W_]+|[\W_]+")
_WORD: Final = re.compile(r"[^\W\d_]+")
#: A number that is too short to be a date or an identifier, with or without a letter before or a unit after it.
_SHORT: Final = re.compile(r"[a-z]?[0-9]{1,3}(d|x|mm|cm|kv|ma|mas|ms|s|mg|ml|hz)?")
#: Words of every day's protocols that no table of the Standard has.
_MORE: Final = """
    abd abdomen abdominal adc angio ap arterial asl ax axial bilat bilateral bolus bone brain breast cardiac cervical
    chest cine contrast cor coronal cta ctv cube delayed dce dixon dti dwi dyn dynamic ecg epi extremity fast fat fiesta
    flair flow fov fs fse gre hand haste head heart hip hr inj iv knee lat lateral left lt lumbar lung mip mpr mra mri
    neck non nonc oblique pa pelvis perf perfusion phase pns portal post pre pro recon ref right routine rt sag sagittal
    scan scout se series shoulder sinus skull soft space spgr spine sshfse std stir study supine prone swi thin thoracic
    thorax tirm tof tra trace trans transverse tse turbo trauma upper vein venous vibe view vol volume with without wo
    wrist
    """


def cleaned(text: str, traces: Traces, keep: Collection[str] = ()) -> str:
    """Give a description with nothing in it but words that may stay.

    Parameters
    ----------
    text
        As it was.
    traces
        Names and identifiers of the instance: their words go even if they are known.
    keep
        More words that may stay, in lower case.
    """
    known = _vocabulary()
    kept = []
    for token in _TOKEN.findall(text):
        word = token.lower()
        if not word[0].isalnum():
            kept.append(token if token.isascii() else " ")
        elif word in keep or (not traces.within(word) and (word in known or _SHORT.fullmatch(word))):
            kept.append(token)
    # What stood around a word that went is no word.
    said = re.sub(r"\s+", " ", "".join(kept)).strip(" _-,;:/.()[]*+&")
    return said if any(character.isalnum() for character in said) else ""


@cache
def _vocabulary() -> frozenset[str]:
    # The terms of PS3.16, to all of which there is no public way; large, and not everybody cleans descriptions.
    from pydicom.sr import _concepts_dict  # noqa: PLC0415

    names = [entry[2] for entry in DicomDictionary.values()]
    meanings = [
        meaning
        for scheme in _concepts_dict.concepts.values()
        for codes in cast("dict[str, dict[str, tuple[str, list[int]]]]", scheme).values()
        for meaning, _ in codes.values()
    ]
    words = {word for text in (*names, *meanings) for word in _WORD.findall(text.lower()) if len(word) > 1}
    return frozenset(words.union(_MORE.split()))
