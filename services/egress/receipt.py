"""The receipt of a delivery: which instances a destination said success for, and when, signed with Ed25519 (RFC 8032).

Signed are the canonical bytes (RFC 8785) of the receipt, so a file may be indented and its members be in any order.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from contracts.fact import Instant, Sha256, Slug, Uid
from services.egress import canonical

FORMAT: Literal["kivuko.receipt.v1"] = "kivuko.receipt.v1"
ALGORITHM: Literal["Ed25519"] = "Ed25519"

_Word = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,32}$")]
_KeyId = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0)]
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"


class NotAReceiptError(ValueError):
    """These bytes are no receipt that can be checked. The text says why, without repeating what they hold."""


class NotAKeyError(ValueError):
    """These bytes are no public key for receipts. The text says what they should be."""


class SentAs(BaseModel):
    """What transforms made of an instance: what the destination has."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: _Word = Field(description="Version of the transforms, 16 digits that follow from all that they do.")
    sop_instance_uid: Uid = Field(description="SOP Instance UID (0008,0018) as it was sent.")
    transfer_syntax_uid: Uid = Field(description="Transfer syntax in which it was made.")
    content_hash: Sha256 = Field(description="SHA-256 of the dataset's bytes as they were made.")
    size: _Count = Field(description="Length as a Part 10 file, in bytes.")


class ReceiptItem(BaseModel):
    """One instance of the study as it was to be delivered, and what became of it. What is not known is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sop_instance_uid: Uid = Field(description="SOP Instance UID (0008,0018).")
    content_hash: Sha256 = Field(description="SHA-256 of the dataset's bytes as kept, before a transform.")
    size: _Count = Field(description="Length of the Part 10 object as kept, in bytes.")
    transform: Slug | None = Field(None, description="Transform that the rule had done on the way.")
    sent_as: SentAs | None = Field(None, description="What it was when it left, where a transform changed it.")
    state: _Word = Field(description="`sent`: the receiver said success, or stored it with a warning.")
    status: _Word | None = Field(None, description="The receiver's last answer: a DICOM status in hexadecimal digits.")
    sent_at: Instant | None = Field(None, description="When the answer was recorded, UTC.")
    committed_at: Instant | None = Field(None, description="When the receiver committed itself to keep it, UTC.")
    found_at: Instant | None = Field(None, description="When the receiver first showed that it has it, UTC.")
    missing_at: Instant | None = Field(
        None, description="When the receiver was found not to have it, UTC; there is no receipt while that is so."
    )


class Receipt(BaseModel):
    """What became of one version of a study at one destination."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["kivuko.receipt.v1"] = Field(FORMAT, description="What this document is, and its version.")
    region: Slug = Field(description="Deployment that delivered.")
    delivery_id: _Word = Field(description="Identifier of the delivery.")
    tenant: Slug = Field(description="Tenant that owns the study.")
    study_instance_uid: Uid = Field(description="Study Instance UID (0020,000D).")
    destination: Slug = Field(description="Key of the destination in the network definition.")
    study_version: int = Field(ge=1, description="Version of the study that was delivered in full.")
    expected_count: int = Field(ge=1, description="How many instances of this version the destination was to get.")
    expected_hash: Sha256 = Field(description="Hash of their set, fixed before sending: see contracts/manifest.py.")
    network_version: int = Field(ge=1, description="Version of the network definition whose rules decided.")
    requested_at: Instant = Field(description="When rules first asked for it, UTC.")
    completed_at: Instant = Field(description="When the last instance had been answered, UTC.")
    attempts: int = Field(ge=1, description="Associations, or their like, that it took.")
    items: tuple[ReceiptItem, ...] = Field(description="The instances, in the order of their UIDs.")


class Signature(BaseModel):
    """Who signed, and what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["Ed25519"]
    key_id: _KeyId = Field(description="SHA-256 of the public key's DER (SubjectPublicKeyInfo, RFC 8410).")
    value: str = Field(description="Signature of the canonical bytes of `receipt`, base64.")


class SignedReceipt(BaseModel):
    """A receipt as it is exported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    receipt: Receipt
    signature: Signature


@dataclass(frozen=True)
class Exported:
    """A receipt that was read, and the very bytes that were signed."""

    receipt: Receipt
    signature: Signature
    signed_bytes: bytes


def key_id(key: Ed25519PublicKey) -> str:
    """Name a key: what `openssl pkey -pubin -in KEY.pem -outform DER | sha256sum` gives, after `sha256:`."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def canonical_bytes(receipt: Receipt) -> bytes:
    """Give the bytes that are signed."""
    return canonical.encode(receipt.model_dump(mode="json", exclude_none=True))


def export(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    """Sign a receipt and write it as JSON. The same receipt and key always give the same bytes."""
    content = canonical_bytes(receipt)
    signature = Signature(
        algorithm=ALGORITHM,
        key_id=key_id(key.public_key()),
        value=base64.b64encode(key.sign(content)).decode("ascii"),
    )
    return b'{"receipt":%b,"signature":%b}' % (content, canonical.encode(signature.model_dump()))


def read(content: bytes) -> Exported:
    """Read an exported receipt, without believing any of it yet. Raises NotAReceiptError."""
    try:
        document = canonical.decode(content)
        if not isinstance(document, dict) or not isinstance(document.get("receipt"), dict):
            raise NotAReceiptError("it has no member `receipt`")
        signed_bytes = canonical.encode(document["receipt"])
        # From the signed bytes themselves, so that nothing is shown that was not signed.
        receipt = Receipt.model_validate_json(signed_bytes, strict=True)
        rest = SignedReceipt.model_validate({**document, "receipt": receipt})
    except canonical.NotCanonicalError as error:
        raise NotAReceiptError(str(error)) from error
    except ValidationError as error:
        raise NotAReceiptError(_misfit(error)) from error
    return Exported(receipt, rest.signature, signed_bytes)


def signature_bytes(signature: Signature) -> bytes:
    """Give the signature itself. Raises NotAReceiptError for what is not base64 in its one proper form, RFC 4648."""
    try:
        value = base64.b64decode(signature.value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotAReceiptError("the signature is not base64") from error
    # Bits that are not used may differ in what decodes to the same.
    if base64.b64encode(value).decode("ascii") != signature.value:
        raise NotAReceiptError("the signature is not base64 in its proper form")
    return value


def public_pem(key: Ed25519PublicKey) -> str:
    """Write a public key as PEM, RFC 8410."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def read_keys(pem: bytes) -> dict[str, Ed25519PublicKey]:
    """Read all public keys of a PEM file, by their identifier. Raises NotAKeyError."""
    keys = [_key(_BEGIN + block.partition(_BEGIN)[2] + _END) for block in pem.split(_END)[:-1]]
    if not keys:
        raise NotAKeyError("it holds no public key in PEM (`BEGIN PUBLIC KEY`): see `kivuko delivery key`")
    return {key_id(key): key for key in keys}


def _key(block: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(block)
    except ValueError as error:
        raise NotAKeyError("a public key in it cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise NotAKeyError("a public key in it is not for Ed25519, with which receipts are signed")
    return key


def _misfit(error: ValidationError) -> str:
    flaws: Sequence[Any] = error.errors()
    where = ".".join(ascii(step).strip("'") for step in flaws[0]["loc"])
    more = f"; {len(flaws) - 1} more" if len(flaws) > 1 else ""
    return f"{where}: {flaws[0]['msg']}{more}"
