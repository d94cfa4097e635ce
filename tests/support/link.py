"""A slow, long line before a port of loopback: so many bit/s, so far away, and cut when the test says so.

    with Link(port, rate=384_000, rtt=0.715) as link:
        send_to(link.port)
        link.cut("silent")
        link.mend()
        assert link.up.busy > 0.9

It runs in a process of its own, so that code under test and the line do not delay each other. Every packet is given
the time of its arrival when it is taken, by when the line will be free: a process that wakes up late is late with one
packet, and not later with the next, unless it sleeps longer than the queue lasts.

What it leaves out: packets lost on the way and what TCP makes of them; the headers of TCP and IP (`rate` is of
payload); and the handshake of TCP, which the kernel does at once. Instead the first byte of a connection leaves a round
trip late, and who connects while the port behind refuses is reset after a round trip.

A sender's own kernel takes some 300 KB more than the queue of the line, as before a real one: six seconds of
384 kbit/s, unless the sender asks for less (SO_SNDBUF).
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.line import Usage
from tests.support.traffic import Mode, Traffic

__all__ = ["Link", "Mode", "Usage"]

#: Seconds that the process may take to end.
_PATIENCE_S = 10.0


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
        What to connect to instead; 0 before the block.
    """

    def __init__(self, port: int, *, rate: float = 384_000, rtt: float = 0.715, queue: int | None = None) -> None:
        queue = max(1 << 16, round(rate / 8 / 4)) if queue is None else queue
        self._command = [sys.executable, "-m", "tests.support.link", *map(str, (port, rate, rtt, queue))]
        self._lock = threading.Lock()
        self.port = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = self._ask("usage")["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # It ends with its input.
            self._process.communicate(timeout=_PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:
            raise RuntimeError("the line broke: the traceback of its process stands in the output")

    def cut(self, mode: Mode = "reset") -> None:
        """Cut it now, until `mend`."""
        self._ask("cut", mode)

    def mend(self) -> None:
        """Let it work again, and end what `cut_every` began."""
        self._ask("mend")

    def cut_every(self, every_s: float, for_s: float, mode: Mode = "reset") -> None:
        """Cut it for `for_s` seconds, first in `every_s` seconds from now, and again `every_s` after each cut began."""
        if not 0 < for_s < every_s:
            raise ValueError(f"a cut of {for_s:g} s does not fit into {every_s:g} s")
        self._ask("cut_every", every_s, for_s, mode)

    def forget(self) -> None:
        """Count anew in both directions."""
        self._ask("forget")

    @property
    def up(self) -> Usage:
        """What passed from who connected to the port behind."""
        return Usage(**self._ask("usage")["up"])

    @property
    def down(self) -> Usage:
        """What passed from the port behind to who connected."""
        return Usage(**self._ask("usage")["down"])

    @property
    def cuts(self) -> int:
        """How often it was cut."""
        return int(self._ask("usage")["cuts"])

    def _ask(self, *order: object) -> Any:
        """Give an order to the process, and wait until it is carried out; give what there is to tell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the line broke: the traceback of its process stands in the output")
        return json.loads(answer)


class _Keeper:
    """In the process of the line: carries out orders and plans."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._mode: Mode = "reset"
        self._plan: tuple[float, float, Mode] | None = None
        self._switch_at = inf
        self._cuts = 0

    def run(self) -> None:
        """Work until there is no more input."""
        orders, received = sys.stdin.fileno(), b""
        while True:
            self._switch()
            if self._traffic.turn(self._switch_at, orders):
                data = os.read(orders, 1 << 12)
                if not data:
                    return
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    self._carry_out(*json.loads(line))
                    print(json.dumps(self._told()), flush=True)

    def _told(self) -> dict[str, object]:
        up, down = self._traffic.up.usage(), self._traffic.down.usage()
        return {"port": self._traffic.port, "cuts": self._cuts, "up": asdict(up), "down": asdict(down)}

    def _carry_out(self, name: str, *arguments: Any) -> None:
        if name == "cut":
            self._begin(None, arguments[0])
        elif name == "mend":
            self._begin(None, None)
        elif name == "cut_every":
            self._begin((arguments[0], arguments[1], arguments[2]), None)
        elif name == "forget":
            self._traffic.up.forget()
            self._traffic.down.forget()
        else:
            assert name == "usage"

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
        self._cuts += 1
        self._traffic.cut(mode)


def main() -> None:
    """Be the line: port behind, rate, round trip and queue are the arguments."""
    port, rate, rtt, queue = sys.argv[1:]
    traffic = Traffic(int(port), float(rate), float(rtt), int(queue))
    try:
        _Keeper(traffic).run()
    finally:
        traffic.close()


if __name__ == "__main__":
    main()
