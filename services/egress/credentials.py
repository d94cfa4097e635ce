"""Our certificates as one who calls: the network's own, and others that the definition names as secrets."""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from libs.dimse.tls import CertificateError, Certificates, Files, client_context
from libs.settings import Settings
from libs.telemetry import log
from services.egress.reach import Obstacle

_log = log.get(__name__)


class Credentials:
    """TLS contexts by the name of their secret; each is made anew when its files change.

    A secret is a folder with `tls.crt`, `tls.key` and `ca.crt`, as Kubernetes lays it out.

    Parameters
    ----------
    settings
        Names the files of the network's own certificate, and the profile.
    folder
        Where the secrets are; none: there are none.
    """

    def __init__(self, settings: Settings, folder: Path | None) -> None:
        self._settings = settings
        self._folder = folder
        self._known: dict[str | None, Certificates] = {}
        self._lock = threading.Lock()

    def of(self, secret: str | None) -> Callable[[], ssl.SSLContext] | Obstacle:
        """Give what makes the contexts of new connections, or why there is none."""
        with self._lock:
            if secret not in self._known:
                files = self._files(secret)
                if isinstance(files, Obstacle):
                    return files
                try:
                    self._known[secret] = Certificates(files, self._context, _broken)
                except CertificateError as error:
                    return Obstacle(str(error))
            return self._known[secret].context

    def _context(self, files: Files) -> ssl.SSLContext:
        return client_context(files, self._settings.tls_profile)

    def _files(self, secret: str | None) -> Files | Obstacle:
        if secret is None:
            own = (self._settings.tls_certificate, self._settings.tls_key, self._settings.tls_ca)
            if own[0] is None or own[1] is None or own[2] is None:
                return Obstacle("set KIVUKO_TLS_CERTIFICATE, KIVUKO_TLS_KEY and KIVUKO_TLS_CA, and start again")
            return Files(own[0], own[1], own[2], self._settings.tls_crl)
        if self._folder is None:
            return Obstacle(f"set KIVUKO_EGRESS_SECRETS to the folder that holds the secret {secret}, and start again")
        place = self._folder / secret
        return Files(place / "tls.crt", place / "tls.key", place / "ca.crt")


def _broken(error: CertificateError) -> None:
    _log.error("changed certificates can't be used, those from before stay in force", reason=str(error))
