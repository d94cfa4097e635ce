"""The TLS handshake on a connection, under one deadline; and why one failed, in words for people."""

import socket
import ssl
from collections.abc import Callable
from typing import Final, Literal

#: Why a handshake failed, as a label of metrics.
Failure = Literal[
    "expired", "revoked", "unknown-authority", "no-certificate", "bad-certificate", "weak", "not-tls", "too-old",
    "no-common-cipher", "refused-by-peer", "timeout", "closed", "other",
]  # fmt: skip

_OURS: Final = "the peer refuses our certificate"
#: By the number of OpenSSL's verification error (X509_V_ERR_...).
_VERIFIED: Final[dict[int, tuple[Failure, str]]] = {
    3: ("unknown-authority", "there is no list of revoked certificates of its authority: add it to KIVUKO_TLS_CRL"),
    9: ("bad-certificate", "its certificate is not valid yet: set the clocks of both sides, or wait"),
    10: ("expired", "its certificate has expired: renew it at the peer"),
    12: ("expired", "our list of revoked certificates is out of date: renew KIVUKO_TLS_CRL"),
    18: ("unknown-authority", "its certificate is signed by itself and not among those that KIVUKO_TLS_CA names"),
    19: ("unknown-authority", "its authority is not among those that KIVUKO_TLS_CA names"),
    20: ("unknown-authority", "its authority is not among those that KIVUKO_TLS_CA names"),
    21: ("unknown-authority", "its authority is not among those that KIVUKO_TLS_CA names, or its chain is incomplete"),
    23: ("revoked", "its certificate was revoked"),
    26: ("bad-certificate", "its certificate is not made for this: it needs the extended key usage clientAuth to call"),
    62: ("bad-certificate", "its certificate is for another host name"),
    64: ("bad-certificate", "its certificate is for another address"),
    66: ("weak", "the key of its certificate is too short: RSA needs 2048 bits, elliptic curves 256"),
    67: ("weak", "the key of an authority in its chain is too short: RSA needs 2048 bits, elliptic curves 256"),
    68: ("weak", "a certificate of its chain is signed with a weak hash: SHA-256 or better is needed"),
}
#: By OpenSSL's name of the reason.
_REASONS: Final[dict[str, tuple[Failure, str]]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("no-certificate", "it has shown no certificate: give it one"),
    "UNSUPPORTED_PROTOCOL": ("too-old", "it offers only TLS 1.1 or older: TLS 1.2 or 1.3 is needed"),
    "VERSION_TOO_LOW": ("too-old", "it offers only TLS 1.1 or older: TLS 1.2 or 1.3 is needed"),
    "NO_SHARED_CIPHER": ("no-common-cipher", "it offers no cipher suite of our profile: see docs/dicom-tls.md"),
    "NO_SUITABLE_SIGNATURE_ALGORITHM": ("no-common-cipher", "it takes no signature that our key can make"),
    "NO_SHARED_SIGNATURE_ALGORITHMS": ("no-common-cipher", "it takes no signature that our key can make"),
    "NO_SUITABLE_KEY_SHARE": ("no-common-cipher", "it offers no elliptic curve that we know"),
    "WRONG_VERSION_NUMBER": ("not-tls", "it does not speak TLS: this port takes nothing else"),
    "UNEXPECTED_MESSAGE": ("not-tls", "it does not speak TLS as it should"),
    "HTTP_REQUEST": ("not-tls", "it speaks HTTP: this port is for DICOM over TLS"),
    "EE_KEY_TOO_SMALL": ("weak", "the key of its certificate is too short: RSA needs 2048 bits, elliptic curves 256"),
    "TLSV1_ALERT_UNKNOWN_CA": ("refused-by-peer", f"{_OURS}: give it our authority"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("refused-by-peer", f"{_OURS} as expired: renew KIVUKO_TLS_CERTIFICATE"),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("refused-by-peer", f"{_OURS} as revoked: renew KIVUKO_TLS_CERTIFICATE"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("refused-by-peer", f"{_OURS}: see its log"),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("refused-by-peer", f"{_OURS}: see its log"),
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": ("refused-by-peer", f"{_OURS}: it may lack the key usage serverAuth"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": ("no-common-cipher", "it offers nothing that our profile takes"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("too-old", "it takes only TLS 1.1 or older: TLS 1.2 or 1.3 is needed"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("refused-by-peer", "it wants a certificate from us"),
}


class HandshakeError(Exception):
    """No TLS came about with a peer; its connection is closed. The text says why and what to do.

    Attributes
    ----------
    failure
        The same as one of a few words.
    """

    safe_to_log = True

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


def handshake(
    connection: socket.socket,
    context: ssl.SSLContext,
    seconds: float,
    *,
    server_hostname: str | None = None,
    began: Callable[[ssl.SSLSocket], None] = lambda _: None,
) -> ssl.SSLSocket:
    """Turn a connection into one with TLS.

    Parameters
    ----------
    connection
        A connected, blocking socket. It must not be used afterwards.
    context
        Of a server, or of a client.
    seconds
        Longest time for the whole handshake, however slowly the peer drips.
    server_hostname
        Of whom a client calls.
    began
        Told of the socket that stands in for the connection from now on, so that another thread can shut it down.

    Returns
    -------
    ssl.SSLSocket
        With `seconds` as its timeout. `getpeercert(binary_form=True)` gives the certificate that the peer has proved.

    Raises
    ------
    HandshakeError
        It failed; the connection is closed.
    """
    connection.settimeout(seconds)
    secured: ssl.SSLSocket | None = None
    try:
        secured = context.wrap_socket(
            connection,
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            do_handshake_on_connect=False,
            server_hostname=server_hostname,
        )
        began(secured)
        secured.do_handshake()
    except OSError as error:
        (connection if secured is None else secured).close()
        raise HandshakeError(*_why(error, seconds)) from error
    return secured


def _why(error: OSError, seconds: float) -> tuple[Failure, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFIED.get(
            error.verify_code, ("bad-certificate", f"its certificate does not hold ({error.verify_message})")
        )
    if isinstance(error, TimeoutError):
        return "timeout", f"no TLS within {seconds:g} s: the peer is too slow, or does not speak TLS"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _REASONS.get(error.reason or "", ("other", f"TLS failed ({error.reason or 'no reason given'})"))
    return "closed", "the peer closed the connection during the handshake: it may not trust us, see its log"
