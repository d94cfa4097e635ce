"""What a decision was made from, as it is kept: enough to make it again. Pure."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from contracts.fact import Attributes
from libs.definition.inputs import Inputs

#: What is looked at stands beside what surrounds it.
_LOOKED_AT: Final = frozenset({"instance", "series", "study"})


@dataclass(frozen=True)
class Recorded:
    """Inputs of a decision.

    Attributes
    ----------
    document
        `at`, `source`, `site` and whatever else surrounds an arrival; `unhealthy` and `lifted`, where they counted;
        `seen`: each different set of the attributes that the rules read, by object: instance, series, study.
    hash
        SHA-256 of it.
    """

    document: dict[str, Any]
    hash: str


def recorded(
    surrounding: Inputs,
    seen: Sequence[dict[str, Attributes]],
    *,
    unhealthy: Collection[str] = (),
    lifted: Collection[str] = (),
) -> Recorded:
    """Record what surrounds a decision and what it looked at."""
    document: dict[str, Any] = {}
    for field in fields(surrounding):
        value = getattr(surrounding, field.name)
        if field.name not in _LOOKED_AT and value:
            document["at" if field.name == "now" else field.name] = _plain(value)
    document |= {name: sorted(value) for name, value in (("unhealthy", unhealthy), ("lifted", lifted)) if value}
    document["seen"] = list(seen)
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=_plain)
    return Recorded(document, hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())


def _plain(value: Any) -> Any:
    """Give a value as JSON can have it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return dict(value) if hasattr(value, "items") else value
