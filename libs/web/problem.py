"""Problem details: every error that leaves over HTTP, as RFC 9457 says."""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

CONTENT_TYPE = "application/problem+json"

#: What to do about an error that the framework found: a kind, a sentence, advice.
_BY_STATUS: Mapping[int, tuple[str, str, str]] = {
    404: ("Not found", "There is nothing at this address.", "Compare the address with /openapi.json."),
    405: (
        "Method not allowed",
        "This address does not answer to this method.",
        "Use one of the methods in the header `Allow`.",
    ),
    413: ("Too large", "The body of the request is too large.", "Send less at a time."),
}


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
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.advice = advice
        self.headers = dict(headers or {})
        self.extra = extra

    @property
    def type(self) -> str:
        """URI of the kind of problem (RFC 9457 section 3.1.1); it identifies, it is not a page to open."""
        return f"urn:kivuko:problem:{re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')}"

    def document(self, instance: str) -> dict[str, Any]:
        """Give the members of the document for the occurrence that `instance` names."""
        members: dict[str, Any] = {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.advice is not None:
            members["advice"] = self.advice
        return members | self.extra

    def response(self, instance: str) -> Response:
        """Give the HTTP answer for the occurrence that `instance` names."""
        body = json.dumps(self.document(instance), ensure_ascii=False).encode()
        return Response(body, self.status, headers=self.headers, media_type=CONTENT_TYPE)


def from_http(error: HTTPException) -> Problem:
    """Turn an error of the framework, or one raised as `HTTPException`, into a problem."""
    phrase = HTTPStatus(error.status_code).phrase
    title, detail, advice = _BY_STATUS.get(error.status_code, (phrase, f"{phrase}.", None))
    if error.detail not in (phrase, "Content Too Large"):
        detail, advice = str(error.detail), None
    return Problem(error.status_code, title, detail, advice=advice, headers=error.headers)


def from_validation(error: RequestValidationError) -> Problem:
    """Turn a request that does not fit the route into a problem, without repeating a value that was sent."""
    errors = [_without_value(one) for one in error.errors()]
    return Problem(
        422,
        "Not valid",
        "The request does not fit what this address takes: see `errors`.",
        advice="Compare the request with /openapi.json.",
        errors=errors,
    )


def _without_value(error: Mapping[str, Any]) -> dict[str, Any]:
    where: Sequence[str | int] = error["loc"]
    kind: str = error["type"]
    # The message of a check of our own may quote the value.
    message = "is not valid" if kind in ("value_error", "assertion_error") else error["msg"]
    return {"where": ".".join(str(step) for step in where), "kind": kind, "message": message}
