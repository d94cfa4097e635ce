"""What a benchmark found, as JSON and as a table."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

#: Where each benchmark leaves its figures.
FOLDER = Path("build/bench")


@dataclass(frozen=True)
class Figure:
    """One figure: the median of several rounds, beside a peer's in the same run where there is one.

    Attributes
    ----------
    name, unit
        What it is.
    value
        Median.
    spread
        Smallest and largest of the rounds.
    peer, peer_value
        The other program, and its median.
    ratio
        Value over the peer's value.
    goal
        What was set out for, as text; none where there is no goal yet.
    met
        Whether it is reached; none without a goal.
    """

    name: str
    unit: str
    value: float
    spread: tuple[float, float]
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


def at_most(name: str, unit: str, rounds: Sequence[float], most: float) -> Figure:
    """Make a figure whose median must stay below a goal."""
    value = statistics.median(rounds)
    return Figure(name, unit, value, (min(rounds), max(rounds)), goal=f"< {most:g} {unit}", met=value < most)


def at_least(name: str, unit: str, rounds: Sequence[float], least: float) -> Figure:
    """Make a figure whose median must reach a goal."""
    value = statistics.median(rounds)
    return Figure(name, unit, value, (min(rounds), max(rounds)), goal=f">= {least:g} {unit}", met=value >= least)


def measured(name: str, unit: str, rounds: Sequence[float]) -> Figure:
    """Make a figure without a goal."""
    return Figure(name, unit, statistics.median(rounds), (min(rounds), max(rounds)))


def beside(
    name: str,
    unit: str,
    rounds: Sequence[float],
    peer: str,
    peer_rounds: Sequence[float],
    *,
    least: float | None = None,
) -> Figure:
    """Make a figure beside a peer's, with the least ratio to it that was set out for."""
    value, other = statistics.median(rounds), statistics.median(peer_rounds)
    ratio = value / other if other else None
    goal, met = (None, None) if least is None else (f">= {least:g}x", ratio is not None and ratio >= least)
    return Figure(name, unit, value, (min(rounds), max(rounds)), peer, other, ratio, goal, met)


def save(benchmark: str, figures: Sequence[Figure]) -> None:
    """Write `build/bench/NAME.json`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{benchmark}.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def load(path: Path) -> list[Figure]:
    """Read what `save` wrote."""
    return [Figure(**{**entry, "spread": tuple(entry["spread"])}) for entry in json.loads(path.read_text())]


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Give each figure as words."""
    return [
        (
            figure.name,
            f"{figure.value:.4g} {figure.unit}",
            f"{figure.spread[0]:.4g} - {figure.spread[1]:.4g}",
            "" if figure.peer is None or figure.peer_value is None else f"{figure.peer}: {figure.peer_value:.4g}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}x",
            figure.goal or "",
            {True: "met", False: "NOT MET", None: ""}[figure.met],
        )
        for figure in figures
    ]


COLUMNS = ("figure", "median", "spread", "peer", "ratio", "goal", "")


def table(benchmark: str, figures: Sequence[Figure]) -> Table:
    """Give the figures as a table for the terminal."""
    made = Table(*COLUMNS, title=benchmark, title_justify="left", box=None, pad_edge=False)
    for row in rows(figures):
        made.add_row(*row)
    return made
