"""What archives report of storage commitment: kept as events before it is answered. PS3.4 section J.3.3.

Nothing else is kept here: whether the report is of a request of ours is for egress to know, which has made it.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from contracts.commitment import CommitmentReported, Committed, NotCommitted
from libs.dimse import command as commands
from libs.dimse.admission import Admitted
from libs.dimse.refrain import Refrain
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.telemetry import log
from services.ingest import metric
from services.ingest.wire import Message

_LOG = log.get(__name__)
#: Most instances of one event, see `contracts.commitment`.
MOST: Final = 500
#: Seconds in which it is said once of a node that its reports are not taken: it sends them again and again.
_SAID_EVERY: Final = 60.0


class Commitments:
    """Takes reports. From one event loop only.

    Parameters
    ----------
    database, outbox
        Of ingest.
    """

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._said = Refrain(_SAID_EVERY, time.monotonic)

    async def take(self, node: Admitted, association: str, message: Message) -> int:
        """Keep a report on stable storage; give the status to answer with, PS3.7 section 10.1.1.1.8.

        Parameters
        ----------
        node
            Who reports.
        association
            On which.
        message
            `report` of `wire`.

        Returns
        -------
        int
            0 if it is kept; a failure if it can't be read, or could not be kept: then nothing of it was.
        """
        if message["objection"] is not None:
            status, reason = message["objection"]
            if (count := self._said.count(f"refused: {node.node}")) is not None:
                _LOG.warning(
                    "commitment report refused",
                    node=node.node,
                    association=association,
                    status=f"0x{status:04X}",
                    reason=reason,
                    count=count,
                )
        else:
            status = await self._keep(node, association, message)
        metric.REPORTS.labels(status=f"0x{status:04X}").inc()
        return int(status)

    async def _keep(self, node: Admitted, association: str, message: Message) -> int:
        transaction, committed, failed = message["transaction_uid"], message["committed"], message["failed"]
        try:
            async with self._database.transaction() as tx:
                for event in events(transaction, node.node, committed, failed):
                    await self._outbox.emit(tx, event, subject=transaction, tenant=node.tenant, site=node.site)
        except (SQLAlchemyError, OSError) as error:
            metric.FAILURES.labels(kind="commitment").inc()
            if (count := self._said.count(f"not kept: {node.node}")) is not None:
                _LOG.warning(
                    "commitment report not kept, the archive has to send it again",
                    node=node.node,
                    association=association,
                    reason=f"the database does not take it ({type(error).__name__})",
                    count=count,
                )
            return commands.PROCESSING_FAILURE
        metric.REPORTED.labels(outcome="committed").inc(len(committed))
        metric.REPORTED.labels(outcome="failed").inc(len(failed))
        say = _LOG.warning if failed else _LOG.info
        say(
            "commitment reported",
            node=node.node,
            association=association,
            uid=transaction,
            instances=len(committed) + len(failed),
            refused=len(failed),
        )
        return commands.SUCCESS


def events(
    transaction_uid: str, node: str, committed: Sequence[Sequence[str]], failed: Sequence[tuple[str, str, int]]
) -> Iterator[CommitmentReported]:
    """Make the events of a report, of at most `MOST` instances each.

    Parameters
    ----------
    committed, failed
        SOP class and instance UID of each instance, and why it failed.
    """
    said: list[Committed] = [
        Committed(sop_class_uid=sop_class, sop_instance_uid=instance) for sop_class, instance in committed
    ]
    said += [
        NotCommitted(sop_class_uid=sop_class, sop_instance_uid=instance, failure_reason=reason)
        for sop_class, instance, reason in failed
    ]
    for start in range(0, len(said), MOST):
        part = said[start : start + MOST]
        yield CommitmentReported(
            transaction_uid=transaction_uid,
            node=node,
            committed=tuple(each for each in part if not isinstance(each, NotCommitted)),
            failed=tuple(each for each in part if isinstance(each, NotCommitted)),
        )
