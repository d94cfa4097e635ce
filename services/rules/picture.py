"""A page to look at: how studies flow from sites to destinations before and after, and what each destination gets.

One HTML file without scripts and without anything from elsewhere, so that it can be kept and mailed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final

#: Sites and destinations that are drawn each for itself, the busiest; the others as one.
_MOST: Final = 18
_WIDTH, _BAR, _GAP, _TOP = 560, 12, 8, 20
#: Least distance of names, and room for bars beside that.
_PITCH, _ROOM = 15, 260
_LEFT, _RIGHT = 130, 130
_OTHERS: Final = "others"
_ROWS: Final = 200
#: Same, gained, lost.
_COLOURS: Final = {"same": "#8fa6b8", "more": "#1b7f4d", "less": "#c0392b"}
_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c2833;margin:2rem auto;max-width:1200px;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .4rem}
p{margin:.2rem 0}.quiet{color:#5d6d7e}
.pair{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0;flex:1 1 520px}figcaption{font-weight:600}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}
table{border-collapse:collapse;width:100%}td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #e5e8ea}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.more{color:#1b7f4d}.less{color:#c0392b}
.key span{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 1rem;vertical-align:-1px}
"""


def page(report: Mapping[str, Any], since: datetime, until: datetime, against: str) -> str:
    """Draw a report of `findings.report` as a whole page of HTML."""
    before = "where they went" if against == "recorded" else "by the rules in force"
    than = "where they went" if against == "recorded" else "where the rules in force would send them"
    changed, studies = report["changed_studies"], report["studies"]
    share = f" ({100 * changed / studies:.1f} %)" if studies else ""
    span = f"Decided from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC"
    notes = [
        f"{report['nowhere']['after']:,} studies would go nowhere; before it were {report['nowhere']['before']:,}.",
        f"{report['uncertain_studies']:,} studies are uncertain: the proposal reads what is not recorded of them."
        if report["uncertain_studies"]
        else "",
    ]
    return "".join(
        (
            "<!doctype html><html lang=en><head><meta charset=utf-8><title>Replay</title>",
            "<meta name=viewport content='width=device-width'>",
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{changed:,} of {studies:,} studies would go another way{share}</h1>",
            f"<p class=quiet>{span}, compared with {than}.</p>",
            *(f"<p>{escape(note)}</p>" for note in notes if note),
            _flows(report["flows"], before),
            _destinations(report["destinations"]),
            _changes(report["changes"]),
            _conflicts(report["conflicts"]),
            "</body></html>",
        )
    )


def _flows(flows: Sequence[Mapping[str, Any]], before: str) -> str:
    if not flows:
        return "<p>Nothing was recorded in this time.</p>"
    sites = _busiest(flows, "site")
    destinations = _busiest(flows, "destination")
    joined: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for flow in flows:
        ends = (_or_others(flow["site"], sites), _or_others(flow["destination"], destinations))
        joined[ends][0] += flow["studies_before"]
        joined[ends][1] += flow["studies_after"]
    # One scale for both, so that they can be compared by eye.
    most = max(sum(pair[0] for pair in joined.values()), sum(pair[1] for pair in joined.values()), 1)
    key = (
        f"<p class='key quiet'><span style='background:{_COLOURS['same']}'></span>as before"
        f"<span style='background:{_COLOURS['more']}'></span>more studies"
        f"<span style='background:{_COLOURS['less']}'></span>fewer studies</p>"
    )
    figures = "".join(
        f"<figure><figcaption>{title}</figcaption>{_drawing(joined, side, most)}</figure>"
        for side, title in ((0, f"Before: {escape(before)}"), (1, "After: the proposal"))
    )
    return f"<h2>From sites to destinations, in studies</h2>{key}<div class=pair>{figures}</div>"


def _busiest(flows: Sequence[Mapping[str, Any]], name: str) -> set[str]:
    sums: dict[str, int] = defaultdict(int)
    for flow in flows:
        sums[flow[name]] += max(flow["studies_before"], flow["studies_after"])
    return set(sorted(sums, key=lambda one: (-sums[one], one))[:_MOST])


def _or_others(name: str, known: set[str]) -> str:
    return name if name in known else _OTHERS


def _drawing(joined: Mapping[tuple[str, str], Sequence[int]], side: int, most: int) -> str:
    """Draw one side: bars of sites and destinations, bands between them as wide as their studies (a Sankey diagram)."""
    sites = sorted({site for site, _ in joined}, key=lambda one: (one == _OTHERS, one))
    destinations = sorted({destination for _, destination in joined}, key=lambda one: (one == _OTHERS, one))
    scale = _ROOM / most
    height = _TOP + _ROOM + _PITCH * max(len(sites), len(destinations))
    left = _places(sites, lambda one: sum(pair[side] for key, pair in joined.items() if key[0] == one), scale)
    right = _places(destinations, lambda one: sum(pair[side] for key, pair in joined.items() if key[1] == one), scale)
    bands, drawn = (
        [],
        {**{("l", one): at for one, (at, _) in left.items()}, **{("r", one): at for one, (at, _) in right.items()}},
    )
    for site in sites:
        for destination in destinations:
            pair = joined.get((site, destination), (0, 0))
            if pair[side]:
                wide = pair[side] * scale
                bands.append(_band(drawn["l", site], drawn["r", destination], wide, (site, destination), pair, side))
                drawn["l", site] += wide
                drawn["r", destination] += wide
    bars = "".join(_bar(one, at, tall, at_left=True) for one, (at, tall) in left.items())
    bars += "".join(_bar(one, at, tall, at_left=False) for one, (at, tall) in right.items())
    return f"<svg viewBox='0 0 {_WIDTH} {height}' role=img>{''.join(bands)}{bars}</svg>"


def _places(names: Iterable[str], weight: Any, scale: float) -> dict[str, tuple[float, float]]:
    at, found = float(_TOP), {}
    for name in names:
        tall = weight(name) * scale
        found[name] = (at, tall)
        at += max(tall, _PITCH - _GAP) + _GAP
    return found


def _bar(name: str, at: float, tall: float, *, at_left: bool) -> str:
    x = _LEFT if at_left else _WIDTH - _RIGHT - _BAR
    text_x, anchor = (x - 6, "end") if at_left else (x + _BAR + 6, "start")
    shown = name if len(name) <= 18 else f"{name[:17]}…"  # noqa: PLR2004  # as wide as the margin
    return (
        f"<rect x='{x}' y='{at:.1f}' width='{_BAR}' height='{max(tall, 1):.1f}' fill='#34495e'/>"
        f"<text x='{text_x}' y='{at + max(tall, 1) / 2 + 4:.1f}' text-anchor='{anchor}'>{escape(shown)}</text>"
    )


def _band(left: float, right: float, wide: float, names: tuple[str, str], pair: Sequence[int], side: int) -> str:
    begin, end = _LEFT + _BAR, _WIDTH - _RIGHT - _BAR
    middle = (begin + end) / 2
    one, two = left + wide / 2, right + wide / 2
    difference = pair[1] - pair[0]
    colour = _COLOURS["same" if difference == 0 else "more" if difference > 0 else "less"]
    title = f"{names[0]} to {names[1]}: {pair[0]:,} before, {pair[1]:,} after"
    strong = 0.75 if difference and side else 0.45
    return (
        f"<path d='M{begin},{one:.1f} C{middle:.0f},{one:.1f} {middle:.0f},{two:.1f} {end},{two:.1f}' fill='none' "
        f"stroke='{colour}' stroke-width='{max(wide, 0.6):.2f}' stroke-opacity='{strong}'>"
        f"<title>{escape(title)}</title></path>"
    )


def _destinations(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("destination", "studies before", "after", "", "bytes before", "after", "busiest hour before", "after")
    lines = [
        (
            row["destination"],
            f"{row['studies_before']:,}",
            f"{row['studies_after']:,}",
            _signed(row["studies_after"] - row["studies_before"]),
            *(in_bytes(row[name]) for name in ("bytes_before", "bytes_after")),
            *(in_bytes(row[f"busiest_hour_bytes_{side}"]) for side in ("before", "after")),
        )
        for row in rows
    ]
    return f"<h2>Destinations</h2>{_table(head, lines)}"


def _changes(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("studies", "destination", "change", "before", "after")
    lines = [
        (f"{row['studies']:,}", row["destination"], row["change"], row["before"], row["after"]) for row in rows[:_ROWS]
    ]
    return f"<h2>What changes</h2>{_table(head, lines, numbers=1)}" if lines else ""


def _conflicts(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("studies", "destination", "rules", "differ in")
    lines = [
        (f"{row['studies']:,}", row["destination"], " and ".join(row["rules"]), row["about"]) for row in rows[:_ROWS]
    ]
    return f"<h2>Rules that want it differently</h2>{_table(head, lines, numbers=1)}" if lines else ""


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], numbers: int | None = None) -> str:
    def kind(column: int) -> str:
        is_number = column > 0 if numbers is None else column < numbers
        return " class=n" if is_number else ""

    top = "".join(f"<th{kind(column)}>{escape(text)}</th>" for column, text in enumerate(head))
    rows = "".join(
        f"<tr>{''.join(f'<td{kind(column)}>{_coloured(text)}</td>' for column, text in enumerate(line))}</tr>"
        for line in lines
    )
    return f"<table><tr>{top}</tr>{rows}</table>"


def _coloured(text: str) -> str:
    sign = {"+": "more", "\N{MINUS SIGN}": "less"}.get(text[:1])
    return escape(text) if sign is None else f"<span class={sign}>{escape(text)}</span>"


def _signed(number: int) -> str:
    return "" if number == 0 else f"+{number:,}" if number > 0 else f"\N{MINUS SIGN}{-number:,}"


def in_bytes(size: float) -> str:
    """Show a size in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004  # decimal units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
