"""The statements that run for every event, built once: building one costs more than running it.

What differs from one event to the next is bound by name. Names that are no column's, so that an UPDATE does not take
them for what it sets.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Insert, Select, Update, and_, bindparam, case, func, insert, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from services.rules.models import completions, decisions, instances, requests, studies

#: What tells a content from all others.
_IDENTITY: Final = ("study_id", "sop_instance_uid", "content_hash")
#: What else an event says of a content.
_SAID: Final = (
    *("sop_class_uid", "series_instance_uid", "transfer_syntax_uid", "object_key", "size", "received_at"),
    *("source", "attributes", "headers_key", "after_version"),
)
_INSERTS: Final[Mapping[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
#: A statement with ON CONFLICT, by dialect.
ByDialect = Mapping[str, Insert]


def _keep_instances(begin: Any) -> Insert:
    statement = begin(instances)
    new = statement.excluded
    # The same event again has the same time. A later one: this content was replaced or has expired, and has come again.
    again = or_(instances.c.received_at < new.received_at, instances.c.after_version < new.after_version)
    # A content that was only replaced by another one meanwhile has an origin, too: egress sends it all the same.
    came = func.coalesce(instances.c.origin, instances.c.source["node"].as_string())
    origin = case((instances.c.after_version < new.after_version, came), else_=instances.c.origin)
    kept: Insert = statement.on_conflict_do_update(
        index_elements=_IDENTITY,
        # Not a bound None: with one SQLAlchemy sends each row in a statement of its own.
        set_={name: new[name] for name in _SAID} | {"network_version": null(), "aside": null(), "origin": origin},
        where=again,
    ).returning(instances.c.id, instances.c.sop_instance_uid, instances.c.content_hash, instances.c.origin)
    return kept


def _keep_requests(begin: Any) -> Insert:
    statement = begin(requests)
    new = statement.excluded
    kept: Insert = statement.on_conflict_do_update(
        index_elements=("instance_id", "destination"),
        set_={"network_version": new.network_version},
        where=and_(
            requests.c.network_version < new.network_version, requests.c.transform.is_not_distinct_from(new.transform)
        ),
    )
    return kept


_MINE: Final = instances.c.study_id == bindparam("study")
_COMPLETION_OF_MINE: Final = completions.c.study_id == bindparam("study")
_OPEN: Final = completions.c.state == "open"

#: `tenant`, `name`: its Study Instance UID.
STUDY_NAMED: Final[Select[Any]] = (
    select(studies)
    .where(studies.c.tenant == bindparam("tenant"), studies.c.study_instance_uid == bindparam("name"))
    .with_for_update()
)
#: `study`.
STUDY: Final[Select[Any]] = select(studies).where(studies.c.id == bindparam("study")).with_for_update()
#: A row; gives it back if there was none.
ADD_STUDY: Final[ByDialect] = {
    name: begin(studies).on_conflict_do_nothing().returning(*studies.c) for name, begin in _INSERTS.items()
}

#: Rows; gives `id`, `sop_instance_uid` and `content_hash` of those that were added or came again.
KEEP_INSTANCES: Final[ByDialect] = {name: _keep_instances(begin) for name, begin in _INSERTS.items()}
#: `study`, `expired`: the last version whose copy expired.
INSTANCES: Final[Select[Any]] = (
    select(instances)
    .where(_MINE, or_(instances.c.after_version.is_(None), instances.c.after_version >= bindparam("expired")))
    .order_by(instances.c.id)
)
#: As `INSTANCES`.
UNDECIDED_INSTANCES: Final[Select[Any]] = INSTANCES.where(instances.c.network_version.is_(None))
#: `ids`, `under`: the version of the definition.
MARK_DECIDED: Final[Update] = (
    update(instances)
    .where(instances.c.id.in_(bindparam("ids", expanding=True)))
    .values(network_version=bindparam("under"))
)

#: A row.
KEEP_COMPLETION: Final[ByDialect] = {
    name: begin(completions).on_conflict_do_nothing() for name, begin in _INSERTS.items()
}
_decided = completions.alias()
#: `study`; gives `decided` in each row, the highest version that is.
OPEN_COMPLETIONS: Final[Select[Any]] = (
    select(
        completions.c.id,
        completions.c.version,
        completions.c.completed,
        select(func.max(_decided.c.version))
        .where(_decided.c.study_id == bindparam("study"), _decided.c.state == "decided")
        .scalar_subquery()
        .label("decided"),
    )
    .where(_COMPLETION_OF_MINE, _OPEN)
    .order_by(completions.c.version.desc())
)
#: `study`, `before`: a version.
SUPERSEDE: Final[Update] = (
    update(completions)
    .where(_COMPLETION_OF_MINE, _OPEN, completions.c.version < bindparam("before"))
    .values(state="superseded")
)
#: `completion`: its id, `under`: the version of the definition.
CLOSE_COMPLETION: Final[Update] = (
    update(completions)
    .where(completions.c.id == bindparam("completion"))
    .values(state="decided", network_version=bindparam("under"))
)

_REQUESTED: Final = instances.c.id == requests.c.instance_id
_one = instances.alias()
#: `one`: an instance; gives the requests for every instance of its study.
REQUESTED: Final[Select[Any]] = (
    select(requests, instances.c.sop_instance_uid)
    .join(instances, _REQUESTED)
    .where(instances.c.study_id == select(_one.c.study_id).where(_one.c.id == bindparam("one")).scalar_subquery())
    .order_by(instances.c.received_at)
)
#: `study`, `before`: a version.
REQUESTED_BEFORE: Final[Select[Any]] = (
    select(requests.c.destination, instances.c.sop_instance_uid, instances.c.content_hash)
    .join(instances, _REQUESTED)
    .where(_MINE, instances.c.after_version < bindparam("before"))
    .order_by(instances.c.received_at, instances.c.content_hash)
)
#: Rows.
KEEP_REQUESTS: Final[ByDialect] = {name: _keep_requests(begin) for name, begin in _INSERTS.items()}
#: A row.
KEEP_DECISION: Final[Insert] = insert(decisions)
