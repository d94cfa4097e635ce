"""HTTP to a running Kivuko: over the Unix socket of `KIVUKO_HOME`, or to `KIVUKO_URL` with `KIVUKO_TOKEN`."""

import os
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from services.cli.environment import read_settings
from services.cli.output import fail

if TYPE_CHECKING:
    import httpx

#: The answer was no: bad input, or something that does not exist.
EXIT_REFUSED = 1
#: Nothing answers, or what answers cannot do so now.
EXIT_UNREACHABLE = 3
#: The token is missing, wrong, or not allowed to.
EXIT_FORBIDDEN = 4

_NOT_ALLOWED = (401, 403)
_TRY_LATER = (429, 502, 503, 504)
_TIMEOUT_S = 60


class Client:
    """Calls routes; a failure is told to the person and ends the command with the exit code that fits.

    Parameters
    ----------
    http
        Knows the address and the token.
    where
        The address, for people.
    json_output
        Whether failures are told as JSON.
    """

    def __init__(self, http: "httpx.Client", where: str, *, json_output: bool) -> None:
        self._http = http
        self._where = where
        self._json_output = json_output

    def get(self, path: str, **query: Any) -> Any:
        """GET; returns the decoded JSON."""
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def find(self, path: str, **query: Any) -> Any:
        """GET; None if what answers has no such thing, or the token may not see it."""
        return self._call("GET", path, missing=(403, 404), params=query)

    def attempt(self, path: str, timeout: float) -> Any:
        """GET what can be done without; None if it can't be had within so many seconds, for whatever reason."""
        import httpx  # noqa: PLC0415 - slow, and `--help` does without

        try:
            response = self._http.get(path, timeout=timeout)
            return response.json() if response.is_success else None
        except (httpx.HTTPError, ValueError):
            return None

    def post(self, path: str, **options: Any) -> Any:
        """POST; options as httpx takes them; returns the decoded JSON."""
        return self._call("POST", path, **options)

    def download(self, path: str, **options: Any) -> bytes:
        """POST; options as httpx takes them; returns the answer as it came."""
        return self._answer("POST", path, **options).content

    def delete(self, path: str) -> Any:
        """DELETE; returns the decoded JSON, if any."""
        return self._call("DELETE", path)

    def save(self, path: str, file: BinaryIO) -> None:
        """GET whatever there is, of any length, into a file. Raises OSError."""
        import httpx  # noqa: PLC0415 - slow, and `--help` does without

        try:
            with self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    self._refused(response)
                file.writelines(response.iter_bytes())
        except httpx.ConnectError as error:
            self._unreachable(error)
        except httpx.HTTPError as error:
            self._strange(f"did not answer as expected ({type(error).__name__})")

    def _call(self, method: str, path: str, *, missing: Container[int] = (), **options: Any) -> Any:
        response = self._answer(method, path, missing=missing, **options)
        if response.status_code in missing:
            return None
        try:
            return response.json() if response.content else None
        except ValueError:
            self._strange("answered with something that is not JSON: it may not be Kivuko")

    def _answer(self, method: str, path: str, *, missing: Container[int] = (), **options: Any) -> "httpx.Response":
        import httpx  # noqa: PLC0415 - slow, and `--help` does without

        try:
            response = self._http.request(method, path, **options)
        except httpx.ConnectError as error:
            self._unreachable(error)
        except httpx.HTTPError as error:
            self._strange(f"did not answer as expected ({type(error).__name__})")
        if not response.is_success and response.status_code not in missing:
            self._refused(response)
        return response

    def _unreachable(self, error: Exception) -> NoReturn:
        fail(
            f"Nothing answers at {self._where} ({error}).",
            "Start Kivuko with `kivuko up`, or set KIVUKO_HOME (or KIVUKO_URL and KIVUKO_TOKEN) to where it runs.",
            code=EXIT_UNREACHABLE,
            json_output=self._json_output,
        )

    def _strange(self, how: str) -> NoReturn:
        fail(
            f"{self._where} {how}.",
            "Look at its log, and run `kivuko doctor` on its machine.",
            code=EXIT_UNREACHABLE,
            json_output=self._json_output,
        )

    def _refused(self, response: "httpx.Response") -> NoReturn:
        try:
            problem = response.json()
        except ValueError:
            problem = {}
        if not isinstance(problem, dict):
            problem = {}
        code = EXIT_REFUSED
        if response.status_code in _NOT_ALLOWED:
            code = EXIT_FORBIDDEN
        elif response.status_code in _TRY_LATER:
            code = EXIT_UNREACHABLE
        fail(
            str(problem.get("detail") or problem.get("title") or f"{self._where} answered {response.status_code}."),
            str(problem.get("advice") or ""),
            code=code,
            json_output=self._json_output,
            problem=problem or {"status": response.status_code},
        )


def connect(*, json_output: bool) -> Client:
    """Connect by the environment: `KIVUKO_URL` if it is set, else the socket in `KIVUKO_HOME`."""
    import httpx  # noqa: PLC0415 - slow, and `--help` does without

    url, token = os.environ.get("KIVUKO_URL"), os.environ.get("KIVUKO_TOKEN")
    if not url:
        path = read_settings(json_output=json_output).socket_path
        transport = httpx.HTTPTransport(uds=_short(path))
        http = httpx.Client(base_url="http://kivuko", transport=transport, timeout=_TIMEOUT_S)
        return Client(http, str(path), json_output=json_output)
    if not token:
        fail(
            "KIVUKO_URL is set, but KIVUKO_TOKEN is not.",
            "Make a token with `kivuko token create` on the machine itself, and put it in KIVUKO_TOKEN.",
            code=EXIT_FORBIDDEN,
            json_output=json_output,
        )
    try:
        http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S)
        valid = http.base_url.scheme in ("http", "https") and bool(http.base_url.host)
    except (httpx.InvalidURL, UnicodeEncodeError):
        valid = False
    if not valid:
        fail(
            "KIVUKO_URL or KIVUKO_TOKEN is not valid.",
            "Write the address as http://HOST:PORT or https://HOST, and the token as it was shown.",
            code=2,
            json_output=json_output,
        )
    return Client(http, url, json_output=json_output)


def _short(path: Path) -> str:
    """Write the path of a Unix socket the shorter way: only 107 bytes fit."""
    return min(str(path.absolute()), os.path.relpath(path), key=len)
