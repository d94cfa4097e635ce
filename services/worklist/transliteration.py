"""What stands for letters that a modality can't show. Pure.

Accents are taken off; Cyrillic, Greek and Arabic become Latin letters, after the tables for machine-readable passports
(ICAO Doc 9303 part 3 section 6), which people may know their name by. What has no letters becomes `?`.
"""

import unicodedata
from collections.abc import Callable
from typing import Final

_CYRILLIC: Final = (
    "а=a б=b в=v г=g д=d е=e ё=e ж=zh з=z и=i й=i к=k л=l м=m н=n о=o п=p р=r с=s т=t у=u ф=f х=kh ц=ts ч=ch ш=sh "
    "щ=shch ъ=ie ы=y ь= э=e ю=iu я=ia і=i ї=i є=ie ґ=g ў=u ђ=d ј=j љ=lj њ=nj ћ=c џ=dz ѓ=g ќ=k ѕ=dz"
)
_GREEK: Final = "α=a β=v γ=g δ=d ε=e ζ=z η=i θ=th ι=i κ=k λ=l μ=m ν=n ξ=x ο=o π=p ρ=r σ=s ς=s τ=t υ=y φ=f χ=ch ψ=ps ω=o"
_ARABIC: Final = (
    "ا=a ب=b ت=t ث=th ج=j ح=h خ=kh د=d ذ=dh ر=r ز=z س=s ش=sh ص=s ض=d ط=t ظ=z ع=a غ=gh ف=f ق=q ك=k ل=l م=m ن=n ه=h "
    "و=w ي=y ى=a ة=h ء=e پ=p چ=ch ژ=zh ک=k گ=g ی=y"
)
_LATIN: Final = "ß=ss æ=ae œ=oe ø=oe å=aa ł=l đ=d ð=d þ=th \u0131=i ŋ=n ħ=h ŧ=t"
_MARKS: Final = "\u2019=' \u2018=' \u201c=\" \u201d=\" \u2013=- \u2014=- \u00a0=\u0020 …=... €=EUR №=No"


def _table() -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in f"{_CYRILLIC} {_GREEK} {_ARABIC} {_LATIN}".split(" "):
        letter, _, latin = pair.partition("=")
        found[letter.upper()] = latin.capitalize()
        found[letter] = latin
    for pair in _MARKS.split(" "):
        letter, _, latin = pair.partition("=")
        found[letter] = latin or " "
    return found


_TABLE: Final = _table()
UNKNOWN: Final = "?"


def fitted(character: str, fits: Callable[[str], bool]) -> str:
    """Give what stands for a character that does not fit: what is nearest of what does.

    Parameters
    ----------
    character
        One that `fits` says no to.
    fits
        Tells whether a text can be written.
    """
    found = _TABLE.get(character)
    if found is None:
        # Marks that are set onto letters have gone when nothing is left of them.
        found = "".join(each for each in unicodedata.normalize("NFKD", character) if not unicodedata.combining(each))
        found = "".join(_TABLE.get(each, each) for each in found)
    return found if fits(found) else UNKNOWN
