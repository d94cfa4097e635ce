"""HTTP to a running Kivuko: over the Unix socket of `KIVUKO_HOME`, or to `KIVUKO_URL` with `KIVUKO_TOKEN`."""

from typing import Any, NoReturn

import httpx
import typer
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.settings import Settings
from services.cli.output import fail

#: The answer was no: bad input, or something that does not exist.
EXIT_REFUSED = 1
#: Nothing answers.
EXIT_UNREACHABLE = 3
#: The token is missing, wrong, or not allowed to.
EXIT_FORBIDDEN = 4


class _Target(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="KIVUKO_", frozen=True, extra="ignore")

    url: str | None = None
    token: SecretStr | None = None


class Client:
    """Calls routes; a failure is told to the person and ends the command with the exit code that fits."""

    def __init__(self, http: httpx.Client, where: str, *, json_output: bool) -> None:
        self._http = http
        self._where = where
        self._json_output = json_output

    def get(self, path: str, **query: Any) -> Any:
        """GET; returns the decoded JSON."""
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, **options: Any) -> Any:
        """POST; options as httpx takes them; returns the decoded JSON."""
        return self._call("POST", path, **options)

    def delete(self, path: str) -> Any:
        """DELETE; returns the decoded JSON, if any."""
        return self._call("DELETE", path)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.ConnectError, FileNotFoundError) as error:
            self._unreachable(error)
        except httpx.HTTPError as error:
            fail(
                f"{self._where} did not answer as expected ({type(error).__name__}).",
                "Look at its log, and run `kivuko doctor`.",
                code=EXIT_UNREACHABLE,
                json_output=self._json_output,
            )
        if response.is_success:
            return response.json() if response.content else None
        self._refused(response)

    def _unreachable(self, error: Exception) -> NoReturn:
        fail(
            f"Nothing answers at {self._where} ({type(error).__name__}).",
            "Start Kivuko with `kivuko up`, or set KIVUKO_HOME (or KIVUKO_URL and KIVUKO_TOKEN) to where it runs.",
            code=EXIT_UNREACHABLE,
            json_output=self._json_output,
        )

    def _refused(self, response: httpx.Response) -> NoReturn:
        try:
            problem = response.json()
        except ValueError:
            problem = {}
        code = EXIT_REFUSED
        if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            code = EXIT_FORBIDDEN
        if not isinstance(problem, dict):
            problem = {}
        fail(
            str(problem.get("detail") or problem.get("title") or f"{self._where} answered {response.status_code}."),
            str(problem.get("advice") or ""),
            code=code,
            json_output=self._json_output,
            problem=problem or {"status": response.status_code},
        )


def connect(*, json_output: bool) -> Client:
    """Connect by the environment: `KIVUKO_URL` if it is set, else the socket in `KIVUKO_HOME`."""
    target = _Target()
    if target.url is not None:
        if target.token is None:
            fail(
                "KIVUKO_URL is set, but KIVUKO_TOKEN is not.",
                "Make a token with `kivuko token create` on the machine itself, and put it in KIVUKO_TOKEN.",
                code=EXIT_FORBIDDEN,
                json_output=json_output,
            )
        headers = {"authorization": f"Bearer {target.token.get_secret_value()}"}
        return Client(
            httpx.Client(base_url=target.url, headers=headers, timeout=60), target.url, json_output=json_output
        )
    path = Settings().socket_path
    transport = httpx.HTTPTransport(uds=str(path))
    http = httpx.Client(base_url="http://kivuko", transport=transport, timeout=60)
    return Client(http, str(path), json_output=json_output)


def exit_with(code: int) -> NoReturn:
    """End the command."""
    raise typer.Exit(code)
