"""A process that writes until it is killed: `writer.py URL steady|stuck|large SIZE`."""

import io
import resource
import sys

from libs.storage.objects import open_store

CHUNK = 1024 * 1024


class Source(io.RawIOBase):
    """So many zero bytes; then its end, or a wait for the end of standard input."""

    def __init__(self, size: int, *, stuck: bool) -> None:
        self._left = size
        self._stuck = stuck

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        taken = min(size, CHUNK, self._left)
        self._left -= taken
        if taken == 0 and self._stuck:
            print("stuck", flush=True)
            sys.stdin.read()
        return bytes(taken)


def main() -> None:
    url, mode, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = open_store(url)
    if mode == "steady":
        for number in range(100_000):
            store.put(f"steady/{number}", number.to_bytes(4) * (size // 4), if_absent=True)
            print(number, flush=True)
    store.put("warm", io.BytesIO(bytes(20 * CHUNK)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.put("large", Source(size, stuck=mode == "stuck"))  # type: ignore[arg-type] # reads are all that is needed
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)


if __name__ == "__main__":
    main()
