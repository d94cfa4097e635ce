"""HTTP routes by which people try a transform on a file of theirs, with the secrets and in the processes of egress."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from contracts.fact import Slug
from libs.clock import Clock
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.egress.project import NoSecretError
from services.egress.transforming import Owner, Transforming
from services.egress.transforms.engine import Step, version
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.job import Done
from services.egress.transforms.workers import NoRoomError, WorkerLostError

Caller = Annotated[Principal, Depends(principal)]
_TRY = requires("transforms.try")
_DICOM = "application/dicom"


class ElementChange(BaseModel):
    """One element before and after; none where there is none."""

    where: str = Field(description="Tags and items that lead to it, such as (0008,1140)[0].(0008,1155).")
    name: str = Field(description="Its keyword, as far as one is known.")
    before: str | None
    after: str | None


class Tried(BaseModel):
    """What a transform made of a file. Nothing was sent."""

    transform: str
    version: str = Field(description="16 digits that follow from all that the transform does.")
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    content_hash: str = Field(description="SHA-256 of the dataset.")
    size: int = Field(description="Length of the Part 10 file in bytes.")
    changes: list[ElementChange]


def make_transform_router(transforming: Transforming, clock: Clock) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])

    async def done(request: Request, caller: Principal, name: str, tenant: str, *, explain: bool) -> tuple[Done, Path]:
        if not caller.sees_tenant(tenant):
            raise Problem(404, "Not found", f"There is no tenant {tenant} that this token may see.")
        step = transforming.step(name)
        if step is None:
            raise Problem(
                404,
                "Not found",
                f"No transform in force is called {name}.",
                advice="See `transforms` of the definition: `kivuko network show`.",
            )
        return await _tried(transforming, _Asked(step, tenant), request.stream(), clock, explain=explain)

    @router.post("/transforms/{name}/try", dependencies=[_TRY])
    async def try_transform(
        request: Request, caller: Caller, name: str, tenant: Annotated[Slug, Query()] = "default"
    ) -> Tried:
        found, path = await done(request, caller, name, tenant, explain=True)
        await to_thread.run_sync(path.unlink)
        step = transforming.step(name)
        return Tried(
            transform=name,
            version="" if step is None else version([step]),
            **vars(found.transformed),
            changes=[ElementChange(**vars(change)) for change in found.changes],
        )

    @router.post("/transforms/{name}/file", dependencies=[_TRY], response_class=FileResponse)
    async def transform_file(
        request: Request, caller: Caller, name: str, tenant: Annotated[Slug, Query()] = "default"
    ) -> FileResponse:
        _, path = await done(request, caller, name, tenant, explain=False)
        return FileResponse(path, media_type=_DICOM, background=BackgroundTask(path.unlink))

    return router


class _Asked:
    def __init__(self, step: Step, tenant: str) -> None:
        self.step = step
        self.owner = Owner(tenant, "")


async def _tried(
    transforming: Transforming, asked: _Asked, content: AsyncIterator[bytes], clock: Clock, *, explain: bool
) -> tuple[Done, Path]:
    """Transform what was sent; whatever is wrong with it or with the transform is told as a problem."""
    try:
        return await transforming.attempt(content, asked.owner, [asked.step], clock(), explain=explain)
    except UntransformableError as error:
        raise Problem(
            422,
            "Not transformed",
            f"It would not be sent: {error}.",
            advice="Change the transform, or take another file.",
        ) from error
    except NoSecretError as error:
        raise Problem(409, "No secret", f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
    except (WorkerLostError, NoRoomError) as error:
        said = f"{str(error)[:1].upper()}{str(error)[1:]}."
        raise Problem(503, "Not transformed now", said, advice="Try again; if it happens again, report it.") from error
