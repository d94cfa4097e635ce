"""Problem details: every error that leaves over HTTP, as RFC 9457 says."""

import re
from typing import Any

CONTENT_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 -- RFC 9457 calls it a problem
    """An answer that says what went wrong.

    Parameters
    ----------
    status
        HTTP status.
    title
        What kind of problem, the same words each time; `type` is made of it.
    detail
        What happened this time, and why; without personal data and without secrets.
    advice
        What to do next.
    headers
        HTTP headers of the answer, such as Retry-After.
    extra
        Further members of the document.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        advice: str | None = None,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.advice = advice
        self.headers = headers or {}
        self.extra = extra

    @property
    def type(self) -> str:
        """URI of the kind of problem (RFC 9457 section 3.1.1); it identifies, it is not a page to open."""
        return f"urn:kivuko:problem:{re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')}"

    def document(self, instance: str) -> dict[str, Any]:
        """Give the members of the document for the occurrence that `instance` names."""
        members = {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.advice is not None:
            members["advice"] = self.advice
        return members | self.extra
