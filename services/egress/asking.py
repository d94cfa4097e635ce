"""The edge to storage commitment: requests on an association of their own, and the reports that come on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.commitment import Reference, Report
from libs.dimse.commitment_scu import Asking, offered
from libs.dimse.connection import StoppedError
from libs.dimse.requestor import Association
from services.egress.calling import OVER, EndError, Timeouts, connect
from services.egress.reach import Target

_PAIRS: Final = tuple((commitment.SOP_CLASS, syntax) for syntax in commitment.TRANSFER_SYNTAXES)
#: Writes a report down; False if it can't be, and has to come again.
Keep = Callable[[Report], bool]


@dataclass(frozen=True)
class Question:
    """A request that is written down.

    Attributes
    ----------
    transaction_uid
        Ours, never used before.
    delivery_id
        Whose instances it is about.
    references
        The instances.
    """

    transaction_uid: str
    delivery_id: str
    references: tuple[Reference, ...]


@dataclass
class Asked:
    """What became of requests in one association.

    Attributes
    ----------
    taken
        Transactions that the destination took: it will report.
    refused
        Transactions that it answered with a failure, and why, as a sentence. All others it may have taken, or not.
    problem
        Why the association ended before its time; none if it did not.
    offered
        Whether the destination takes such requests at all.
    """

    taken: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    offered: bool = True


class Conversation:
    """One association in which a destination is asked to commit itself; `run` takes a thread.

    Parameters
    ----------
    target, timeouts
        Whom to call, and how long silence is borne.
    wanted
        What to ask for.
    wait
        Seconds in which a report is waited for.
    keep
        Called with each report, in the thread of `run`.
    """

    def __init__(self, target: Target, timeouts: Timeouts, wanted: Sequence[Question], wait: float, keep: Keep) -> None:
        self._target = target
        self._timeouts = timeouts
        self._wanted = wanted
        self._wait = wait
        self._keep = keep
        self._association: Association | None = None
        self._stopped = False

    def stop(self) -> None:
        """End it soon; from any thread."""
        self._stopped = True
        if self._association is not None:
            self._association.stop()

    def run(self) -> Asked:
        """Ask, and take the reports that come."""
        found = Asked()
        try:
            association = connect(self._target, _PAIRS, self._timeouts, self._know)
        except EndError as end:
            found.problem = end.ending.problem
            return found
        if not offered(association):
            association.release()
            found.offered = False
            found.problem = "it does not offer storage commitment (1.2.840.10008.1.20.1), which `confirm: commit` needs"
            return found
        try:
            self._ask(Asking(association), found)
        except (*OVER, StoppedError) as error:
            association.abort()
            if len(found.taken) + len(found.refused) < len(self._wanted):
                found.problem = f"the association for storage commitment broke off: {error}"
        except BaseException:
            association.abort()
            raise
        else:
            association.release()
        return found

    def _know(self, association: Association) -> None:
        self._association = association
        if self._stopped:
            association.stop()

    def _ask(self, asking: Asking, found: Asked) -> None:
        # Many who report on the same association can't take a request while they do: one after the other. Who does not
        # report soon is taken for one who calls us.
        hears = True
        for number, each in enumerate(self._wanted, 1):
            answer = asking.ask(number, each.transaction_uid, each.references)
            if answer.status == commands.SUCCESS:
                found.taken.append(each.transaction_uid)
                hears = hears and self._hear(asking, each.transaction_uid, self._wait)
            else:
                found.refused[each.transaction_uid] = (
                    f"it answers the request for storage commitment with status {answer.status:04X}"
                )
        self._hear(asking, None, 0)

    def _hear(self, asking: Asking, transaction_uid: str | None, seconds: float) -> bool:
        """Take reports until that of a transaction has come; False if it does not come in so many seconds."""
        while (reported := asking.report(seconds)) is not None:
            kept = self._keep(reported.report)
            asking.answer(reported, commands.SUCCESS if kept else commands.PROCESSING_FAILURE)
            if reported.report.transaction_uid == transaction_uid:
                return True
        return False
