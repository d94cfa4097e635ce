"""What the framework leaves out of the OpenAPI document: problems, tokens, permissions."""

from collections.abc import Mapping
from typing import Any

from libs.web.permission import Requires
from libs.web.problem import CONTENT_TYPE
from libs.web.routes import Declared

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "Problem details, RFC 9457.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "Kind of problem."},
        "title": {"type": "string", "description": "Kind of problem, for people."},
        "status": {"type": "integer", "description": "HTTP status."},
        "detail": {"type": "string", "description": "What happened, and why."},
        "instance": {"type": "string", "format": "uri", "description": "This occurrence; the log names it too."},
        "advice": {"type": "string", "description": "What to do next."},
    },
    "additionalProperties": True,
}
_ANSWER = {
    "description": "It did not work; the document says why and what to do.",
    "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def complete(document: dict[str, Any], routes: Mapping[tuple[str, str], Declared]) -> dict[str, Any]:
    """Add the token, each operation's permission, and problem details to the document that FastAPI makes."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for superseded in ("HTTPValidationError", "ValidationError"):
        schemas.pop(superseded, None)
    schemas["Problem"] = _PROBLEM
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "A token of `kivuko token create`."}
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _ANSWER
            access = routes[path, method.upper()].access
            if isinstance(access, Requires):
                operation["security"] = [{"token": []}]
                operation["x-permission"] = access.permission
    return document
