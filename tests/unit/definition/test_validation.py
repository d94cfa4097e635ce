"""Every kind of problem with its exact place and reason, and all of them at once."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.definition import Definition
from libs.definition.document import DefinitionError, Problem
from libs.definition.reading import read
from libs.definition.validation import check

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

#: A definition with one of everything; each case below replaces one line of it. The line numbers are those of the file.
GOOD = """\
kivuko: 1
name: Net
timezone: Africa/Malabo
aets: [KIVUKO, NIGHT]
sites:
  here: {name: Here}
  there: {name: There, link: {bandwidth: 2Mbit/s, budget: 1GB/day}}
calendars:
  office: {days: Mon-Fri, hours: "08:00-16:00", holidays: GQ}
nodes:
  CT1: {site: here, host: 10.0.0.1, may: [store]}
  CT2: {site: there, aet: CT1, from: 10.1.0.0/24, may: [store]}
  PACS: {site: here, host: pacs.example, port: 104}
  OLD: {site: here, host: 10.0.0.9, port: 104, retired: true}
  RIS: {site: here, host: 10.0.0.7, hl7: {mapping: ris}}
destinations:
  pacs: {node: PACS, failover: hub, transform: ids}
  hub: {stow: "https://hub.example/dicom-web"}
  all: {group: [pacs, hub]}
transforms:
  ids: {set: {PatientID: X}, prefix: {AccessionNumber: A}, remove: [PatientName]}
rules:
  - {name: one, trigger: instance, deliver: pacs}
  - name: two
    trigger: study
    when: study.Modality == "CT"
    deliver: [all]
    notify: partner
  - name: three
    trigger: study
    when: {all: [{Modality: CT}, {not: {calendar: office}}]}
    transform: ids
    deliver: hub
tests:
  - {study: {Modality: CT}, source: {site: here}, at: "2026-11-20T10:00", delivers: [pacs, all]}
hl7-mappings:
  ris: {extends: default, set: {Modality: {from: OBR-24}}}
partners:
  partner: {tenant: partner, events: [study.available], sites: [here]}
retention:
  - {keep: 5y}
service-levels:
  - {name: level, contract: c, objective: routing-response, target: {percent: 95, under: 2s}}
"""


def problems(text: str) -> list[Problem]:
    found = check(read(text, "net.yaml"))
    assert isinstance(found, list), "the definition was taken"
    return found


def test_the_good_one_is_good() -> None:
    assert isinstance(check(read(GOOD)), Definition)


def test_both_examples_apply_as_they_stand() -> None:
    for name in ("clinic.yaml", "national.yaml"):
        assert isinstance(check(read((EXAMPLES / name).read_text(), name)), Definition)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "path", "words"),
    [
        # What the model refuses.
        ("kivuko: 1", "kivuko: 2", 1, 9, "kivuko", "'2' is not 1"),
        ("name: Net", "nam: Net", 2, 1, "nam", "the key nam is not known (did you mean name?)"),
        ("name: Net", "nam: Net", 1, 1, "", "name is missing"),
        ("name: Net", "name: 5", 2, 7, "name", "a text is needed here (put the value in quotes)"),
        ("name: Net", "name:", 2, 1, "name", "nothing is written here"),
        ("[KIVUKO, NIGHT]", "[KIVUKO, 'NIG\\HT']", 4, 16, "aets[1]", "no backslash"),
        ("[KIVUKO, NIGHT]", "[]", 4, 7, "aets", "at least one is needed"),
        ("there: {name: There", "the re: {name: There", 7, 3, "sites.the re", "'the re' cannot be a key here"),
        ("{name: Here}", "{name: Here, tenant: a b}", 6, 30, "sites.here.tenant", "'a b' is not right here"),
        ("2Mbit/s", "2Mb", 7, 42, "sites.there.link.bandwidth", "'2Mb' is not a rate"),
        ("1GB/day", "1GB", 7, 59, "sites.there.link.budget", "write a size a day"),
        ('"08:00-16:00"', '"8-16"', 9, 34, "calendars.office.hours", '(write a time span such as "08:00-16:00")'),
        ('"08:00-16:00"', '"08:00-08:00"', 9, 34, "calendars.office.hours", "starts and ends at the same time"),
        ('"08:00-16:00"', '"08:00-24:30"', 9, 34, "calendars.office.hours", "is not right here"),
        ("days: Mon-Fri", "days: Mon-Frd", 9, 18, "calendars.office.days", "`Mon-Frd` is not a day"),
        ("holidays: GQ", "holidays: XX", 9, 59, "calendars.office.holidays", "the public holidays of XX are not known"),
        ("port: 104}", "port: 70000}", 13, 48, "nodes.PACS.port", "70000 is out of range: it has to be at most 65535"),
        ("port: 104}", "port: 0}", 13, 48, "nodes.PACS.port", "0 is out of range: it has to be at least 1"),
        ("port: 104}", "port: dicom}", 13, 48, "nodes.PACS.port", "a whole number is needed here"),
        ("10.0.0.1,", "10.0.0.300,", 11, 27, "nodes.CT1.host", "is neither an address nor a host name"),
        ("10.1.0.0/24", "10.1.0.7/24", 12, 38, "nodes.CT2.from", "write 10.1.0.0/24 for the network"),
        ("10.1.0.0/24", "everywhere", 12, 38, "nodes.CT2.from", "is not an address or network"),
        (
            "from: 10.1.0.0/24, may: [store]",
            "from: 10.1.0.0/24, may: [stor]",
            12,
            57,
            "nodes.CT2.may[0]",
            "did you mean store?",
        ),
        ("port: 104}", "port: 104, tls: 7}", 13, 58, "nodes.PACS.tls", "tls is true, false, or {client: NAME}"),
        ("port: 104}", "port: 104, tls: {clint: x}}", 13, 59, "nodes.PACS.tls.clint", "did you mean client?"),
        (
            "may: [store]}\n  CT2",
            "may: [store], certificate: sha256:AB}\n  CT2",
            11,
            64,
            "nodes.CT1.certificate",
            "64 hexadecimal digits",
        ),
        (
            "may: [store]}\n  CT2",
            "may: [store], limits: {rate: 0.5}}\n  CT2",
            11,
            66,
            "nodes.CT1.limits.rate",
            "give up after 30 s (allow fewer associations (limits: associations: 15), or a higher rate)",
        ),
        ("{node: PACS, ", "{node: PACS, s3: 's3://b/c', ", 17, 9, "destinations.pacs", "this one has node and s3"),
        ("{stow:", "{failover: pacs}\n  x: {stow:", 18, 8, "destinations.hub", "this one has none"),
        ("{node: PACS, ", "{node: PACS, budget: 5GB, ", 17, 30, "destinations.pacs.budget", "write a size a day"),
        ("{node: PACS, ", "{node: PACS, give-up: 7days, ", 17, 31, "destinations.pacs.give-up", "is not a duration"),
        ('stow: "https://hub.example/dicom-web"', "folder: srv", 18, 17, "destinations.hub.folder", "/srv/research"),
        ('stow: "https://hub.example/dicom-web"', "folder: /a/../b", 18, 17, "destinations.hub.folder", "absolute"),
        (
            'stow: "https://hub.example/dicom-web"',
            "folder: /srv, confirm: commit",
            18,
            8,
            "destinations.hub",
            "a folder has no confirm",
        ),
        ("https://hub", "hub", 18, 15, "destinations.hub.stow", "has to start with https:// or http://"),
        ("https://hub", "https://me:pw@hub", 18, 15, "destinations.hub.stow", "secrets are named in a definition"),
        (
            "group: [pacs, hub]",
            "group: [pacs, hub], transform: ids",
            19,
            8,
            "destinations.all",
            "a group has no transform of its own",
        ),
        (
            "group: [pacs, hub]",
            "group: [pacs, hub], budget: 1GB/day",
            19,
            8,
            "destinations.all",
            "a group has no budget of its own",
        ),
        (
            "{node: PACS,",
            "{node: PACS, pick: first-healthy,",
            17,
            9,
            "destinations.pacs",
            "pick belongs to a group only",
        ),
        (
            "trigger: study\n    when: study",
            "trigger: stdy\n    when: study",
            25,
            14,
            "rules[1].trigger",
            "did you mean study?",
        ),
        ('when: study.Modality == "CT"', "when: 5", 26, 11, "rules[1].when", "a condition is a CEL text, or a mapping"),
        ("keep: 5y", "keep: 5 years", 41, 12, "retention[0].keep", "is not a duration"),
        ("percent: 95, under: 2s", "percent: 95", 43, 5, "service-levels[0]", "needs a time"),
        ("percent: 95", "percent: 101", 43, 79, "service-levels[0].target.percent", "at most 100.0"),
        # Names that are not there.
        ("Africa/Malabo", "Africa/Malaba", 3, 11, "timezone", "is not a known time zone (did you mean Africa/Malabo?)"),
        ("CT1: {site: here", "CT1: {site: her", 11, 15, "nodes.CT1.site", "no site is called her (did you mean here?)"),
        (
            "mapping: ris",
            "mapping: rid",
            15,
            52,
            "nodes.RIS.hl7.mapping",
            "no mapping is called rid (did you mean ris?)",
        ),
        ("{node: PACS,", "{node: PAX,", 17, 16, "destinations.pacs.node", "no node is called PAX (did you mean PACS?)"),
        (
            "failover: hub",
            "failover: hab",
            17,
            32,
            "destinations.pacs.failover",
            "no destination is called hab (did you mean hub?)",
        ),
        (
            "hub, transform: ids",
            "hub, transform: idz",
            17,
            48,
            "destinations.pacs.transform",
            "no transform is called idz",
        ),
        (
            "[pacs, hub]",
            "[pacs, qqq]",
            19,
            23,
            "destinations.all.group[1]",
            "no destination is called qqq (declare it under `destinations`)",
        ),
        (
            "deliver: pacs}",
            "deliver: pax}",
            23,
            45,
            "rules[0].deliver",
            "no destination is called pax (did you mean pacs?)",
        ),
        (
            "deliver: [all]",
            "deliver: [pacs, al]",
            27,
            21,
            "rules[1].deliver[1]",
            "no destination is called al (did you mean all?)",
        ),
        ("notify: partner", "notify: parter", 28, 13, "rules[1].notify", "no partner is called parter"),
        (
            "    transform: ids",
            "    transform: id",
            32,
            16,
            "rules[2].transform",
            "no transform is called id (did you mean ids?)",
        ),
        (
            "delivers: [pacs, all]",
            "delivers: [pacs, ale]",
            35,
            92,
            "tests[0].delivers[1]",
            "no destination is called ale",
        ),
        ("source: {site: here}", "source: {site: hare}", 35, 44, "tests[0].source.site", "no site is called hare"),
        ("source: {site: here}", "source: {node: CT9}", 35, 44, "tests[0].source.node", "no node is called CT9"),
        ("sites: [here]", "sites: [hre]", 39, 65, "partners.partner.sites[0]", "no site is called hre"),
        ("extends: default", "extends: base", 37, 18, "hl7-mappings.ris.extends", "no mapping is called base"),
        # What can't work.
        ("{node: PACS,", "{node: OLD,", 17, 16, "destinations.pacs.node", "the node OLD is retired and is not called"),
        ("{node: PACS,", "{node: CT1,", 17, 16, "destinations.pacs.node", "the node CT1 has no port"),
        ("host: 10.0.0.1, may", "port: 104, may", 11, 27, "nodes.CT1.port", "a port without a host"),
        ("host: 10.0.0.1, may", "modality: CT, may", 11, 40, "nodes.CT1.may", "no address to recognise it by"),
        ("PACS: {site: here,", "PACS: {site: here, called: NIGT,", 13, 30, "nodes.PACS.called", "did you mean NIGHT?"),
        (
            "  OLD: {",
            "  OLD-PACS-OF-THE-HOSPITAL: {",
            14,
            3,
            "nodes.OLD-PACS-OF-THE-HOSPITAL",
            "the key is no AE title",
        ),
        ("10.1.0.0/24", "10.0.0.0/24", 12, 3, "nodes.CT2", "clashes with CT1 (line 11): same AE title CT1"),
        ("[pacs, hub]", "[pacs, all]", 19, 16, "destinations.all.group", "runs in a loop: all -> all"),
        (
            'dicom-web"}',
            'dicom-web", failover: pacs}',
            17,
            32,
            "destinations.pacs.failover",
            "runs in a loop: pacs -> hub -> pacs",
        ),
        ("extends: default", "extends: ris", 37, 18, "hl7-mappings.ris.extends", "runs in a loop: ris -> ris"),
        (
            "{PatientID: X}",
            "{PatientId: X}",
            21,
            15,
            "transforms.ids.set.PatientId",
            "is not a DICOM keyword (did you mean PatientID?)",
        ),
        (
            "{AccessionNumber: A}",
            "{AccesionNumber: A}",
            21,
            39,
            "transforms.ids.prefix.AccesionNumber",
            "did you mean AccessionNumber?",
        ),
        ("remove: [PatientName]", "remove: [Name]", 21, 69, "transforms.ids.remove[0]", "Name is not a DICOM keyword"),
        ("{Modality: {from", "{Modalty: {from", 37, 33, "hl7-mappings.ris.set.Modalty", "did you mean Modality?"),
        ("- name: two", "- name: one", 24, 11, "rules[1].name", "a rule called one is in line 23 already"),
        # Conditions.
        ("study.Modality ==", "study.Modalty ==", 26, 17, "rules[1].when", "did you mean `Modality`?"),
        ('study.Modality == "CT"', "study.Modality == 5", 26, 26, "rules[1].when", ""),
        (
            'when: study.Modality == "CT"',
            'when: >\n      true &&\n      study.Modalty == "CT"',
            28,
            13,
            "rules[1].when",
            "Modalty",
        ),
        ("calendar: office", "calendar: ofice", 31, 51, "rules[2].when.all[1].not.calendar", "did you mean `office`?"),
        (
            "{Modality: CT}, {not",
            "{Modalty: CT}, {not",
            31,
            19,
            "rules[2].when.all[0].Modalty",
            "did you mean `Modality`?",
        ),
        # Tests.
        (
            "delivers: [pacs, all]",
            "delivers: [hub, all]",
            35,
            85,
            "tests[0].delivers",
            "the test expects [all, hub], but the rules give [all, pacs]; rules that match: one, two (mend the rule",
        ),
        (
            "source: {site: here}",
            "source: {sit: here}",
            35,
            5,
            "tests[0]",
            "cannot be carried out: `source` has no `sit`",
        ),
        ("2026-11-20T10:00", "0001-01-01T10:00", 35, 5, "tests[0]", "`at` is in the year 1"),
        # What no clock can tell would stop every decision.
        ("deliver: hub", "hold: 999999d", 33, 11, "rules[2].hold", "at most 1y"),
        ("deliver: hub", "hold: 0s", 33, 11, "rules[2].hold", "more than 0 s"),
        ("deliver: hub", "hold: 0001-01-01T00:00", 33, 11, "rules[2].hold", "a year from 2000 to 2999"),
        ("trigger: instance", "trigger: timer, after: 999999d", 23, 5, "rules[0]", "after is 1y at most"),
        ("name: one", 'name: "o\\ne"', 23, 12, "rules[0].name", "write one line of up to 200 characters"),
        ("2026-11-20T10:00", "next week", 35, 55, "tests[0].at", "next week is not a local date and time"),
    ],
)
def test_each_kind_of_problem(old: str, new: str, line: int, column: int, path: str, words: str) -> None:
    assert GOOD.count(old) == 1, f"{GOOD.count(old)} times {old!r}"
    found = problems(GOOD.replace(old, new))
    here = [problem for problem in found if (problem.line, problem.column, problem.path) == (line, column, path)]
    assert here, "\n".join(map(str, found))
    assert all(words in str(problem) for problem in here), str(here[0])
    assert all(problem.file == "net.yaml" for problem in found)


def test_all_problems_come_at_once_in_the_order_of_the_lines() -> None:
    bad = (
        GOOD.replace("port: 104}", "port: 70000}")
        .replace("CT1: {site: here", "CT1: {site: nowhere")
        .replace("study.Modality ==", "study.Modalty ==")
        .replace("{node: PACS,", "{node: PAX,")
        .replace("aets:", "aet:")
        .replace("keep: 5y", "keep: x")
    )
    found = problems(bad)
    assert [problem.line for problem in found] == [4, 11, 13, 17, 26, 41]


def test_what_refers_to_a_wrong_part_is_no_second_problem() -> None:
    (found,) = problems(GOOD.replace("port: 104}", "port: 70000}"))
    assert found.path == "nodes.PACS.port"


def test_a_wrong_entry_of_a_list_does_not_shift_the_others() -> None:
    found = problems(GOOD.replace("trigger: instance", "trigger: x").replace("study.Modality ==", "study.Modalty =="))
    assert [(problem.path, problem.line) for problem in found] == [("rules[0].trigger", 23), ("rules[1].when", 26)]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70_000)
    | st.sampled_from(["", "a", "pacs", "10.0.0.1", "5y", "true", "CT1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "node", "set", "name", "all"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(line=st.integers(0, len(GOOD.splitlines()) - 1), value=VALUES)
def test_whatever_stands_in_a_line_the_answer_is_a_definition_or_problems_with_places(line: int, value: object) -> None:
    lines = GOOD.splitlines()
    key, colon, _ = lines[line].partition(":")
    lines[line] = f"{key}{colon} {value!r}".replace("None", "null") if colon else lines[line]
    text = "\n".join(lines).replace("True", "true").replace("False", "false")
    try:
        document = read(text)
    except DefinitionError:
        return  # the text is no YAML any more
    found = check(document)
    if isinstance(found, list):
        assert found
        for problem in found:
            assert 1 <= problem.line <= len(lines) + 1
            assert problem.column >= 1
            assert problem.message


@pytest.mark.parametrize(
    ("assembly", "column", "path", "words"),
    [
        ("{modalities: {ct: 60s}}", 25, "assembly.modalities.ct", "is no modality as images have it"),
        ("{modalities: {MR: 2d}}", 29, "assembly.modalities.MR", "172800 s is never over"),
        ("{quiet: 2h, at-most: 1h}", 19, "assembly.quiet", "a study waits 3600 s at most"),
    ],
)
def test_quiet_times_have_an_effect(assembly: str, column: int, path: str, words: str) -> None:
    (problem,) = problems(GOOD + f"assembly: {assembly}\n")
    assert (problem.line, problem.column, problem.path) == (GOOD.count("\n") + 1, column, path)
    assert words in problem.message


def test_a_quiet_time_may_be_as_long_as_the_wait() -> None:
    found = check(read(GOOD + "assembly: {quiet: 10m, modalities: {CT: 20s, MR: 1h}, at-most: 1h}\n"))
    assert isinstance(found, Definition)
    assert found.assembly.modalities == {"CT": 20, "MR": 3600}
