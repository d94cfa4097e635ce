"""HTTP routes of receipts: the receipt of a delivery, and the key to check it with."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field
from sqlalchemy import Row

from libs.storage.database import Database
from libs.telemetry import log
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.egress import receipt_rows, verification
from services.egress.receipt import ALGORITHM, SignedReceipt, export, key_id, public_pem
from services.egress.signing import KeyUnavailableError, ReceiptKey

Caller = Annotated[Principal, Depends(principal)]
_log = log.get(__name__)


class PublicKey(BaseModel):
    """The key that receipts are checked with. It is no secret."""

    algorithm: str
    key_id: str = Field(description="As in the signature of a receipt.")
    public_key: str = Field(description="PEM, RFC 8410.")


def make_receipt_router(database: Database, key: ReceiptKey, region: str) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])

    @router.get(
        "/deliveries/{delivery_id}/receipt",
        dependencies=[requires("deliveries.read")],
        response_model=SignedReceipt,
        response_model_exclude_none=True,
    )
    async def receipt(caller: Caller, delivery_id: str) -> Response:
        async with database.reading() as tx:
            row = await receipt_rows.delivery(tx, delivery_id)
            if row is None or not caller.sees(row.tenant, row.site):
                raise Problem(
                    404,
                    "Not found",
                    "There is no delivery with this identifier in your scope.",
                    advice="List them with GET /v1/egress/deliveries.",
                )
            rows = await receipt_rows.current_items(tx, delivery_id)
        if row.state != "done":
            raise _not_done(row, rows)
        # In a thread: a study may have tens of thousands of instances.
        return Response(await asyncio.to_thread(_signed, row, rows, key, region), media_type="application/json")

    @router.get("/receipt-key", dependencies=[requires("status.read")])
    async def receipt_key() -> PublicKey:
        try:
            public = (await asyncio.to_thread(key.get)).public_key()
        except KeyUnavailableError as error:
            raise _no_key(error) from error
        return PublicKey(algorithm=ALGORITHM, key_id=key_id(public), public_key=public_pem(public))

    return router


def _signed(row: Row[Any], rows: Sequence[Row[Any]], key: ReceiptKey, region: str) -> bytes:
    if row.expected_hash is None:
        raise Problem(
            409,
            "No receipt",
            "Whoever closed this delivery did not say of which instances it was to consist: that came with a later "
            "release. Their number alone proves too little.",
            advice="Have the study routed once more; its delivery then says so.",
        )
    try:
        private = key.get()
    except KeyUnavailableError as error:
        raise _no_key(error) from error
    made = receipt_rows.receipt(row, rows, region)
    problems = [problem for finding in verification.contents(made) for problem in finding.problems]
    if problems:
        # Only what is so is ever signed; the rows of a delivery that is amended at this moment do not agree.
        _log.error("receipt refused: the delivery is marked done, and its items say otherwise", delivery=row.id)
        raise Problem(
            409,
            "No receipt",
            f"The delivery is marked as done, but its instances do not bear it out. {' '.join(problems)}",
            advice="Ask again: the study may be being amended. If it stays so, look with `kivuko delivery show`.",
        )
    return export(made, private)


def _not_done(row: Row[Any], rows: Sequence[Row[Any]]) -> Problem:
    sent = sum(item.state == "sent" for item in rows)
    return Problem(
        409,
        "No receipt",
        f"The delivery is not done but {row.state}: {sent} of {row.expected_count or 'the'} instances are sent. "
        "There is a receipt only for what the receiver has in full.",
        advice=f"See what is in its way with `kivuko delivery show {row.id}`.",
    )


def _no_key(error: KeyUnavailableError) -> Problem:
    text = str(error)
    return Problem(503, "No receipt key", f"{text[:1].upper()}{text[1:]}.", advice=error.advice)
