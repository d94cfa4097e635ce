"""Secrets of projects, which key pseudonyms, UIDs and shifts of dates: named in the definition, kept outside."""

from pathlib import Path
from typing import Final

from contracts.definition import Definition, Transform
from services.egress.transforms.pseudonym import SHORTEST_SECRET

_FILE: Final = "key"


class NoSecretError(Exception):
    """A project's secret can't be had. The text says what to do, and nothing of the secret."""

    safe_to_log = True

    def __init__(self, secret: str, reason: str) -> None:
        super().__init__(reason)
        self.secret = secret


class Projects:
    """Reads secrets, each time anew: whoever replaces one need not restart anything.

    A secret is a folder with a file `key`, as Kubernetes lays it out.

    Parameters
    ----------
    folder
        Where the secrets are; none: there are none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def secret(self, name: str) -> bytes:
        """Give the bytes of a secret, without white space around them. Raises NoSecretError."""
        if self._folder is None:
            raise NoSecretError(
                name,
                f"set KIVUKO_EGRESS_SECRETS to the folder that holds the secret {name}, and start again",
            )
        place = self._folder / name / _FILE
        try:
            found = place.read_bytes().strip()
        except OSError as error:
            raise NoSecretError(
                name,
                f"the secret {name} can't be read ({error.strerror}): put at least {SHORTEST_SECRET} random bytes into "
                f"{place}, such as those of `openssl rand -hex 32`, and keep a copy",
            ) from error
        if len(found) < SHORTEST_SECRET:
            raise NoSecretError(name, f"the secret {name} is too short: {place} needs at least {SHORTEST_SECRET} bytes")
        return found

    def secrets(self, transform: Transform) -> dict[str, bytes]:
        """Give the secrets that a transform needs, by project. Raises NoSecretError."""
        return {project: self.secret(transform.secret_of(project)) for project in transform.projects()}

    def obstacle(self, definition: Definition, destination: str) -> str | None:
        """Tell why a destination's own transform can't be done; none if it can, or there is none."""
        name = definition.destinations[destination].transform if destination in definition.destinations else None
        if name is None:
            return None
        transform = definition.transforms.get(name)
        if transform is None:
            return f"the transform {name} of destination {destination} is not in the network definition"
        try:
            self.secrets(transform)
        except NoSecretError as error:
            return f"the transform {name} of destination {destination} can't be done: {error}"
        return None
