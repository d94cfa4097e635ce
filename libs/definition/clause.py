"""The clauses of a condition: its text taken apart at `&&`, `||`, `!` and `? :`, each with its place.

CEL's grammar (language definition, section "Syntax") binds `!` most, then comparisons, `&&`, `||`, and `? :` least.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

Kind = Literal["all", "any", "not", "choice", "leaf"]
_TOKEN: Final = re.compile(
    r"""
      (?P<blank>\s+|//[^\n]*)
    | (?P<raw>(?:[rR][bB]?|[bB][rR])(?:\"\"\".*?\"\"\"|'''.*?'''|"[^"\n]*"|'[^'\n]*'))
    | (?P<text>[bB]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''))
    | (?P<quoted>[bB]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    | (?P<word>[A-Za-z_]\w*)
    | (?P<operator>&&|\|\||[=!<>]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"
_COMPARISONS: Final = frozenset({"==", "!=", "<=", ">=", "<", ">", "in"})


@dataclass(frozen=True)
class Token:
    """A word, text, number or sign: where it starts and ends, and how many brackets are open around it."""

    text: str
    start: int
    end: int
    depth: int


@dataclass(frozen=True)
class Clause:
    """A part of a condition that is true or false by itself.

    Attributes
    ----------
    kind
        `all` for `&&`, `any` for `||`, `not`, `choice` for `A ? B : C`, `leaf` for what is not taken apart.
    start, end
        Where it stands in the condition's text.
    parts
        What it is made of.
    """

    kind: Kind
    start: int
    end: int
    parts: tuple["Clause", ...] = ()

    def leaves(self) -> Iterator["Clause"]:
        """Give the clauses that are not taken apart, in the order of the text."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


def clauses(text: str) -> Clause:
    """Take a condition apart that the checker has accepted."""
    return _clause(tokens(text))


def operands(text: str) -> tuple[str, ...]:
    """Give the two sides of a comparison, `==`, `<`, `in` and so on; nothing if it isn't one."""
    found = tokens(text)
    at = [position for position, one in enumerate(found) if one.depth == 0 and one.text in _COMPARISONS]
    if len(at) != 1 or at[0] in (0, len(found) - 1):
        return ()
    left, right = found[: at[0]], found[at[0] + 1 :]
    return tuple(text[side[0].start : side[-1].end] for side in (left, right))


def tokens(text: str) -> list[Token]:
    """Give the tokens of a text, white space and comments left out."""
    found, depth = [], 0
    for one in _TOKEN.finditer(text):
        if one.lastgroup == "blank":
            continue
        said = one[0]
        depth -= len(said) == 1 and said in _CLOSING
        found.append(Token(said, one.start(), one.end(), depth))
        depth += len(said) == 1 and said in _OPENING
    return found


def _clause(given: list[Token]) -> Clause:
    start, end = given[0].start, given[-1].end
    outermost = min(one.depth for one in given)
    question = next((at for at, one in enumerate(given) if one.depth == outermost and one.text == "?"), None)
    if question is not None:
        colon = _colon(given, question, outermost)
        sides = (given[:question], given[question + 1 : colon], given[colon + 1 :])
        return Clause("choice", start, end, tuple(map(_clause, sides)))
    for sign, kind in (("||", "any"), ("&&", "all")):
        sides_of = _split(given, sign, outermost)
        if len(sides_of) > 1:
            return Clause("any" if kind == "any" else "all", start, end, tuple(map(_clause, sides_of)))
    if given[0].text == "!" and not _compares(given, outermost):
        # Any number of them may stand there: two are none.
        signs = next(at for at, one in enumerate(given) if one.text != "!")
        negated = _clause(given[signs:])
        return Clause("not", start, end, (negated,)) if signs % 2 else replace(negated, start=start, end=end)
    if given[0].text == "(" and _closes(given, outermost) == len(given) - 1:
        return _clause(given[1:-1])
    return Clause("leaf", start, end)


def _compares(given: list[Token], outermost: int) -> bool:
    return any(one.depth == outermost and one.text in _COMPARISONS for one in given)


def _closes(given: list[Token], outermost: int) -> int:
    return next(at for at, one in enumerate(given) if at and one.depth == outermost and one.text in _CLOSING)


def _colon(given: list[Token], question: int, outermost: int) -> int:
    open_ones = 0
    for at in range(question + 1, len(given)):
        if given[at].depth == outermost and given[at].text == "?":
            open_ones += 1
        elif given[at].depth == outermost and given[at].text == ":":
            if open_ones == 0:
                return at
            open_ones -= 1
    raise LookupError("a choice has no second half")


def _split(given: list[Token], sign: str, outermost: int) -> list[list[Token]]:
    sides: list[list[Token]] = [[]]
    for one in given:
        if one.depth == outermost and one.text == sign:
            sides.append([])
        else:
            sides[-1].append(one)
    return sides
