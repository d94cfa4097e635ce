"""The HL7 port as a part of the service: made when it starts, ended when it stops."""

import errno
from collections.abc import Callable, Mapping

from libs.dimse.admission import Resolved
from libs.dimse.gate import lets_local_in
from libs.dimse.tls import CertificateError, Certificates, hl7_files_of, server_context
from libs.service import Platform
from libs.telemetry import log
from libs.web.server import ListenError
from services.worklist import hl7_metric as metric
from services.worklist.hl7_intake import Intake, Taking
from services.worklist.hl7_settings import Hl7Settings
from services.worklist.listener_hl7 import Hl7Listener

_LOG = log.get(__name__)


class Hl7Port:
    """Takes HL7 over MLLP.

    Parameters
    ----------
    orders
        Keeps what messages say.
    resolved
        Gives the addresses of the definition's host names.
    """

    def __init__(self, platform: Platform, orders: Taking, resolved: Callable[[], Resolved]) -> None:
        self._platform = platform
        self._orders = orders
        self._resolved = resolved
        self._listener: Hl7Listener | None = None
        self._addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        ListenError
            A port is not to be had.
        CertificateError
            The files for TLS do not fit.
        """
        platform, settings = self._platform, self._platform.settings
        files, certificates = hl7_files_of(settings), None
        if files is not None:
            certificates = Certificates(files, lambda given: server_context(given, settings.tls_profile), _unfit)
        self._listener = Hl7Listener(
            platform.network,
            Intake(platform.network, self._orders, platform.clock),
            Hl7Settings(),
            resolved=self._resolved,
            loopback=lets_local_in(platform),
            certificates=certificates,
        )
        self._addresses = {"hl7": self._listen(self._listener, settings.hl7_port, "KIVUKO_HL7_PORT", tls=False)}
        if settings.hl7_tls_port is not None:
            port = settings.hl7_tls_port
            self._addresses["hl7-tls"] = self._listen(self._listener, port, "KIVUKO_HL7_TLS_PORT", tls=True)

    async def stop(self) -> None:
        """Stop listening, and answer what has come."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()

    def addresses(self) -> Mapping[str, str]:
        """Give what it listens on, for the `ready` line."""
        return self._addresses

    def _listen(self, listener: Hl7Listener, port: int, variable: str, *, tls: bool) -> str:
        host = self._platform.settings.bind
        try:
            return listener.listen(host, port, tls=tls)
        except OSError as error:
            why = "another program has it" if error.errno == errno.EADDRINUSE else (error.strerror or "not possible")
            raise ListenError(
                f"HL7 cannot listen on {host} port {port}: {why}. "
                f"Set KIVUKO_BIND to an address of this machine and {variable} to a free port, or to 0 for any."
            ) from error


def _unfit(error: CertificateError) -> None:
    metric.FAILURES.inc()
    _LOG.error("new files for HL7 with TLS are not taken; those from before stay in force", reason=str(error))
