"""The slow line keeps what it promises, measured from outside: nothing comes earlier than it may."""

import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import StoreScpFactory
from tests.support.dcmtk import storescu
from tests.support.dicomset import dataset_bytes
from tests.support.line import Line
from tests.support.link import Link, Mode, Usage
from tests.support.port import free_port
from tests.support.process import wait_until
from tests.support.synthetic import make_ct

pytestmark = pytest.mark.integration

#: A round trip that costs tests little.
_SHORT_S = 0.02
_FAST = 20_000_000


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Stand at the far end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def connected(link: Link, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Connect over the line; give the near end and the far end."""
    near = socket.create_connection(("127.0.0.1", link.port), 30)
    far, _ = server.accept()
    far.settimeout(30)
    return near, far


def read(connection: socket.socket, size: int) -> list[tuple[float, int]]:
    """Read so many bytes; tell when how many of them had come."""
    came, samples = 0, []
    while came < size:
        data = connection.recv(1 << 16)
        assert data
        came += len(data)
        samples.append((time.monotonic(), came))
    return samples


def echo(near: socket.socket, far: socket.socket) -> float:
    """Send a byte there and back; give the seconds."""
    began = time.monotonic()
    near.sendall(b"?")
    assert far.recv(1) == b"?"
    far.sendall(b"!")
    assert near.recv(1) == b"!"
    return time.monotonic() - began


@given(
    packets=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 3000)), min_size=1, max_size=30),
    rate=st.sampled_from([9_600, 384_000, 10_000_000]),
    delay=st.sampled_from([0.0, 0.3575]),
)
def test_nothing_passes_faster_than_the_line(packets: list[tuple[float, int]], rate: int, delay: float) -> None:
    line, now, before = Line(rate, delay, 1 << 16), 0.0, 0.0
    for gap, size in packets:
        now += gap
        at = line.take(now, size)
        # When it is free it begins at once, else behind the packet before: neither earlier nor later.
        assert at == pytest.approx(max(now, before) + size * 8 / rate + delay)
        before = at - delay
        line.arrived(at, size)
    usage = line.usage()
    assert usage.passed == sum(size for _, size in packets)
    assert usage.first == pytest.approx(packets[0][0])
    assert usage.last == pytest.approx(before)
    assert 0 < usage.busy < 1 + 1e-9


def test_the_queue_of_the_line_is_bounded() -> None:
    line, taken = Line(8000, 0.5, 4000), 0
    while line.room_at <= 0:
        line.take(0, 1000)
        taken += 1

    # Four wait, and one is on its way.
    assert taken == 5
    assert line.room_at == pytest.approx(1.0)


def transfer(rate: int, rtt: float, size: int) -> tuple[list[list[float]], list[Usage]]:
    """Send so many bytes both ways at once; give how late each part came, and what the line says, by direction.

    Late behind a line that began to send when the connection did, and is as near as it says.
    """
    with listening() as server, Link(port_of(server), rate=rate, rtt=rtt) as link, ThreadPoolExecutor() as pool:
        began = time.monotonic()
        near, far = connected(link, server)
        with near, far:
            writes = [pool.submit(end.sendall, bytes(size)) for end in (near, far)]
            reads = [pool.submit(read, end, size) for end in (far, near)]
            samples = [each.result() for each in reads]
            assert [each.result() for each in writes] == [None, None]
        lates = [[at - began - 1.5 * rtt - came * 8 / rate for at, came in each] for each in samples]
        return lates, [link.up, link.down]


@pytest.mark.parametrize(("rate", "rtt", "size"), [(384_000, 0.715, 120_000), (5_000_000, _SHORT_S, 1_250_000)])
def test_the_rate_is_kept_in_both_directions(rate: int, rtt: float, size: int) -> None:
    # Never early. That it is not late either follows from `test_nothing_passes_faster_than_the_line`: how late a busy
    # machine wakes up whom is not for a test to say.
    lates, usages = transfer(rate, rtt, size)
    assert min(map(min, lates)) > 0
    for usage in usages:
        assert (usage.passed, usage.lost) == (size, 0)
        assert usage.busy < 1 + 1e-9
        assert usage.last - usage.first >= size * 8 / rate - 1e-9


def test_there_and_back_takes_a_round_trip() -> None:
    with listening() as server, Link(port_of(server), rate=384_000, rtt=0.715) as link:
        began = time.monotonic()
        near, far = connected(link, server)
        with near, far:
            echo(near, far)
            first = time.monotonic() - began
            others = [echo(near, far) for _ in range(2)]

    assert min(others) > 0.715
    # The handshake of TCP takes one more.
    assert first > 2 * 0.715


def test_a_sender_feels_how_slow_it_is() -> None:
    with listening() as server, Link(port_of(server), rate=8_000, rtt=0.1) as link:
        near, far = connected(link, server)
        with near, far:
            near.setblocking(False)
            sent = 0
            while select.select([], [near], [], 1.0)[1]:
                sent += near.send(bytes(1 << 20))
                assert sent < 1 << 20

    # The queue of 64 KiB, and what the kernel of the sender keeps for a line of short segments.
    assert 1 << 16 < sent < 1 << 19


def test_connections_share_it_in_turns() -> None:
    with (
        listening() as server,
        Link(port_of(server), rate=2_000_000, rtt=_SHORT_S) as link,
        ThreadPoolExecutor() as pool,
    ):
        pairs = [connected(link, server) for _ in range(3)]
        for near, _ in pairs:
            pool.submit(near.sendall, bytes(300_000))
        samples = [pool.submit(read, far, 300_000) for _, far in pairs]
        ends = [each.result()[-1][0] for each in samples]
        began = min(each.result()[0][0] for each in samples)
        for near, far in pairs:
            near.close()
            far.close()

    # All three end with the whole. One that had all of it first would be done after a third of the time.
    assert min(ends) - began > (max(ends) - began) * 2 / 3


def test_one_that_nobody_reads_does_not_stop_the_others() -> None:
    with listening() as server, Link(port_of(server), rate=_FAST, rtt=_SHORT_S) as link:
        near, far = connected(link, server)
        other_near, other_far = connected(link, server)
        with near, far, other_near, other_far:
            near.setblocking(False)
            sent = 0
            while select.select([], [near], [], 0.5)[1]:
                sent += near.send(bytes(1 << 20))
                assert sent < 1 << 23

            assert echo(other_near, other_far) > _SHORT_S


def test_ends_are_passed_on() -> None:
    with listening() as server, Link(port_of(server), rate=_FAST, rtt=_SHORT_S) as link:
        near, far = connected(link, server)
        with near, far:
            near.sendall(b"the last")
            near.shutdown(socket.SHUT_WR)
            assert read(far, 8)[-1][1] == 8
            assert far.recv(1) == b""
            far.sendall(b"an answer all the same")
            far.close()
            assert read(near, 22)[-1][1] == 22
            assert near.recv(1) == b""

        near, far = connected(link, server)
        with near, far:
            near.sendall(b"the last")
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            near.close()
            assert read(far, 8)[-1][1] == 8
            with pytest.raises(ConnectionResetError):
                far.recv(1)


def test_where_nobody_listens_it_resets() -> None:
    with (
        Link(free_port(), rate=_FAST, rtt=_SHORT_S) as link,
        socket.create_connection(("127.0.0.1", link.port), 30) as near,
        pytest.raises(ConnectionResetError),
    ):
        near.recv(1)


def test_a_cut_resets_connections_and_refuses_new_ones_until_it_is_mended() -> None:
    with listening() as server, Link(port_of(server), rate=8_000, rtt=_SHORT_S) as link:
        near, far = connected(link, server)
        with near, far:
            near.sendall(bytes(10_000))
            assert far.recv(1) == b"\0"
            link.cut()
            with pytest.raises(ConnectionResetError):
                near.recv(1)
            with pytest.raises(ConnectionResetError):
                read(far, 10_000)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", link.port), 30)

        link.mend()

        near, far = connected(link, server)
        with near, far:
            echo(near, far)
        assert link.up.lost > 0
        assert link.cuts == 1


def test_a_silent_cut_holds_everything_until_it_is_mended() -> None:
    began = time.monotonic()
    with listening() as server, Link(port_of(server), rate=_FAST, rtt=_SHORT_S) as link, ThreadPoolExecutor() as pool:
        near, far = connected(link, server)
        with near, far:
            echo(near, far)
            link.cut("silent")
            near.sendall(b"?")
            far.settimeout(0.3)
            with pytest.raises(TimeoutError):
                far.recv(1)
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", link.port), 0.3)
            patient = pool.submit(socket.create_connection, ("127.0.0.1", link.port), 30)

            link.mend()

            far.settimeout(30)
            assert far.recv(1) == b"?"
            # The time of a cut does not count.
            assert link.up.last - link.up.first < time.monotonic() - began - 2 * 0.3
            with patient.result() as late:
                other, _ = server.accept()
                with other:
                    echo(late, other)
            assert link.up.lost == 0


@pytest.mark.parametrize("mode", ["reset", "silent"])
def test_it_is_cut_again_and_again(mode: Mode) -> None:
    def reachable() -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.05)
            return probe.connect_ex(("127.0.0.1", link.port)) == 0

    with listening() as server, Link(port_of(server), rate=_FAST, rtt=_SHORT_S) as link:
        link.cut_every(0.6, 0.3, mode)
        for _ in range(2):
            wait_until(lambda: not reachable(), "the line to be cut")
            wait_until(reachable, "the line to be mended")
        link.mend()
        assert reachable()
        assert link.cuts >= 2


def test_it_counts_anew() -> None:
    with listening() as server, Link(port_of(server), rate=_FAST, rtt=_SHORT_S) as link:
        near, far = connected(link, server)
        with near, far:
            echo(near, far)
            link.forget()
            assert (link.up.passed, link.up.busy) == (0, 0.0)
            echo(near, far)
            assert (link.up.passed, link.down.passed) == (1, 1)


def test_an_image_comes_over_it_as_it_was(storescp: StoreScpFactory, tmp_path: Path) -> None:
    image, node, beside = make_ct(tmp_path, rows=128, cols=128), storescp(), storescp()
    storescu(beside.port, [image], called=beside.aet)

    with Link(node.port, rate=2_000_000, rtt=_SHORT_S) as link:
        sent = storescu(link.port, [image], called=node.aet)
        usage = link.up

    assert sent.returncode == 0, sent.stderr
    assert [dataset_bytes(each) for each in node.files()] == [dataset_bytes(each) for each in beside.files()]
    assert usage.passed > 128 * 128 * 2


def test_it_ends_with_its_block() -> None:
    with listening() as server, Link(port_of(server), rate=_FAST, rtt=_SHORT_S) as link:
        near, far = connected(link, server)
    with near, far, pytest.raises(ConnectionResetError):
        near.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", link.port), 30)
