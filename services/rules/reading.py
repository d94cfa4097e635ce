"""What conditions read of studies: from what is known of them, and from the header documents."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Attributes
from contracts.routing import Trigger
from contracts.study import StudyCompleted
from libs.definition.attributes import STUDY_EXTRAS
from libs.definition.inputs import Inputs
from libs.dicom.header import BASE_KEYWORDS
from libs.storage.objects import ObjectMissingError, ObjectStore
from services.rules import action_rows
from services.rules.action import Tag, tags_read
from services.rules.headers import HeadersDamagedError, fetch
from services.rules.in_force import InForce
from services.rules.need import TAG
from services.rules.occasion import Occasion
from services.rules.plan import Known, aggregate
from services.rules.repository import Study

#: What events and the instance's row say anyway: no need for the full header.
CARRIED: Final = frozenset({*BASE_KEYWORDS, "TransferSyntaxUID"})
_NONE: Final[frozenset[str]] = frozenset()


class Reading:
    """Reads what conditions name.

    Parameters
    ----------
    objects
        Where the full headers are.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def looked_at(
        self, tx: AsyncSession, study: Study, said: StudyCompleted, look: Occasion, in_force: InForce
    ) -> tuple[dict[str, Attributes], list[str]]:
        """Give what an occasion looks at, by the name of the object. Raises StoreUnavailableError."""
        read = in_force.rules.attributes(look.trigger)
        if look.trigger == "series":
            attributes, unread = await self._series(study, look.instances, read)
            return {"series": attributes}, unread
        attributes, unread = await self._study(study, said, look.instances, read)
        if "Delivered" in read:
            attributes["Delivered"] = list(await action_rows.delivered_to(tx, study, said.version))
        return {"study": attributes}, unread

    async def _series(
        self, study: Study, instances: Sequence[Known], read: Collection[str]
    ) -> tuple[Attributes, list[str]]:
        more, unread = await self.more(instances, set(read) - CARRIED - {"Sites"})
        attributes: Attributes = {"Sites": sorted({one.source.site for one in instances})}
        seen = [{**more.get(one.id, {}), **named(study, one), **one.attributes} for one in instances]
        for keyword in set(read) - {"Sites"}:
            value = aggregate(known[keyword] for known in seen if keyword in known)
            if value is not None:
                attributes[keyword] = value
        return attributes, unread

    async def _study(
        self, study: Study, said: StudyCompleted, chosen: Sequence[Known], read: Collection[str]
    ) -> tuple[Attributes, list[str]]:
        attributes: Attributes = {
            "StudyInstanceUID": study.study_instance_uid,
            "NumberOfStudyRelatedInstances": said.instance_count,
            "NumberOfStudyRelatedSeries": said.series_count,
            "Sites": list(said.sites),
            **said.attributes,
        }
        missing = {key for key in read if key not in attributes and not is_own(key)}
        more, unread = await self.more(chosen, missing - CARRIED)
        for keyword in missing:
            seen = ({**more.get(one.id, {}), **named(study, one), **one.attributes} for one in chosen)
            value = aggregate(known[keyword] for known in seen if keyword in known)
            if value is not None:
                attributes[keyword] = value
        return attributes, unread

    async def more(
        self, instances: Sequence[Known], keywords: Collection[str]
    ) -> tuple[dict[int, Attributes], list[str]]:
        """Read what events don't carry, and say what can't be read. Raises StoreUnavailableError."""
        if not keywords:
            return {}, []
        try:
            return await asyncio.to_thread(fetch, self._objects, instances, keywords), []
        except (ObjectMissingError, HeadersDamagedError):
            # The instances must go where the other rules send them all the same.
            return {}, [f"the full header can't be read: {', '.join(sorted(keywords))} taken as absent"]


async def known(
    tx: AsyncSession, study: Study, trigger: Trigger, in_force: InForce
) -> tuple[frozenset[str], frozenset[str]]:
    """Name the rules that people have lifted for a study, and destinations that are not healthy, if asked for."""
    lifted = await action_rows.lifted(tx, study) if trigger in in_force.needs.aside else _NONE
    unhealthy = await action_rows.unhealthy(tx) if trigger in in_force.needs.health else _NONE
    return lifted, unhealthy


def with_tags(attributes: Attributes, tagged: Iterable[Tag], trigger: Trigger) -> Attributes:
    """Give attributes with the tags that rules of a trigger read."""
    return attributes | {f"{TAG}{name}": value for name, value in tags_read(tagged, trigger).items()}


def is_own(key: str) -> bool:
    """Tell whether no header has it, but what is known of the study besides."""
    return key in STUDY_EXTRAS or key.startswith(TAG)


def shown(inputs: Inputs, seen: Mapping[str, Attributes], unhealthy: Collection[str]) -> Inputs:
    """Give the inputs with what is looked at, by the name of the object, and with the health of destinations."""
    return replace(
        inputs, study=seen.get("study", {}), series=seen.get("series", {}), destinations=dict.fromkeys(unhealthy, False)
    )


def read_by(attributes: Attributes, in_force: InForce, trigger: Trigger) -> Attributes:
    """Give those of the attributes that the rules of a trigger read."""
    return {key: attributes[key] for key in sorted(in_force.rules.attributes(trigger)) if key in attributes}


def named(study: Study, one: Known) -> Attributes:
    """Give the identity of an instance as attributes."""
    return {
        "StudyInstanceUID": study.study_instance_uid,
        "SeriesInstanceUID": one.series_instance_uid,
        "SOPInstanceUID": one.item.sop_instance_uid,
        "SOPClassUID": one.item.sop_class_uid,
        "TransferSyntaxUID": one.item.transfer_syntax_uid,
    }
