"""What the image of one service holds, out of uv.lock, without building it."""

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from contracts.topics import SERVICES

ROOT = Path(__file__).parents[2]


def absent_modules(service: str) -> list[str]:
    """List the importable modules of this environment that the image of a service does not hold.

    They are the other services, and the modules of every package that neither the project nor the groups `cli` and of
    the service need.
    """
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    by_name = {each["name"]: each for each in packages}
    held = _held(by_name, service)
    modules = [
        module
        for module, names in packages_distributions().items()
        if not any(_normal(name) in held for name in names) and any(_normal(name) in by_name for name in names)
    ]
    return [f"services.{other}" for other in SERVICES if other != service] + modules


def _held(by_name: dict[str, dict[str, Any]], service: str) -> set[str]:
    project = by_name["kivuko"]
    groups = project["dev-dependencies"]
    queue = [*project["dependencies"], *groups["cli"], *groups.get(service, [])]
    held = {"kivuko"}
    seen = set()
    while queue:
        needed = queue.pop()
        extras = tuple(needed.get("extra", ()))
        if (needed["name"], extras) in seen:
            continue
        seen.add((needed["name"], extras))
        held.add(needed["name"])
        package = by_name[needed["name"]]
        queue += package.get("dependencies", [])
        queue += [more for extra in extras for more in package.get("optional-dependencies", {}).get(extra, [])]
    return held


def _normal(name: str) -> str:
    """Write a package's name as the lock does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
