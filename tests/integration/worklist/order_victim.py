"""Takes orders as fast as it can, and says each number once it is answered, until it is killed.

Usage: order_victim.py DATABASE_URL FIRST
"""

import asyncio
import sys
from itertools import count

from services.worklist.change import Number
from tests.integration.worklist.conftest import make_desk
from tests.unit.worklist.said import order


async def main(url: str, first: int) -> None:
    desk = await make_desk(url)
    numbers = count(first)

    async def caller() -> None:
        for number in numbers:
            change = order(number, placer=f"P{number}", patient=Number(str(number % 50), "HIS"), steps={"S1": {}})
            await desk.take(change)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*(caller() for _ in range(16)))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
