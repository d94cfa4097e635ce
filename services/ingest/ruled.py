"""What a rule put aside: an entry of the quarantine that stands for instances which are in the index already.

Nothing of them moves. A release is told, and rules decide once more without that rule; a discard is told, and they go
nowhere. As long as nobody has decided, retention keeps the study.
"""

import hashlib
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Row
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.instances import QuarantineReason, QuarantineResolved, Resolution
from contracts.routing import RoutingQuarantined
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.telemetry import log
from services.ingest import holding, metric
from services.ingest.arrival import source_document
from services.ingest.candidate import RefusedError, Wish
from services.ingest.models import quarantine

_LOG = log.get(__name__)
#: Reason of these entries.
RULE: Final = "rule"
#: Why something is in the quarantine: what ingest found by itself, or a rule.
AnyReason = QuarantineReason | Literal["rule"]


async def put_aside(tx: AsyncSession, tenant: str, said: RoutingQuarantined, at: datetime) -> None:
    """Note what a rule put aside; in any order and any number of times. What is decided is open again if there is more.

    Only a discard can be followed by more: what is released that rule does not put aside again.
    """
    insert = postgresql.insert if tx.get_bind().dialect.name == "postgresql" else sqlite.insert
    told = {
        "detail": f"{said.reason} (rule `{said.rule}`; instances put aside: {said.instance_count})",
        "size": said.size,
        # A sender cannot repeat it: here it counts the instances.
        "times": said.instance_count,
        "last_received_at": at,
        "state": "open",
        "resolved_at": None,
        "resolved_by": None,
        "resolution": None,
    }
    statement = insert(quarantine).values(
        id=said.quarantine_id,
        tenant=tenant,
        site=said.source.site,
        reason=RULE,
        study_uid=said.study_instance_uid,
        sop_uid=None,
        source=source_document(said.source),
        transfer_syntax_uid="",
        object_key="",
        content_hash=hashlib.sha256(said.quarantine_id.encode()).hexdigest(),
        received_at=at,
        **told,
    )
    more = (quarantine.c.times < statement.excluded.times) & quarantine.c.state.in_(("open", "discarded"))
    changes = {name: statement.excluded[name] for name in told}
    await tx.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changes, where=more))
    _LOG.warning(
        "a rule put a study aside",
        study_uid=said.study_instance_uid,
        tenant=tenant,
        rule=said.rule,
        advice="kivuko quarantine list",
    )


def check(wish: Wish) -> None:
    """Refuse what can't be asked of it. Raises RefusedError."""
    if wish.corrections or wish.trust is not None or wish.replace:
        raise RefusedError(
            "Nothing to correct",
            "It is in its study already, as it came: a rule only keeps it from going anywhere.",
            "Release it as it is, or have the sender send it again.",
        )


class Ruled:
    """What people decide on what rules put aside."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    async def decide(
        self, row: Row[Any], resolution: Resolution, reason: str, by: str, *, delete: bool = False
    ) -> None:
        """Note a decision and tell it. Raises RefusedError if it was decided on before, or bytes are to be deleted."""
        if delete:
            raise RefusedError(
                "Not deleted",
                "It is part of a study, whose bytes retention removes when their time has come.",
                "Discard it without deleting its bytes.",
            )
        async with self._database.transaction() as tx:
            found = await holding.lock(tx, row.id)
            if found is None or found.state != "open":
                state = "gone" if found is None else f"{found.state} by {found.resolved_by}"
                raise RefusedError(
                    "Decided already", f"This entry is {state}.", "Look at it: there is nothing left to decide."
                )
            await holding.set_state(tx, row.id, resolution, at=self._clock(), by=by, resolution={"reason": reason})
            event = QuarantineResolved(
                quarantine_id=row.id,
                resolution=resolution,
                reason=reason,
                principal=by,
                study_instance_uid=row.study_uid,
            )
            await self._outbox.emit(tx, event, subject=row.study_uid, tenant=row.tenant, site=row.site)
        metric.RESOLVED.labels(outcome=resolution).inc()
        _LOG.info("what a rule put aside is decided", item=row.id, tenant=row.tenant, outcome=resolution)
