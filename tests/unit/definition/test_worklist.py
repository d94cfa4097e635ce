"""What is wrong with what a node is to see of the worklist is said at apply, with its place."""

import pytest

from contracts.definition import Definition
from libs.definition.reading import read
from libs.definition.validation import check
from services.worklist.view import view_of

pytestmark = pytest.mark.unit

HEAD = """kivuko: 1
name: n
sites: {s: {name: S}, t: {name: T}, u: {name: U, tenant: other}}
nodes:
  CT1: {site: s, host: 10.0.0.1, may: %s, worklist: %s}
"""


def checked(worklist: str, may: str = "[worklist]") -> Definition | list[str]:
    found = check(read(HEAD % (may, worklist)))
    return found if isinstance(found, Definition) else [f"{each.path}: {each.message}" for each in found]


@pytest.mark.parametrize(
    "worklist",
    [
        "{}",
        "{charset: ISO_IR 144, sites: [s, t], stations: own, modalities: CT, limit: 50, names: fold}",
        "{charset: [ISO 2022 IR 6, ISO 2022 IR 87], sites: all}",
        "{charset: ASCII}",
    ],
)
def test_what_is_right(worklist: str) -> None:
    assert isinstance(checked(worklist), Definition)


@pytest.mark.parametrize(
    ("worklist", "may", "path", "words"),
    [
        ("{charset: LATIN1}", "[worklist]", "nodes.CT1.worklist.charset", "'LATIN1' is no character set"),
        ("{charset: [ISO_IR 100, ISO_IR 144]}", "[worklist]", "nodes.CT1.worklist.charset", "do not go together"),
        ("{charset: []}", "[worklist]", "nodes.CT1.worklist.charset", "is missing"),
        ("{sites: [s, x]}", "[worklist]", "nodes.CT1.worklist.sites[1]", "no site is called x"),
        ("{sites: u}", "[worklist]", "nodes.CT1.worklist.sites", "belongs to another tenant"),
        ("{limit: 0}", "[worklist]", "nodes.CT1.worklist.limit", ""),
        ("{limit: 5}", "[store]", "nodes.CT1.worklist", "may not ask for it"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(worklist: str, may: str, path: str, words: str) -> None:
    found = checked(worklist, may)
    assert not isinstance(found, Definition)
    (problem,) = found
    assert problem.startswith(f"{path}: ")
    assert words in problem


def test_a_node_sees_its_own_site_unless_the_definition_says_more() -> None:
    plain, wide = checked("{}"), checked("{sites: all}")
    assert isinstance(plain, Definition)
    assert isinstance(wide, Definition)
    views = [view_of(each, "CT1") for each in (plain, wide)]
    assert [None if each is None else each.sites for each in views] == [frozenset({"s"}), frozenset({"s", "t"})]
    assert view_of(plain, "CT2") is None


FORWARD = """kivuko: 1
name: n
sites: {s: {name: S}}
nodes:
  CT1: {site: s, host: 10.0.0.1, may: [mpps]}
  RIS: {site: s, host: 10.0.0.2, port: 104}
  OLD: {site: s, host: 10.0.0.3, port: 104, retired: true}
mpps: {forward: %s}
"""


@pytest.mark.parametrize("forward", ["[]", "RIS", "[RIS]"])
def test_steps_go_to_nodes_that_can_be_called(forward: str) -> None:
    assert isinstance(check(read(FORWARD % forward)), Definition)


@pytest.mark.parametrize(
    ("forward", "path", "words", "hint"),
    [
        ("[RIS, RIZ]", "mpps.forward[1]", "no node is called RIZ", "RIS"),
        ("CT1", "mpps.forward", "the node CT1 has no port", "add host and port to nodes.CT1"),
        ("[OLD]", "mpps.forward[0]", "the node OLD is retired", "name another node, or leave it out"),
    ],
)
def test_steps_that_can_go_nowhere_are_said_at_apply(forward: str, path: str, words: str, hint: str) -> None:
    found = check(read(FORWARD % forward))
    assert not isinstance(found, Definition)
    (problem,) = found
    assert problem.path.startswith(path)
    assert words in problem.message
    assert hint in (problem.hint or "")
