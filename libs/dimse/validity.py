"""For how long the files that TLS stands on hold: one that is out of date stops every sender at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from libs.dimse.certificate import UnreadableCertificateError, next_updates, read_pem
from libs.dimse.tls import CertificateError, Files

Kind = Literal["certificate", "authority", "revoked"]
#: How long before their end people are told: certificates take weeks to be issued; lists of revoked ones live for days.
_SOON: Final[dict[Kind, timedelta]] = {
    "certificate": timedelta(days=30),
    "authority": timedelta(days=90),
    "revoked": timedelta(days=1),
}
_URGENT: Final[dict[Kind, timedelta]] = {
    "certificate": timedelta(days=7),
    "authority": timedelta(days=30),
    "revoked": timedelta(hours=6),
}


@dataclass(frozen=True)
class Term:
    """The end of what a file holds: the first of several."""

    kind: Kind
    path: Path
    ends: datetime

    def urgency(self, now: datetime) -> Literal["ok", "soon", "urgent", "over"]:
        """Tell how much it presses."""
        left = self.ends - now
        if left <= timedelta():
            return "over"
        if left <= _URGENT[self.kind]:
            return "urgent"
        return "soon" if left <= _SOON[self.kind] else "ok"

    def days(self, now: datetime) -> float:
        """Days left; below 0 when it is over."""
        return (self.ends - now) / timedelta(days=1)


def terms(files: Files) -> list[Term]:
    """Give the term of each file. Raises CertificateError."""
    return list(_terms(files))


def _terms(files: Files) -> Iterator[Term]:
    # Of our own file the chain counts, too: peers check all of it.
    wanted: tuple[tuple[Kind, Path | None], ...] = (
        ("certificate", files.certificate),
        ("authority", files.authorities),
        ("revoked", files.revoked),
    )
    for kind, path in wanted:
        if path is None:
            continue
        try:
            pem = path.read_bytes()
            ends = next_updates(pem) if kind == "revoked" else [each.expires for each in read_pem(pem)]
        except OSError as error:
            raise CertificateError(f"{path} cannot be read ({type(error).__name__}): let this user read it") from error
        except UnreadableCertificateError as error:
            raise CertificateError(f"{path}: {error}") from error
        if ends:
            yield Term(kind, path, min(ends))
