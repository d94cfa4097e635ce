"""Performed procedure steps: what takes them, and what passes them on, made when the service starts."""

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import Final

from libs.dimse.calling import Timeouts
from libs.dimse.tls import CertificateError, Certificates, Files, client_context, own_files_of
from libs.messaging.outbox import Outbox
from libs.service import Platform
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import metric
from services.worklist.forward import Backoff
from services.worklist.forwarding import Forwarding
from services.worklist.mpps import Steps
from services.worklist.settings import WorklistSettings

_LOG = log.get(__name__)
#: Seconds, for nodes that steps are passed on to.
_TIMEOUTS: Final = Timeouts(connect=10, acse=30, response=60, network=60)


class Performing:
    """Both parts, on the service's event loop."""

    def __init__(self, platform: Platform, database: Database, outbox: Outbox) -> None:
        settings = WorklistSettings()
        self._platform = platform
        self._database = database
        self._outbox = outbox
        self._settings = settings
        self._certificates: dict[str | None, Certificates] = {}
        self.forwarding = Forwarding(
            database,
            platform.network,
            self._contexts,
            replica=platform.settings.instance,
            timeouts=_TIMEOUTS,
            backoff=Backoff(settings.forward_first, settings.forward_cap),
            clock=platform.clock,
            random=random.random,
        )

    def steps(self) -> Steps:
        """Give what takes steps. From the event loop."""
        return Steps(
            self._database,
            self._outbox,
            self._platform.network,
            self._platform.clock,
            loop=asyncio.get_running_loop(),
            forwarded=self.forwarding.wake,
        )

    def _contexts(self, secret: str | None) -> Callable[[], ssl.SSLContext] | str:
        """Give what makes TLS contexts with our certificate, the network's own or a named one."""
        if secret not in self._certificates:
            files = self._files(secret)
            if isinstance(files, str):
                return files
            profile = self._platform.settings.tls_profile
            try:
                made = Certificates(files, lambda given: client_context(given, profile), _unfit)
            except CertificateError as error:
                return str(error)
            self._certificates[secret] = made
        return self._certificates[secret].context

    def _files(self, secret: str | None) -> Files | str:
        if secret is None:
            own = own_files_of(self._platform.settings)
            return own or "set KIVUKO_TLS_CERTIFICATE, KIVUKO_TLS_KEY and KIVUKO_TLS_CA, and start again"
        if self._settings.secrets is None:
            return f"set KIVUKO_WORKLIST_SECRETS to the folder that holds the secret {secret}, and start again"
        place = self._settings.secrets / secret
        return Files(place / "tls.crt", place / "tls.key", place / "ca.crt")


def _unfit(error: CertificateError) -> None:
    metric.FAILURES.labels(kind="alarm").inc()
    _LOG.error("changed certificates can't be used, those from before stay in force", reason=str(error))
