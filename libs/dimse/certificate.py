"""What an X.509 certificate says (RFC 5280): of its holder, and for how long."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

#: Characters of a subject that are kept.
_LONGEST_SUBJECT: Final = 1024


class UnreadableCertificateError(Exception):
    """These bytes are no certificate. The text says what to do."""

    safe_to_log = True


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Attributes
    ----------
    common_names
        Common names of the subject, as written.
    dns_names
        DNS names of the subject's alternative names, in lower case; a wildcard stays as it is and stands for no name.
    fingerprint
        `sha256:` and the SHA-256 of its DER in hexadecimal digits.
    starts, expires
        Time of its validity, UTC.
    subject
        Its subject as RFC 4514 writes it, such as `CN=ct1,O=Hospital`, cut off after 1,024 characters.
    """

    common_names: frozenset[str]
    dns_names: frozenset[str]
    fingerprint: str
    starts: datetime
    expires: datetime
    subject: str = ""

    def says(self, wanted: str) -> bool:
        """Tell whether this is the certificate that a network definition asks for.

        The whole name has to be the same: common names to the letter, DNS names but for their case (RFC 4343).
        """
        if wanted.startswith("sha256:"):
            return wanted == self.fingerprint
        return wanted in self.common_names or wanted.lower() in self.dns_names


def read_der(der: bytes) -> Certificate:
    """Read one certificate in DER. Raises UnreadableCertificateError."""
    try:
        found = x509.load_der_x509_certificate(der)
        return _certificate(found, der)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise UnreadableCertificateError(
            "the certificate cannot be read: have its authority issue one that keeps to RFC 5280"
        ) from error


def read_pem(pem: bytes) -> list[Certificate]:
    """Read all certificates of a PEM file in their order. Raises UnreadableCertificateError."""
    try:
        return [_certificate(each, each.public_bytes(Encoding.DER)) for each in x509.load_pem_x509_certificates(pem)]
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise UnreadableCertificateError("the file holds no certificate in PEM: write it anew") from error


def next_updates(pem: bytes) -> list[datetime]:
    """Give until when each list of revoked certificates of a PEM file holds, UTC. Raises UnreadableCertificateError."""
    end = b"-----END X509 CRL-----"
    try:
        lists = [x509.load_pem_x509_crl(part + end) for part in pem.split(end)[:-1]]
    except ValueError as error:
        raise UnreadableCertificateError("the file holds no list of revoked certificates: write it anew") from error
    return [each.next_update_utc for each in lists if each.next_update_utc is not None]


def _certificate(found: x509.Certificate, der: bytes) -> Certificate:
    return Certificate(
        frozenset(str(each.value) for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)),
        _dns_names(found),
        f"sha256:{hashlib.sha256(der).hexdigest()}",
        found.not_valid_before_utc,
        found.not_valid_after_utc,
        found.subject.rfc4514_string()[:_LONGEST_SUBJECT],
    )


def _dns_names(found: x509.Certificate) -> frozenset[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))
