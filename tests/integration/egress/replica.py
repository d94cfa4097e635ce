"""A replica of egress in a process of its own, to be killed: `replica DATABASE_URL FOLDER PORT NAME`."""

import asyncio
import sys
from pathlib import Path

from tests.integration.egress.stand import QUICK, archive, stand


async def main(database_url: str, folder: str, port: str, name: str) -> None:
    """Send until killed."""
    settings = QUICK.model_copy(update={"lease": 2})
    async with stand(
        Path(folder),
        archive(int(port), destination={"associations": 4}),
        settings,
        database_url=database_url,
        name=name,
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
