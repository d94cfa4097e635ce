"""What a transform worker is asked, and what it answers: one JSON object a line."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from contracts.definition import Transform
from services.egress.transforms.engine import Step, Transformed


@dataclass(frozen=True)
class Job:
    """One file to transform.

    Attributes
    ----------
    source, result
        Paths of the file, and of a file that the worker makes.
    steps
        Transforms in their order.
    secrets
        Of the projects that they need.
    tenant
        Whose instance it is.
    at
        When it arrived, UTC.
    explain
        Whether each change is to be told.
    """

    source: str
    result: str
    steps: tuple[Step, ...]
    secrets: dict[str, bytes]
    tenant: str
    at: datetime
    explain: bool = False


@dataclass(frozen=True)
class Change:
    """One element before and after; none where there is none."""

    where: str
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Done:
    """What came out, and what was changed, if that was asked."""

    transformed: Transformed
    changes: tuple[Change, ...] = ()


def asked(job: Job) -> bytes:
    """Write a job."""
    steps = [
        {"name": each.name, "transform": each.transform.model_dump(mode="json", by_alias=True, exclude_defaults=True)}
        for each in job.steps
    ]
    said = {
        **{name: getattr(job, name) for name in ("source", "result", "tenant", "explain")},
        "steps": steps,
        "secrets": {name: secret.hex() for name, secret in job.secrets.items()},
        "at": job.at.isoformat(),
    }
    return json.dumps(said).encode() + b"\n"


def read_job(line: bytes) -> Job:
    """Read a job."""
    said = json.loads(line)
    return Job(
        said["source"],
        said["result"],
        tuple(Step(each["name"], Transform.model_validate(each["transform"])) for each in said["steps"]),
        {name: bytes.fromhex(secret) for name, secret in said["secrets"].items()},
        said["tenant"],
        datetime.fromisoformat(said["at"]),
        said["explain"],
    )


def answered(done: Done) -> bytes:
    """Write what came out."""
    changes = [asdict(each) for each in done.changes]
    return json.dumps({"transformed": asdict(done.transformed), "changes": changes}).encode() + b"\n"


def refused(kind: str, reason: str) -> bytes:
    """Write why nothing came out; `unfit`: nothing ever will, `room`: a file could not be written."""
    return json.dumps({"problem": kind, "reason": reason}).encode() + b"\n"


def read_answer(said: dict[str, Any]) -> Done:
    """Read what came out."""
    return Done(Transformed(**said["transformed"]), tuple(Change(**each) for each in said["changes"]))
