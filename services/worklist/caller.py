"""Who asks over DICOM, and what is said to them."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Caller:
    """A node on an association.

    Attributes
    ----------
    association
        Name of the association.
    node, site, tenant
        Keys in the network definition.
    calling_aet, called_aet
        AE titles.
    address
        Source address, without the port.
    """

    association: str
    node: str
    site: str
    tenant: str
    calling_aet: str
    called_aet: str
    address: str


@dataclass(frozen=True)
class Done:
    """How an operation on a performed procedure step ended, PS3.7 section 10.1.

    Attributes
    ----------
    status
        PS3.7 annex C.
    dataset
        Of the response, in the transfer syntax of the request; none: it has none.
    comment
        Why, for people; no personal data.
    error_id
        (0000,0903), where PS3.4 annex F names one.
    attributes
        Tags of the Attribute Identifier List (0000,1005): what it is about.
    """

    status: int
    dataset: bytes | None = None
    comment: str = ""
    error_id: int | None = None
    attributes: tuple[int, ...] = ()


class Steps(Protocol):
    """Modality performed procedure steps, PS3.4 annex F. Called from the threads of associations; may block.

    What is answered with success is on stable storage. What they raise is a defect and aborts the association.
    """

    def create(self, caller: Caller, sop_instance_uid: str, data: bytes, syntax: str) -> Done:
        """Do an N-CREATE, PS3.4 section F.7.2.1; the UID is there even if the modality gave none."""
        ...

    def set(self, caller: Caller, sop_instance_uid: str, data: bytes, syntax: str) -> Done:
        """Do an N-SET, PS3.4 section F.7.2.2."""
        ...

    def get(self, caller: Caller, sop_instance_uid: str, attributes: tuple[int, ...], syntax: str) -> Done:
        """Do an N-GET of the attributes with these tags, all if there are none, PS3.4 section F.8.2."""
        ...
