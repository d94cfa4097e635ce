"""The frozen base of every contract model, and the field markers that say what personal data a field holds."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.types import AwareDatetime

#: What a field says about a person. `no`: nothing. `pseudonym`: identifies an examination, not by itself a person.
#: `yes`: names, identifiers, dates of birth, or anything copied from a header that may hold them.
Personal = Literal["no", "pseudonym", "yes"]
PERSONAL_KEY = "x-personal-data"


class Fact(BaseModel):
    """An immutable part of an event. Unknown fields are ignored, so that a newer producer does not break a consumer."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")


def plain(description: str, **kwargs: Any) -> Any:
    """Declare a field that says nothing about a person."""
    return _field(description, "no", kwargs)


def pseudonym(description: str, **kwargs: Any) -> Any:
    """Declare a field that identifies an examination, but no person without a second source."""
    return _field(description, "pseudonym", kwargs)


def personal(description: str, **kwargs: Any) -> Any:
    """Declare a field that may hold personal data: it never enters logs, spans or metrics."""
    return _field(description, "yes", kwargs)


def _field(description: str, mark: Personal, kwargs: dict[str, Any]) -> Any:
    return Field(description=description, json_schema_extra={PERSONAL_KEY: mark}, **kwargs)


#: A DICOM unique identifier, PS3.5 section 9.1: at most 64 characters of digits and dots. Leading zeros in a
#: component occur in the field and are let through, as an identifier must be kept as it was received.
Uid = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=64)]
#: An application entity title, PS3.5 section 6.2: 1 to 16 characters, no backslash, no control characters.
AeTitle = Annotated[str, StringConstraints(pattern=r"^[^\\\x00-\x1f\x7f]{1,16}$")]
#: A name in the network definition that becomes part of routing keys and object keys.
Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
#: SHA-256 as 64 lower-case hexadecimal digits.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: A point in time with its offset; producers write UTC.
Instant = AwareDatetime
#: The value of one attribute in an event: text, a number, or several of either. Binary values are never carried.
AttributeValue = str | int | float | list[str] | list[int] | list[float]
#: DICOM keyword (PS3.6) to value; absent attributes are absent.
Attributes = dict[str, AttributeValue]


class ObjectRef(Fact):
    """A reference to an object in the object store."""

    key: str = pseudonym("Key in the object store, without the bucket.")
    sha256: Sha256 = plain("SHA-256 of the object's bytes.")
    size: int = plain("Length of the object in bytes.", ge=0)


class Source(Fact):
    """Where an arrival came from: the admitted node and what the caller said of itself."""

    site: Slug = plain("Site of the node in the network definition.")
    node: str = plain("Key of the node in the network definition.")
    calling_aet: AeTitle = plain("Calling AE title of the association.")
    called_aet: AeTitle = plain("Called AE title of the association.")
    address: str = plain("Source address of the association, without the port.")
    tls_subject: str | None = plain(
        "Subject of the certificate that the caller has proved by TLS, as RFC 4514 writes it; None without TLS.",
        max_length=1024,
        default=None,
    )
