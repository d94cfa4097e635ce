"""Whether a process is alive, whether it can serve, and its figures."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from libs.clock import Clock
from libs.telemetry import log, metric
from libs.web.permission import public, requires
from libs.web.problem import Problem

Check = Callable[[], Awaitable[None]]

#: A check that takes longer has failed.
LONGEST_CHECK = timedelta(seconds=5)
#: Answers are kept for a moment, so that asking often costs little.
KEPT_FOR = timedelta(seconds=1)

_log = log.get("kivuko.health")


class Alive(BaseModel):
    """The process answers."""

    status: str = Field("alive", description="Always `alive`.")


class Ready(BaseModel):
    """The process can serve."""

    status: str = Field("ready", description="Always `ready`; a process that is not answers 503.")
    checks: tuple[str, ...] = Field(description="What was looked at, as SERVICE.CHECK.")


class Failing(BaseModel):
    """A check that failed."""

    check: str = Field(description="Which one, as SERVICE.CHECK.")
    detail: str = Field(description="What is wrong and how to mend it.")


class Readiness:
    """The checks of all services of a process.

    Parameters
    ----------
    checks
        By name, SERVICE.CHECK; each raises with a sentence that says what to do.
    clock
        The time in UTC.
    longest
        A check that takes longer has failed.
    """

    def __init__(self, checks: Mapping[str, Check], clock: Clock, longest: timedelta = LONGEST_CHECK) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._longest = longest
        self._asking = asyncio.Lock()
        self._asked_at: datetime | None = None
        self._failing: list[Failing] = []

    @property
    def names(self) -> tuple[str, ...]:
        """What is looked at."""
        return tuple(self._checks)

    async def failing(self) -> list[Failing]:
        """Run the checks side by side; give those that failed."""
        async with self._asking:
            # Either way: after the clock was put back an old answer must not stand for an hour.
            if self._asked_at is None or abs(self._clock() - self._asked_at) >= KEPT_FOR:
                outcomes = await asyncio.gather(*(self._run(name, check) for name, check in self._checks.items()))
                self._failing = [outcome for outcome in outcomes if outcome is not None]
                self._asked_at = self._clock()
            return self._failing

    async def _run(self, name: str, check: Check) -> Failing | None:
        try:
            async with asyncio.timeout(self._longest.total_seconds()):
                await check()
        except TimeoutError:
            return Failing(check=name, detail=f"no answer within {self._longest.total_seconds():g} s")
        except Exception as error:  # noqa: BLE001 -- a check fails with whatever its subject raises: not ready
            _log.warning("not ready", check=name, error=type(error).__name__)
            return Failing(check=name, detail=_sentence(error))
        return None


def _sentence(error: Exception) -> str:
    # This page is public. Our own errors are written for people; what a driver says may hold addresses and passwords.
    ours = type(error) is RuntimeError or type(error).__module__.partition(".")[0] in ("libs", "services")
    return str(error) if ours else f"failed with {type(error).__name__}: see the log"


def health_router(readiness: Readiness) -> APIRouter:
    """Give `/healthz`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", dependencies=[public("An orchestrator asks without a token.")])
    async def alive() -> Alive:
        """Tell that the process answers; nothing else is looked at."""
        return Alive()

    @router.get("/readyz", dependencies=[public("An orchestrator asks without a token.")])
    async def ready() -> Ready:
        """Tell whether the process can serve; 503 names what fails and how to mend it."""
        failing = await readiness.failing()
        if failing:
            raise Problem(
                503,
                "Not ready",
                f"{len(failing)} of {len(readiness.names)} checks fail: see `failing`.",
                advice="Each entry of `failing` says how to mend it; `kivuko doctor` looks closer.",
                headers={"Retry-After": "5"},
                failing=[one.model_dump() for one in failing],
            )
        return Ready(checks=readiness.names)

    @router.get("/metrics", dependencies=[requires("metrics.read", from_loopback=True)], response_class=Response)
    async def metrics() -> Response:
        """Give the figures for Prometheus; from another machine the permission metrics.read is needed."""
        figures, content_type = metric.render()
        return Response(figures, media_type=content_type)

    return router
