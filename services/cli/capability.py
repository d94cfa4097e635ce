"""What a destination can do, as its test found: a table for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape

from services.cli.delivery import instances
from services.cli.output import in_bytes, out, print_table

#: SOP classes that are named of each group.
_NAMED = 3


def print_test(name: str, found: Mapping[str, Any], at: str | None, *, store: bool, everything: bool) -> None:
    """Print the answer to a test.

    Parameters
    ----------
    name, at
        The destination, and where it is.
    found
        The answer.
    store, everything
        Whether a test object was to be stored, and every SOP class is to be shown.
    """
    echo = found["round_trip"]
    software = (found["implementation_version"], found["implementation_class_uid"])
    rows = [
        ("at", at),
        ("connection", None if found["connected_in"] is None else f"stood after {_short(found['connected_in'])}"),
        ("C-ECHO", None if echo is None else f"success, round trip {_short(echo)}"),
        ("software", ", ".join(filter(None, software))),
        ("grants", None if found["connected_in"] is None else _granted(found)),
        *_offers(found["services"]),
        *(
            (name, f"tried, does not work: {escape(problem)}" if problem else "tried, works")
            for name, problem in found["tried"].items()
        ),
        ("test object", None if found["problem"] and not found["stored"] else _stored(found, store=store)),
    ]
    print_table(f"Test of {escape(name)}", ("", ""), [row for row in rows if row[1]], empty="")
    _print_contexts(found["contexts"], everything=everything)
    stuck = [each for each in found["contexts"] if each["needed"] and not each["goes"]]
    for each in stuck:
        out.print(
            f"[bold red]{instances(each['needed'])} can't go[/]: {each['sop_class']} in {each['transfer_syntax']} is "
            f"not taken ({each['refusal']})."
        )
    if found["problem"]:
        out.print(f"[bold red]It went no further:[/] {escape(found['problem'])}.")


def _granted(found: Mapping[str, Any]) -> str:
    longest = f"PDUs of {found['max_pdu']} bytes" if found["max_pdu"] else "PDUs of any length"
    window = found["window"]
    if window == 1:
        return f"{longest}, one operation at a time"
    return f"{longest}, {f'{window} operations' if window else 'any number of operations'} at a time"


def _offers(services: Mapping[str, bool]) -> Iterable[tuple[str, str]]:
    if not services:
        return
    yield "offers", ", ".join(name for name, offered in services.items() if offered) or "nothing besides"
    yield "does not offer", ", ".join(name for name, offered in services.items() if not offered)


def _stored(found: Mapping[str, Any], *, store: bool) -> str:
    stored = found["stored"]
    if stored is None:
        return "was not stored" if store else "none was stored: --store does, and measures"
    if not stored["ok"]:
        return f"refused with status {stored['status']}: {stored['reason']}"
    said = f" {stored['reason']}" if stored["reason"] else ""
    return (
        f"stored, {in_bytes(stored['bytes'])} {stored['transfer_syntax']} in {_short(stored['seconds'])}: "
        f"{in_bytes(stored['bytes_per_second'])}/s. Patient KIVUKO-TEST, study {stored['study_instance_uid']}.{said}"
    )


def _print_contexts(contexts: Sequence[Mapping[str, Any]], *, everything: bool) -> None:
    if not contexts:
        return
    syntaxes = list(dict.fromkeys(each["transfer_syntax"] for each in contexts))
    taken: dict[str, list[str]] = {}
    for each in contexts:
        mine = taken.setdefault(each["sop_class"], [])
        if each["accepted"]:
            mine.append(each["transfer_syntax"])
    if everything:
        rows = [(name, *("yes" if syntax in mine else "-" for syntax in syntaxes)) for name, mine in taken.items()]
        print_table("What it takes", ("SOP class", *syntaxes), rows, empty="")
        return
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, mine in taken.items():
        groups.setdefault(tuple(syntax for syntax in syntaxes if syntax in mine), []).append(name)
    print_table(
        "What it takes",
        ("SOP classes", "in", "such as"),
        [
            (len(names), _in(mine, syntaxes), "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else ""))
            for mine, names in sorted(groups.items(), key=lambda group: -len(group[1]))
        ],
        empty="",
    )
    out.print("`--all` shows every SOP class.")


def _in(mine: Sequence[str], syntaxes: Sequence[str]) -> str:
    if not mine:
        return "nothing: it does not take them"
    missing = [syntax for syntax in syntaxes if syntax not in mine]
    if not missing:
        return "all that was asked for"
    return f"all but {', '.join(missing)}" if len(missing) < len(mine) else ", ".join(mine)


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
