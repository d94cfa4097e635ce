"""`kivuko worklist` as people use it, against one Kivuko."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Cli, command
from tests.integration.ingest.peer import send
from tests.support.hl7 import Line, fields
from tests.support.kivuko import Process
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = pytest.mark.integration
NETWORK: dict[str, Any] = {
    "kivuko": 1,
    "name": "Clinic",
    "timezone": "Africa/Malabo",
    "sites": {"bata": {"name": "Bata"}},
    "nodes": {
        "US1": {"site": "bata", "host": "127.0.0.1", "modality": "US", "may": ["worklist"]},
        "CT1": {"site": "bata", "host": "127.0.0.1", "modality": "CT", "may": ["store"]},
        "RIS": {"site": "bata", "host": "127.0.0.1", "issuer": "HGB", "hl7": {}},
    },
}
#: A study without an order is told at once.
SOON = {"KIVUKO_WORKLIST_STUDY_GRACE_HOURS": "0.0001"}
JANE = ("--site", "bata", "--patient-id", "4711", "--name", "DOE^JANE", "--modality", "US")
HL7 = (
    b"MSH|^~\\&|RIS|HGB|K|K|20261120120000||ORM^O01|M1|P|2.5\rPID|||9^^^HGB||MBA^ANA||19900101|F\rPV1||E\r"
    b"ORC|NW|P9\rOBR|1|P9||USABD^ABDOMEN^L||||||||||||||||||||US\r"
)


@pytest.fixture(scope="module")
def kivuko(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(
        ["up"], tmp_path_factory.mktemp("worklist") / "kivuko", {"KIVUKO_WORKLIST_STUDY_GRACE_HOURS": "0.0001"}
    )
    process.start()
    done = process.cli("apply", "-", stdin=json.dumps(NETWORK))
    assert done.returncode == 0, done.stderr
    wait_until((process.home / "network-snapshot.json").exists, "the definition to be in force")
    yield process
    process.kill()


@pytest.fixture(scope="module")
def worklist(kivuko: Process) -> Cli:
    """Run a command of the group."""
    return partial(command, "worklist", KIVUKO_HOME=str(kivuko.home))


def answer(cli: Cli, *arguments: str, **how: Any) -> Any:
    done = cli(*arguments, "--json", **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_order_is_added_shown_changed_cancelled_and_reopened(worklist: Cli) -> None:
    done = worklist("add", *JANE, "--start", "2026-11-21 10:15", "--procedure", "US [ABDOMEN]")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    number = str(answer(worklist, "list", "--patient", "4711")["orders"][0]["id"])
    shown = worklist("show", number).stdout
    for said in ("US [ABDOMEN]", "DOE^JANE", "2026-11-21 10:15", "US1", "(minted)", "hand:local", "No study of it"):
        assert said in shown
    changes = ("--start", "2026-11-22 09:00", "--set", "-", "--clear", "station")
    edited = worklist("edit", number, *changes, stdin="weight=61,5\nroom=2\n")
    assert "warning: there is no station" in edited.stdout
    attributes = answer(worklist, "show", number)["attributes"]
    assert attributes["PatientWeight"] == ["61.5"]
    assert "Modalities do not see it any more" in worklist("cancel", number, "--why", "not fasting").stdout
    assert "not fasting" in worklist("show", number).stdout
    assert number not in {str(one["id"]) for one in answer(worklist, "list")["orders"]}
    assert answer(worklist, "reopen", number, "--why", "by mistake")["state"] == "scheduled"
    [listed] = answer(worklist, "list", "--day", "2026-11-22")["orders"]
    assert (str(listed["id"]), listed["patient_name"]) == (number, "DOE^JANE")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", *JANE, "--start", "tomorrow"), 1, "body.start: is not a date here"),
        (("add", *JANE, "--start", "2026-11-21", "--site", "moon"), 1, "no site moon"),
        (("add", *JANE, "--start", "2026-11-21", "--set", "weight"), 2, "FIELD=VALUE"),
        (("edit", "1"), 2, "Nothing was said"),
        (("edit", "999", "--room", "2"), 2, "--room"),
        (("edit", "999", "--set", "room=2"), 1, "no order with this identifier"),
        (("cancel", "999"), 1, "kivuko worklist list --all"),
        (("list", "--day", "tomorrow"), 2, "--day 2026-11-21"),
        (("list", "--state", "bogus"), 1, "'scheduled'"),
        (("show", "999"), 1, "no order with this identifier"),
        (("import", "/nowhere.csv"), 2, "No such file"),
        (("messages", "999"), 1, "no message 999"),
        (("unmerge", "999"), 1, "no merge"),
        (("explain", "--ae", "MR9", "--patient", "4711"), 1, "No node of the network definition has"),
        (("map", "/nowhere.hl7"), 2, "No such file"),
    ],
)
def test_what_cannot_be_done_says_why_and_what_to_do(
    worklist: Cli, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = worklist(*arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_a_file_is_imported_as_the_spreadsheet_wrote_it(worklist: Cli, tmp_path: Path) -> None:
    file = tmp_path / "tomorrow.csv"
    text = "site;patient_id;patient_name;modality;start;procedure\r\n"
    text += "".join(f"bata;S{n};NÚÑEZ^JOSÉ{n};US;21/11/2026 10:15;ABDOMEN\r\n" for n in range(3))
    file.write_bytes(text.encode("cp1252"))
    refused = worklist("import", str(file))
    assert (refused.returncode, "line 2" in refused.stderr, "windows-1252" in refused.stderr) == (1, True, True)
    assert worklist("import", str(file), "--charset", "nonsense").returncode == 2
    how: tuple[str, ...] = (str(file), "--charset", "windows-1252")
    refused = worklist("import", *how)
    assert (refused.returncode, refused.stderr.count("day-first")) == (1, 3)
    assert answer(worklist, "list", "--patient", "S0")["orders"] == []
    how = (*how, "--dates", "day-first")
    assert "Nothing is wrong with it: 3 orders" in worklist("import", *how, "--dry-run").stdout
    assert answer(worklist, "list", "--patient", "S0")["orders"] == []
    done = answer(worklist, "import", *how)
    assert (done["applied"], done["unchanged"], done["warnings"]) == (3, 0, [])
    [order] = answer(worklist, "list", "--patient", "S1")["orders"]
    assert (order["patient_name"], order["start"]) == ("NÚÑEZ^JOSÉ1", "20261121101500")
    utf_16 = tmp_path / "unicode.csv"
    utf_16.write_text(text.replace(";", "\t"), encoding="utf-16")
    assert (
        "3 orders: 0 new or changed, 3 known just so" in worklist("import", str(utf_16), "--dates", "day-first").stdout
    )


def test_a_long_file_is_sent_in_parts_and_counted_whole(worklist: Cli, tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    lines = [f"bata,L{n},DOE^N{n},MR,2026-11-21 10:15" for n in range(620)]
    file.write_text("\n".join(["site,patient_id,patient_name,modality,start", *lines]), encoding="utf-8-sig")
    done = worklist("import", str(file))
    assert "620 orders: 620 new or changed, 0 known just so" in done.stdout
    assert "more; --json has them" in done.stdout
    file.write_text(file.read_text(encoding="utf-8-sig") + "\nbata,L9,DOE^OTHER,MR,2026-11-21\n", encoding="utf-8")
    refused = worklist("import", str(file), "--json")
    assert [one["line"] for one in json.loads(refused.stderr)["problems"]] == [622]


def test_a_message_is_tried_with_its_mapping(worklist: Cli, tmp_path: Path) -> None:
    file = tmp_path / "order.hl7"
    file.write_bytes(HL7)
    done = worklist("map", str(file))
    assert done.returncode == 0, done.stderr
    for said in ("(0010,0010) PatientName", "PID-5", "MBA^ANA", "nodes of the site with modality US", "answered AA"):
        assert said in done.stdout
    assert "ScheduledProcedureStepStartDate has no value" in done.stdout
    file.write_bytes(HL7.replace(b"ORC|NW|P9\r", b"").replace(b"|P9|", b"||"))
    refused = worklist("map", str(file))
    assert (refused.returncode, "refused:" in refused.stdout) == (1, True)
    assert answer(worklist, "list", "--number", "P9")["orders"] == []


def test_what_could_not_be_read_is_read_again_once_the_mapping_is_mended(worklist: Cli, kivuko: Process) -> None:
    line = Line(kivuko.addresses["hl7"])
    assert fields(line.ask(HL7.replace(b"ORC|NW|P9", b"ORC|ZZ|P10").replace(b"|P9|", b"|P10|")))[1] == "AE"
    line.close()
    [refused] = answer(worklist, "messages", "--answer", "AE")["messages"]
    number = str(refused["id"])
    again = worklist("read-again", number)
    assert (again.returncode, "refused again: ORC-1" in again.stdout) == (1, True)
    ris = {**NETWORK["nodes"]["RIS"], "hl7": {"mapping": "own"}}
    mended = {"hl7-mappings": {"own": {"extends": "default", "control": {"ZZ": "schedule"}}}}
    network = {**NETWORK, "nodes": {**NETWORK["nodes"], "RIS": ris}, **mended}
    assert kivuko.cli("apply", "-", stdin=json.dumps(network)).returncode == 0
    wait_until(lambda: worklist("read-again", number).returncode == 0, "the mended mapping to be in force")
    [order] = answer(worklist, "list", "--number", "P10")["orders"]
    assert order["patient"] == "9"
    gone = worklist("read-again", number)
    assert (gone.returncode, "It was taken when it came." in gone.stderr) == (1, True)
    assert "There is no message 999." in worklist("read-again", "999").stderr


def test_the_lists_of_a_quiet_night_are_sentences(worklist: Cli) -> None:
    assert worklist("merges").stdout.strip() == "No patients were merged."
    assert "No query" in worklist("queries").stdout
    assert "Every study has its order." in worklist("unmatched").stdout
    answer(worklist, "add", *JANE, "--start", "2026-11-21 10:15", "--order", "QUIET")
    said = worklist("explain", "--ae", "US1", "--patient", "4711").stdout
    assert ("DOE^JANE" in said, "No query of this node is recorded" in said) == (True, True)


def test_a_person_links_a_study_and_takes_it_back(worklist: Cli, kivuko: Process, tmp_path: Path) -> None:
    made = answer(worklist, "add", *JANE, "--start", "2026-11-21 10:15", "--order", "LINKED")
    study = new_uid()
    assert set(send(kivuko.dicom_port, make_study(tmp_path, 1, study_uid=study, PatientID="typed-in"))) == {0x0000}
    wait_until(lambda: study in worklist("unmatched").stdout, "the study to be complete, and without an order")
    assert "kivuko worklist link STUDY ORDER" in worklist("unmatched").stdout
    done = worklist("link", study, str(made["id"]), "--why", "typed in at the console")
    assert done.returncode == 0, done.stderr
    for said in (f"{made['id']}, by hand", "typed in at the console", "local"):
        assert said in done.stdout
    assert study not in worklist("unmatched").stdout
    assert study in worklist("show", str(made["id"])).stdout
    other = answer(worklist, "add", *JANE, "--start", "2026-11-21 11:15", "--order", "OTHER")
    refused = worklist("link", study, str(other["id"]), "--why", "x")
    assert (refused.returncode, "kivuko worklist unlink" in refused.stderr) == (1, True)
    assert worklist("link", study, str(other["id"])).returncode == 2
    assert answer(worklist, "unlink", study, "--why", "wrong order")["order_id"] is None
    assert answer(worklist, "link", study, str(other["id"]), "--why", "this one")["order_id"] == other["id"]
    shown = worklist("study", study).stdout
    for said in ("wrong order", "this one", f"unlink {made['id']}", f"{other['id']}, by hand"):
        assert said in shown
    assert worklist("study", "1.2.3").returncode == 1


def test_a_merge_is_listed_with_whose_the_identifiers_are_and_can_be_undone(worklist: Cli, kivuko: Process) -> None:
    head = b"MSH|^~\\&|RIS|HGB|K|K|20261120130000||ADT^A40|M40|P|2.5\r"
    line = Line(kivuko.addresses["hl7"])
    assert fields(line.ask(head + b"PID|||70^^^HGB||MBA^ANA\rMRG|71^^^HGM\r"))[1] == "AA"
    line.close()
    said = worklist("merges").stdout
    assert ("70 of HGB" in said, "71 of HGM" in said) == (True, True)
    [merge] = answer(worklist, "merges")["merges"]
    assert "Orders of 71 are its own again." in worklist("unmerge", str(merge["id"])).stdout
    assert worklist("merges").stdout.strip() == "No patients were merged."
    assert "by " in worklist("merges", "--all").stdout
