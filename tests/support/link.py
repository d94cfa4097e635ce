"""A slow, long line before a port of loopback: so many bit/s, so far away, and cut when the test says so.

    with Link(port, rate=384_000, rtt=0.715) as link:
        send_to(link.port)
        link.cut("silent")
        link.mend()
        assert link.up.busy > 0.9

It runs in a thread of its own, so that an event loop under test and the line do not delay each other. Every packet is
given the time of its arrival when it is taken, by when the line will be free: a thread that wakes up late is late with
one packet, and not later with the next, unless it sleeps longer than the queue lasts.

What it leaves out: packets lost on the way and what TCP makes of them; the headers of TCP and IP (`rate` is of
payload); and the handshake of TCP, which the kernel does at once. Instead the first byte of a connection leaves a round
trip late, and who connects while the port behind refuses is reset after a round trip.

A sender's own kernel takes some 300 KB more than the queue of the line, as before a real one: six seconds of
384 kbit/s, unless the sender asks for less (SO_SNDBUF).
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from math import inf
from types import TracebackType
from typing import Self, TypeVar

from tests.support.line import Usage
from tests.support.traffic import Mode, Traffic

__all__ = ["Link", "Mode", "Usage"]
T = TypeVar("T")

#: Seconds that the thread may take to answer.
_PATIENCE_S = 60.0


class Link:
    """The line, from the start to the end of the block.

    Parameters
    ----------
    port
        What stands at the far end, on loopback.
    rate
        Bits a second in each direction, shared by all connections in turns.
    rtt
        Seconds there and back, half each way.
    queue
        Bytes that may wait for the line in each direction, as in a router before it: 64 KiB, or a quarter of a second
        where that is more. A connection that its sink does not read has at most this and rate x rtt under way.

    Attributes
    ----------
    port
        What to connect to instead.
    cuts
        How often it was cut.
    """

    def __init__(self, port: int, *, rate: float = 384_000, rtt: float = 0.715, queue: int | None = None) -> None:
        self._traffic = Traffic(port, rate, rtt, max(1 << 16, round(rate / 8 / 4)) if queue is None else queue)
        self._commands: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._mode: Mode = "reset"
        self._plan: tuple[float, float, Mode] | None = None
        self._switch_at = inf
        self.cuts = 0
        self.port = self._traffic.port
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._ask(self._stop)
            self._thread.join()
        finally:
            self._traffic.close()

    def cut(self, mode: Mode = "reset") -> None:
        """Cut it now, until `mend`."""
        self._ask(partial(self._begin, None, mode))

    def mend(self) -> None:
        """Let it work again, and end what `cut_every` began."""
        self._ask(partial(self._begin, None, None))

    def cut_every(self, every_s: float, for_s: float, mode: Mode = "reset") -> None:
        """Cut it for `for_s` seconds, first in `every_s` seconds from now, and again `every_s` after each cut began."""
        if not 0 < for_s < every_s:
            raise ValueError(f"a cut of {for_s:g} s does not fit into {every_s:g} s")
        self._ask(partial(self._begin, (every_s, for_s, mode), None))

    @property
    def up(self) -> Usage:
        """What passed from who connected to the port behind."""
        return self._ask(self._traffic.up.usage)

    @property
    def down(self) -> Usage:
        """What passed from the port behind to who connected."""
        return self._ask(self._traffic.down.usage)

    def forget(self) -> None:
        """Count anew in both directions."""
        self._ask(self._traffic.up.forget)
        self._ask(self._traffic.down.forget)

    def _ask(self, what: Callable[[], T]) -> T:
        """Let the thread of the line do it, and wait for the answer."""
        if not self._thread.is_alive():
            raise RuntimeError("the line's thread has ended: its traceback stands in the output")
        answer: Future[T] = Future()
        self._commands.append(lambda: answer.set_result(what()))
        self._traffic.wake()
        return answer.result(_PATIENCE_S)

    # All that follows runs in the thread of the line.

    def _run(self) -> None:
        while not self._stopping:
            self._switch()
            self._traffic.turn(self._switch_at)
            while self._commands:
                self._commands.popleft()()

    def _stop(self) -> None:
        self._stopping = True

    def _begin(self, plan: tuple[float, float, Mode] | None, mode: Mode | None) -> None:
        """Cut the line in a mode, or mend it; and begin a plan, or end the one there is."""
        self._plan = plan
        self._switch_at = time.monotonic() + plan[0] if plan else inf
        if self._traffic.is_cut and mode != self._mode:
            self._traffic.mend()
        if not self._traffic.is_cut and mode is not None:
            self._cut(mode)

    def _switch(self) -> None:
        """Cut or mend it if the plan says so."""
        if self._plan is None or time.monotonic() < self._switch_at:
            return
        every_s, for_s, mode = self._plan
        if self._traffic.is_cut:
            self._switch_at += every_s - for_s
            self._traffic.mend()
        else:
            self._switch_at += for_s
            self._cut(mode)

    def _cut(self, mode: Mode) -> None:
        self._mode = mode
        self.cuts += 1
        self._traffic.cut(mode)
