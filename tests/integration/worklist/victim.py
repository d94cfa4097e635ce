"""A worklist in a process of its own, to be killed: `victim.py HOME VERSION [DATABASE]`; prints its port."""

import asyncio
import sys
from pathlib import Path

from tests.integration.worklist.modality import network, running


async def main(home: Path, version: int, database_url: str | None) -> None:
    """Run until killed."""
    async with running(home, network(), database_url, version) as worklist:
        print("port", worklist.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
