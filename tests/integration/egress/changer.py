"""A replica of egress that transforms for a folder, in a process of its own, to be killed: `changer FOLDER`."""

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

from contracts.definition import Snapshot
from tests.integration.egress.stand import network, stand
from tests.integration.egress.test_transforms import with_transforms

OWN: Final[dict[str, Any]] = {"prefix": {"PatientID": "D-"}, "transfer-syntax": "jpeg2000-lossless"}


def definition(folder: Path) -> Snapshot:
    """Make a definition whose only destination gets nothing unchanged."""
    there = folder / "there"
    there.mkdir(exist_ok=True)
    return with_transforms(network(1, {"archive": {"folder": str(there), "transform": "own"}}, {}), {"own": OWN})


async def main(folder: Path) -> None:
    """Send until killed."""
    async with stand(folder, definition(folder)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
