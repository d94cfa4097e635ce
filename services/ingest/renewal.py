"""Watches the files of DICOM TLS: says in good time that one must be renewed, and at once that a new one is unfit."""

import asyncio
from datetime import datetime, timedelta
from typing import Final

from libs.clock import Clock
from libs.dimse.tls import CertificateError, Certificates, Files, Profile, server_context
from libs.dimse.validity import Kind, Term, terms
from libs.telemetry import log
from services.ingest import metric

_LOG = log.get(__name__)
_LOOK_EVERY: Final = 60.0
_SAY_EVERY: Final = timedelta(days=1)
_WORDS: Final[dict[Kind, tuple[str, str]]] = {
    "certificate": ("our certificate for DICOM TLS", "renew the file of KIVUKO_TLS_CERTIFICATE"),
    "authority": ("an authority for DICOM TLS", "add its successor to the file of KIVUKO_TLS_CA, or take it out"),
    "revoked": ("the list of revoked certificates", "renew the file of KIVUKO_TLS_CRL: no sender gets in without"),
}


def unfit(error: CertificateError) -> None:
    """Say that changed files do not fit, and that the ones from before are still in force."""
    metric.FAILURES.labels(kind="alarm").inc()
    _LOG.error("new files for DICOM TLS are not taken; those from before stay in force", reason=str(error))


class Renewal:
    """Watches the files of DICOM TLS.

    Raises
    ------
    CertificateError
        They do not fit at the start.
    """

    def __init__(self, files: Files, profile: Profile, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._certificates = Certificates(files, lambda given: server_context(given, profile), unfit)
        self._said: dict[Term, datetime] = {}

    async def run(self) -> None:
        """Look every minute, until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_EVERY)

    def look(self) -> None:
        """Look once: at changed files, and at how long they hold."""
        self._certificates.context()
        try:
            found = terms(self._files)
        except CertificateError as error:
            _LOG.warning("it is not known how long the files for DICOM TLS hold", reason=str(error))
            return
        now = self._clock()
        for term in found:
            metric.TLS_DAYS.labels(kind=term.kind).set(term.days(now))
            self._say(term, now)
        self._said = {term: at for term, at in self._said.items() if term in found}

    def _say(self, term: Term, now: datetime) -> None:
        urgency = term.urgency(now)
        last = self._said.get(term)
        if urgency == "ok" or (last is not None and abs(now - last) < _SAY_EVERY):
            return
        self._said[term] = now
        what, advice = _WORDS[term.kind]
        if urgency == "soon":
            _LOG.warning("TLS file ends soon", item=what, until=term.ends, advice=advice)
            return
        metric.FAILURES.labels(kind="alarm").inc()
        if urgency == "over":
            _LOG.error("TLS file has ended", item=what, until=term.ends, advice=advice)
        else:
            _LOG.error("TLS file ends", item=what, until=term.ends, advice=advice)
