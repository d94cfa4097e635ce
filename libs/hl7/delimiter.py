"""The characters that a message is taken apart by: MSH-1 and MSH-2, HL7 v2 chapter 2 section 2.5.4."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Delimiters:
    """What a message says of itself; an empty text for one that it does not have."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""

    @property
    def encoding(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent + self.truncation


DEFAULT = Delimiters()
