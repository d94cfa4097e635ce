"""The edge to C-FIND: what a destination says that it has of studies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from libs.dimse.connection import StoppedError
from libs.dimse.query import (
    IMPLICIT,
    INSTANCE,
    INSTANCES_OF_STUDY,
    LEVEL,
    SERIES,
    STUDY,
    STUDY_ROOT,
    QueryRefusedError,
    find,
)
from libs.dimse.requestor import Association
from services.egress.calling import OVER, EndError, Timeouts, connect
from services.egress.confirmation import Sighting
from services.egress.reach import Target

_PAIR: Final = (STUDY_ROOT, IMPLICIT)
#: (0000,0110) has 16 bits.
_MESSAGES: Final = 0xFFFF
NOT_OFFERED: Final = "it does not offer queries (C-FIND of the Study Root model, 1.2.840.10008.5.1.4.1.2.2.1)"


@dataclass
class Looked:
    """What became of questions in one association.

    Attributes
    ----------
    sightings
        By study, as far as it came.
    offered
        Whether it takes queries at all.
    problem
        Why it came no further, as a sentence; none if it came to its end.
    """

    sightings: dict[str, Sighting] = field(default_factory=dict)
    offered: bool = True
    problem: str | None = None


class Inquiry:
    """One association in which a destination is asked what it has; `run` takes a thread.

    Parameters
    ----------
    target, timeouts
        Whom to call, and how long silence is borne.
    studies
        Study Instance UIDs.
    told
        Called with each study that was asked for, in the thread of `run`.
    """

    def __init__(
        self,
        target: Target,
        timeouts: Timeouts,
        studies: Sequence[str],
        told: Callable[[str], None] = lambda _study: None,
    ) -> None:
        self._target = target
        self._timeouts = timeouts
        self._studies = studies
        self._told = told
        self._association: Association | None = None
        self._stopped = False
        self._numbers = count()
        #: Whether it answers below the level of studies; not known at first.
        self._deep = True

    def stop(self) -> None:
        """End it soon; from any thread."""
        self._stopped = True
        if self._association is not None:
            self._association.stop()

    def run(self) -> Looked:
        """Ask for each study."""
        found = Looked()
        try:
            association = connect(self._target, (_PAIR,), self._timeouts, self._know)
        except EndError as end:
            found.problem = end.ending.problem
            return found
        if _PAIR not in association.contexts:
            association.release()
            found.offered, found.problem = False, NOT_OFFERED
            return found
        try:
            for study in self._studies:
                found.sightings[study] = self._look(association, study)
                self._told(study)
        except (*OVER, StoppedError) as error:
            association.abort()
            found.problem = f"the association for queries broke off: {error}"
        except QueryRefusedError as error:
            association.release()
            found.problem = str(error)
        else:
            association.release()
        return found

    def _know(self, association: Association) -> None:
        self._association = association
        if self._stopped:
            association.stop()

    def _look(self, association: Association, study: str) -> Sighting:
        if self._deep:
            try:
                instances = self._instances(association, study)
            except QueryRefusedError:
                # It may answer at the level of studies all the same; it is not asked again for each of them.
                self._deep = False
            else:
                if instances:
                    return Sighting(instances=instances)
        return self._number(association, study)

    def _instances(self, association: Association, study: str) -> frozenset[str]:
        """Ask for series, then for the images of each: PS3.4 section C.4.1.2.1, nothing above may be left open."""
        series = self._ask(association, study, {LEVEL: "SERIES", STUDY: study, SERIES: ""})
        found: set[str] = set()
        for uid in sorted({each[SERIES] for each in series if each.get(SERIES)}):
            keys = {LEVEL: "IMAGE", STUDY: study, SERIES: uid, INSTANCE: ""}
            found |= {each[INSTANCE] for each in self._ask(association, study, keys) if each.get(INSTANCE)}
        return frozenset(found)

    def _number(self, association: Association, study: str) -> Sighting:
        """Ask how many instances it has; who has nothing to show at any level does not have the study."""
        keys = {LEVEL: "STUDY", STUDY: study, INSTANCES_OF_STUDY: ""}
        answers = self._ask(association, study, keys)
        if not answers:
            return Sighting(instances=frozenset())
        number = answers[0].get(INSTANCES_OF_STUDY, "")
        return Sighting(number=int(number) if number.isascii() and number.isdigit() else None)

    def _ask(self, association: Association, study: str, keys: dict[int, str]) -> list[dict[int, str]]:
        """Ask, and leave out what is about other studies: there are peers that ignore keys."""
        message_id = 1 + next(self._numbers) % _MESSAGES
        answers = find(association, association.contexts[_PAIR], message_id, keys)
        return [each for each in answers if each.get(STUDY, study) == study]
