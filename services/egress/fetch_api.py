"""HTTP routes by which partners fetch what they were told of: a list, single instances, and all in one ZIP file."""

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.partner import partner_of
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import StoreUnavailableError
from libs.telemetry import log
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.egress.linking import DICOM, Links
from services.egress.models import deliveries as table
from services.egress.models import items
from services.egress.original import original
from services.egress.parcel import DamagedError, Parcel, Readable
from services.egress.zipped import zipped

Caller = Annotated[Principal, Depends(principal)]
_FETCH = requires("studies.fetch")
_log = log.get(__name__)


class FetchInstance(BaseModel):
    """One instance that can be fetched."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int = Field(description="Length of the Part 10 file in bytes.")
    content_hash: str = Field(description="SHA-256 of its dataset, without preamble and file meta information.")
    reference: str = Field(description="Path of the file on this server.")


class FetchStudy(BaseModel):
    """A study that a partner was told of, and a page of its instances; `next` is `after` for the page after it."""

    study_instance_uid: str
    study_version: int | None
    complete: bool = Field(description="Whether the partner was told of all of this version.")
    archive: str = Field(description="Path of all of them in one ZIP file.")
    instances: list[FetchInstance]
    next: int | None


def make_fetch_router(
    database: Database, network: NetworkView, objects: Readable, links: Links | None = None
) -> APIRouter:
    """Build the routes; without `links` everything is streamed."""
    router = APIRouter(tags=["egress"])

    async def seen(tx: AsyncSession, request: Request, caller: Caller, key: str) -> Row[Any]:
        row = (await tx.execute(select(table).where(table.c.id == key))).one_or_none()
        if row is None or not _may_fetch(network, caller, row):
            raise _nothing()
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        return row

    # Before the one whose parameter would take the suffix for a part of the identifier.
    @router.get("/studies/{delivery_id}.zip", dependencies=[_FETCH], response_class=StreamingResponse)
    async def fetch_zip(request: Request, caller: Caller, delivery_id: str) -> StreamingResponse:
        async with database.reading() as tx:
            row = await seen(tx, request, caller, delivery_id)
            found = await _announced(tx, delivery_id)
        if not found:
            raise _nothing()
        pieces = zipped(row.study_instance_uid, [_parcel(each) for each in found], objects)
        name = f'attachment; filename="{row.study_instance_uid}.zip"'
        return await _answer(pieces, "application/zip", {"Content-Disposition": name})

    @router.get("/studies/{delivery_id}", dependencies=[_FETCH])
    async def list_instances(
        request: Request,
        caller: Caller,
        delivery_id: str,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> FetchStudy:
        async with database.reading() as tx:
            row = await seen(tx, request, caller, delivery_id)
            found = await _announced(tx, delivery_id, items.c.id > after, limit=limit)
        here = f"/v1/egress/studies/{delivery_id}"
        return FetchStudy(
            study_instance_uid=row.study_instance_uid,
            study_version=row.completed_version,
            complete=row.state == "done",
            archive=f"{here}.zip",
            instances=[
                FetchInstance(
                    reference=f"{here}/instances/{each.sop_instance_uid}",
                    **{name: getattr(each, name) for name in FetchInstance.model_fields if name != "reference"},
                )
                for each in found
            ],
            next=found[-1].id if len(found) == limit else None,
        )

    @router.get(
        "/studies/{delivery_id}/instances/{sop_instance_uid}",
        dependencies=[_FETCH],
        response_class=StreamingResponse,
        responses={307: {"description": "It is at the address in `Location`, for 5 minutes and without a token."}},
    )
    async def fetch_instance(request: Request, caller: Caller, delivery_id: str, sop_instance_uid: str) -> Response:
        async with database.reading() as tx:
            await seen(tx, request, caller, delivery_id)
            found = await _announced(tx, delivery_id, items.c.sop_instance_uid == sop_instance_uid)
        if not found:
            raise _nothing()
        parcel = _parcel(found[0])
        if links is not None:
            with _readable():
                address = await to_thread.run_sync(links.link, parcel, found[0].received_at)
            if address is not None:
                return RedirectResponse(address, headers={"Cache-Control": "no-store"})
        pieces = original(parcel, objects)
        return await _answer(pieces, DICOM, {"Content-Length": str(parcel.size)})

    return router


def _may_fetch(network: NetworkView, caller: Principal, row: Row[Any]) -> bool:
    """Tell whether a delivery told a partner whose token this is, and whether that may still have it."""
    snapshot, key = network.current, partner_of(row.destination)
    partner = None if snapshot is None or key is None else snapshot.definition.partners.get(key)
    if partner is None or row.site not in partner.sites or row.state == "cancelled":
        return False
    # A token for all tenants is no partner's: only who may do everything needs no other.
    return caller.role == "admin" if caller.tenants is None else partner.tenant in caller.tenants


async def _announced(
    tx: AsyncSession, key: str, *more: ColumnElement[bool], limit: int | None = None
) -> Sequence[Row[Any]]:
    """Read the instances that the partner was told of."""
    found = await tx.execute(
        select(items)
        .where(items.c.delivery_id == key, items.c.current, items.c.state == "sent", *more)
        .order_by(items.c.id)
        .limit(limit)
    )
    return found.all()


async def _answer(pieces: Generator[bytes], kind: str, headers: dict[str, str]) -> StreamingResponse:
    """Begin an answer when its first piece is there: what can't be read at all is said with a status."""
    with _readable():
        first = await to_thread.run_sync(next, pieces, None)
    return StreamingResponse(_flow(first or b"", pieces), media_type=kind, headers=headers)


@contextmanager
def _readable() -> Iterator[None]:
    """Say with a status that what is kept can't be given."""
    try:
        yield
    except DamagedError as error:
        _log.error("an instance that a partner asked for can't be given", reason=str(error))
        raise Problem(
            410, "Gone", "We do not have it as it was any more.", advice="Ask the site that told you of it."
        ) from error
    except StoreUnavailableError as error:
        raise Problem(
            503,
            "Store not readable",
            "The object store can't be read now.",
            advice="Try again in a minute.",
            headers={"Retry-After": "60"},
        ) from error


async def _flow(first: bytes, pieces: Generator[bytes]) -> AsyncIterator[bytes]:
    """Give the pieces as they are wanted; whatever ends it, what is open is closed.

    An error ends the connection instead of the answer, so that nobody takes what came for the whole.
    """
    try:
        piece: bytes | None = first
        while piece is not None:
            # The last piece leaves only when all of them turned out to be the whole. What comes next is waited for even
            # when the caller has gone: a generator at work can't be closed.
            following = await to_thread.run_sync(next, pieces, None)
            if piece:
                yield piece
            piece = following
    finally:
        pieces.close()


def _parcel(item: Row[Any]) -> Parcel:
    return Parcel(
        item=item.id,
        delivery_id=item.delivery_id,
        rank=(0, 0),
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
        content_hash=item.content_hash,
        object_key=item.object_key,
        size=item.size,
    )


def _nothing() -> Problem:
    return Problem(
        404,
        "Not found",
        "There is nothing at this address that this token may fetch.",
        advice="Use the address that the event `study.available` gave, and a token of the partner that it was for.",
    )
