"""Reading: plain data by the core schema, the place of every part, and one clear problem for what is not YAML."""

import io
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import (
    DoubleQuotedScalarString,
    FoldedScalarString,
    LiteralScalarString,
    SingleQuotedScalarString,
)

from libs.definition.document import DefinitionError, dotted
from libs.definition.reading import MAX_CHARACTERS, read

pytestmark = pytest.mark.unit


def only_problem(text: str) -> tuple[int, int, str, str]:
    with pytest.raises(DefinitionError) as caught:
        read(text, "net.yaml")
    (problem,) = caught.value.problems
    assert problem.file == "net.yaml"
    return problem.line, problem.column, problem.path, f"{problem.message}; {problem.hint}"


@pytest.mark.parametrize(
    ("text", "line", "column", "path", "words"),
    [
        pytest.param("a: 1\nb:\n\tc: 2\n", 3, 1, "", "a tab stands where", id="tab"),
        pytest.param(
            "a: 1\nb: 2\na: 3\n", 3, 1, "", "the key a is here a second time; the first is in line 1", id="repeated key"
        ),
        pytest.param(
            "n:\n  x: {p: 1,\n    p: 2}\n",
            3,
            5,
            "n.x",
            "the key p is here a second time; the first is in line 2",
            id="repeated key deeper",
        ),
        pytest.param("a: &x 1\n", 1, 4, "a", "anchors (&x)", id="anchor"),
        pytest.param("a: 1\nb: *x\n", 2, 4, "b", "aliases (*x)", id="alias"),
        pytest.param("a: !!str 1\n", 1, 4, "a", "tags", id="tag"),
        pytest.param("<<: {a: 1}\nb: @c\n", 2, 4, "", "a value cannot start with @", id="reserved character"),
        pytest.param("a: b: c\n", 1, 5, "", "a colon stands where no key can be", id="colon in value"),
        pytest.param("a: 'b\n", 2, 1, "", "a quoted text never ends", id="open quote"),
        pytest.param("a: [1, 2: 3: 4]\n", 1, 12, "", "a comma or the closing bracket is missing", id="comma"),
        pytest.param("a: [1, 2\n", 2, 1, "", "ends in the middle", id="open bracket"),
        pytest.param('a: "\\q"\n', 1, 6, "", "unknown escape", id="escape"),
        pytest.param("- a\nb: c\n", 2, 1, "", "does not belong to the list", id="list then mapping"),
        pytest.param("a: 1\n---\nb: 2\n", 3, 1, "", "a second document", id="two documents"),
        pytest.param("", 1, 1, "", "a network definition is a mapping", id="empty"),
        pytest.param("- a\n", 1, 1, "", "a network definition is a mapping", id="list at the top"),
        pytest.param("a: 1\nb: \x01\n", 2, 4, "", "character U+0001 is not allowed", id="control character"),
        pytest.param("a: 1\n? [x]\n: 2\n", 2, 3, "", "a key has to be a word", id="list as key"),
        pytest.param("a: .inf\n", 1, 4, "a", "not a number that can be used", id="infinity"),
        pytest.param("a: 1e999\n", 1, 4, "a", "not a number that can be used", id="too great"),
        pytest.param("a: " + "9" * 5000 + "\n", 1, 4, "a", "more than 18 digits", id="too many digits"),
        pytest.param("a: 0123\n", 1, 4, "a", "a number that starts with a zero; put it in quotes", id="lost zeros"),
        pytest.param("a: " + "[" * 100 + "]" * 100, 1, 27, "a" + "[0]" * 23, "more than 24 levels", id="too deep"),
        pytest.param("#" * (MAX_CHARACTERS + 1), 1, 1, "", "longer than 2,000,000 characters", id="too long"),
        pytest.param("%YAML 3.0\n---\na: 1\n", 1, 1, "", "version of YAML", id="version"),
    ],
)
def test_refuses_with_the_place_and_the_reason(text: str, line: int, column: int, path: str, words: str) -> None:
    got_line, got_column, got_path, said = only_problem(text)
    assert (got_line, got_column, got_path) == (line, column, path)
    assert words in said


def test_an_alias_bomb_costs_nothing() -> None:
    bomb = "a: &a [x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20)
    )
    assert only_problem(bomb)[:3] == (1, 4, "a")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("12", 12),
        ("-7", -7),
        ("0", 0),
        ("0o10", 8),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-11-20", "2026-11-20"),
        ("08:00-16:00", "08:00-16:00"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("2Mbit/s", "2Mbit/s"),
        ("10.1.0.21", "10.1.0.21"),
    ],
)
def test_plain_scalars_follow_the_core_schema(written: str, value: object) -> None:
    data = read(f"a: {written}\n").data["a"]
    assert data == value
    assert type(data) is type(value)


def test_keys_are_texts_as_written() -> None:
    assert read("12: a\ntrue: b\n").data == {"12": "a", "true": "b"}


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read("\N{BYTE ORDER MARK}a: 1\n").value_at(("a",)) == (1, 4)


def test_places_of_keys_values_and_what_is_not_there() -> None:
    document = read("a: 1\nnodes:\n  CT1: {site: x,\n    port: 104}\nl:\n  - q\n  - {w: e}\n")
    assert document.key_at(("nodes", "CT1")) == (3, 3)
    assert document.value_at(("nodes", "CT1")) == (3, 8)
    assert document.value_at(("nodes", "CT1", "port")) == (4, 11)
    assert document.value_at(("nodes", "CT1", "host")) == (3, 8)
    assert document.value_at(("l", 1, "w")) == (7, 9)
    assert document.key_at(("l", 1)) == (7, 5)
    assert dotted(("nodes", "CT1", "from", 0)) == "nodes.CT1.from[0]"


@pytest.mark.parametrize(
    ("text", "line", "column", "place"),
    [
        pytest.param("when: abc && xyz\n", 1, 8, (1, 14), id="plain"),
        pytest.param("when: abc &&\n  xyz\n", 1, 8, (2, 3), id="plain on two lines"),
        pytest.param("when: 'it''s xyz'\n", 1, 6, (1, 14), id="single quotes"),
        pytest.param("when: ''''''\n", 1, 2, (1, 10), id="only quotes"),
        pytest.param('when: "a\\"b\\tc xyz"\n', 1, 7, (1, 16), id="double quotes"),
        pytest.param('when: "\\u0020a\\\n   xyz"\n', 1, 3, (2, 4), id="escaped line break"),
        pytest.param("when: |\n  abc &&\n\n    xyz\n", 3, 3, (4, 5), id="literal block"),
        pytest.param("when: >-  # why\n  abc &&\n  xyz\n", 1, 8, (3, 3), id="folded block"),
        pytest.param("when: |2+\n  abc\n  xyz\n\n# end\n", 2, 4, (3, 6), id="end of a block"),
    ],
)
def test_places_inside_a_text(text: str, line: int, column: int, place: tuple[int, int]) -> None:
    assert read(text).inside(("when",), line, column) == place


def written(value: object) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 40
    yaml.dump(value, stream)
    return stream.getvalue()


STYLES: list[Any] = [str, SingleQuotedScalarString, DoubleQuotedScalarString, LiteralScalarString, FoldedScalarString]
WORDS = st.lists(st.text("abz\"'\\&|<>=.()é", min_size=1, max_size=9), min_size=1, max_size=15).map(" ".join)


@settings(deadline=None)
@given(text=WORDS, style=st.sampled_from(STYLES), seed=st.integers(0, 10))
@example(text="a 'b' \"c\" \\d", style=DoubleQuotedScalarString, seed=0)
def test_whatever_the_style_a_place_inside_is_that_character(text: str, style: Any, seed: int) -> None:
    source = written({"rules": [{"when": style(text)}]})
    document = read(source)
    value = document.data["rules"][0]["when"]
    visible = [index for index, character in enumerate(value) if not character.isspace()]
    index = random.Random(seed).choice(visible)
    line = value.count("\n", 0, index) + 1
    column = index - value.rfind("\n", 0, index)
    found_line, found_column = document.inside(("rules", 0, "when"), line, column)
    there = source.splitlines()[found_line - 1][found_column - 1 :]
    # A quote or backslash is escaped, so its place is that of the escape.
    assert there[0] == value[index] or (value[index] in '"\\é' and there[0] == "\\") or there.startswith("''")


@settings(deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**17), 10**17)
        | st.floats(allow_nan=False, allow_infinity=False)
        # In brackets the writer leaves `:0` without quotes, and the same library's parser does not take it.
        | st.text(st.characters(exclude_categories=["Cc", "Cs", "Co", "Cn", "Zl", "Zp"]), max_size=20).filter(
            lambda text: not text.startswith(":")
        ),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("abcXYZ-_ 1", min_size=1), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_what_another_writer_wrote_is_read_as_it_was(value: Any) -> None:
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.width = 10_000  # it breaks lines inside keys, which YAML does not allow
    writer.dump({"top": value}, stream)
    document = read(stream.getvalue())
    assert document.data == {"top": value}
    assert document.value_at(("top",))[0] >= 1


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_brings_it_down(text: str) -> None:
    with suppress(DefinitionError):
        assert isinstance(read(text).data, dict)
