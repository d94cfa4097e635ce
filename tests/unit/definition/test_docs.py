"""Every example of rules in the guides is one that applies: people copy them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.definition import Definition
from contracts.routing import Trigger
from libs.definition.condition import compile_condition
from libs.definition.reading import read
from libs.definition.validation import check

DOCS = Path(__file__).parents[3] / "docs"
GUIDES = ("rules", "conditions", "rule-actions", "trying-rules", "transforms")
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
#: What the guides' examples name.
NETWORK = """\
kivuko: 1
name: Network
sites: {malabo: {name: Malabo}, bata: {name: Bata}}
calendars: {office: {hours: "08:00-16:00"}}
nodes: {PACS: {site: malabo, host: 10.0.0.1, port: 104}, CT1: {site: malabo, host: 10.0.0.2, may: [store]}}
destinations:
  archive: {node: PACS}
  pacs: {node: PACS}
  second-archive: {s3: "s3://studies/second"}
  readers: {stow: "https://readers.example/dicom-web"}
  research: {folder: /srv/research}
"""


def blocks(guide: str) -> Iterator[str]:
    for found in _BLOCK.finditer((DOCS / f"{guide}.md").read_text()):
        yield found[1]


def examples(key: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{guide}-{number}")
        for guide in GUIDES
        for number, block in enumerate(blocks(guide), start=1)
        if block.startswith(f"{key}:")
    ]


def conditions() -> list[Any]:
    """Give what stands between backquotes and names something that only a condition has."""
    found = dict.fromkeys(
        code
        for code in _CODE.findall((DOCS / "conditions.md").read_text())
        if re.search(r"\b(study|instance|order|source|clock|calendars|destination|now)[.\[].*[(=<>]|\bin study\.", code)
        or re.fullmatch(r"(calendars|destination)\[.*", code)
    )
    return [pytest.param(code, id=code) for code in found]


@pytest.mark.parametrize("block", examples("rules"))
def test_rules_of_the_guides_apply(block: str) -> None:
    found = check(read(NETWORK + block))
    assert isinstance(found, Definition), "\n".join(map(str, found))
    # As services hand it on, and keep it: with all keys.
    assert Definition.model_validate_json(found.model_dump_json(by_alias=True)) == found


@pytest.mark.parametrize("block", examples("tests"))
def test_tests_of_the_guides_hold_of_the_rules_before_them(block: str) -> None:
    first = next(blocks("rules"))
    found = check(read(NETWORK + first + block))
    assert isinstance(found, Definition), "\n".join(map(str, found))


@pytest.mark.parametrize("block", examples("when"))
def test_structured_conditions_of_the_guides_are_conditions(block: str) -> None:
    for one in re.split(r"(?m)^(?=when:)", block):
        if one:
            compile_condition(
                read(one).data["when"], trigger="study", calendars=("office",), destinations=("pacs", "archive")
            )


@pytest.mark.parametrize("code", conditions())
def test_conditions_of_the_guides_are_conditions(code: str) -> None:
    trigger: Trigger = "instance" if "instance." in code else "study"
    compile_condition(code, trigger=trigger, calendars=("office",), destinations=("pacs",))


def test_what_only_a_study_has_can_be_tested() -> None:
    text = (
        "rules: [{name: r, trigger: study, deliver: archive, when: {tag: {project: tb}, Sites: bata}}]\n"
        "tests: [{study: {Tags.project: tb, Sites: [bata]}, delivers: [archive]}]\n"
    )
    assert isinstance(check(read(NETWORK + text)), Definition)


def test_there_are_such_examples() -> None:
    assert len(examples("rules")) >= 2
    assert len(examples("when")) >= 2
    assert len(conditions()) >= 12
