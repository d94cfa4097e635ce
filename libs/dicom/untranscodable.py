"""Why an instance can't be had in another transfer syntax."""

from typing import Literal

#: Its bytes contradict themselves; no decoder reads it; the other transfer syntax cannot hold it; it is larger than
#: what is allowed; what was encoded is not what was there.
Why = Literal["damaged", "unreadable", "unsuited", "too-large", "different"]


class NotTranscodableError(Exception):
    """An instance can't be given in another transfer syntax. The text says why, in plain words, without values."""

    safe_to_log = True

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why = why
