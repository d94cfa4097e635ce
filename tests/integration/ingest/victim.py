"""An ingest in a process of its own, to be killed: `victim.py HOME SETTINGS`, settings as JSON; prints its port."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.integration.ingest.conftest import running


async def main(home: Path, settings: dict[str, Any]) -> None:
    """Run until killed."""
    async with running(home, **settings) as ingest:
        print("port", ingest.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
