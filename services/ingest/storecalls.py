"""Calls to the object store, which may hang, in threads of their own: nothing else waits for one of them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
#: More than ever call at a time while the store answers.
_THREADS: Final = 12


class StoreCalls:
    """Runs what talks to the object store. From one event loop only."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="objects")

    async def run(self, function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """Run a function in one of the threads; it goes on when the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **named))

    def close(self) -> None:
        """Take no more; what runs comes to its end by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
