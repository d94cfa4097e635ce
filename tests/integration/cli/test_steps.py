"""`kivuko worklist steps`, with a modality that reports and a RIS that refuses first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from services.cli import output
from tests.integration.cli.conftest import Cli, command
from tests.integration.worklist.modality import Modality, Ris
from tests.support.kivuko import Process
from tests.support.process import wait_until
from tests.unit.worklist.performed import MPPS, created, ended, scheduled

pytestmark = pytest.mark.integration

EMERGENCY = f"{MPPS}.2"


@dataclass(frozen=True)
class Ward:
    """A Kivuko with an order that was performed, and an emergency without one."""

    steps: Cli
    ris: Ris
    order: int

    def answer(self, *arguments: str) -> Any:
        done = self.steps(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def forward(self, uid: str) -> dict[str, Any]:
        (one,) = self.answer(uid)["forwards"]
        return dict(one)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    ris = Ris()
    ris.answers = lambda _operation, uid: (0x0120, None) if uid == EMERGENCY else (0, None)
    process = Process(["up"], tmp_path_factory.mktemp("ward") / "kivuko", {})
    network = {
        "kivuko": 1,
        "name": "Clinic",
        "timezone": "Africa/Malabo",
        "sites": {"bata": {"name": "Bata"}},
        "nodes": {
            "CT1": {"site": "bata", "host": "127.0.0.1", "modality": "CT", "may": ["worklist", "mpps"]},
            "RIS": {"site": "bata", "host": "127.0.0.1", "port": ris.port},
        },
        "mpps": {"forward": "RIS"},
    }
    run = partial(command, "worklist", KIVUKO_HOME=str(process.home))
    try:
        process.start()
        done = process.cli("apply", "-", stdin=json.dumps(network))
        assert done.returncode == 0, done.stderr
        wait_until((process.home / "network-snapshot.json").exists, "the definition to be in force")
        added = run(
            *(
                "add",
                "--site",
                "bata",
                "--patient-id",
                "100",
                "--name",
                "DOE^JANE",
                "--modality",
                "CT",
                "--station",
                "CT1",
            ),
            *("--start", "2026-11-20 13:00", "--procedure", "CT HEAD", "--accession", "A1", "--json"),
        )
        assert added.returncode == 0, added.stderr
        (order,) = json.loads(run("list", "--all", "--json").stdout)["orders"]
        with Modality(int(process.addresses["worklist"].rpartition(":")[2])) as ct:
            study = scheduled(order["study_instance_uid"], accession="A1")
            assert ct.create(created(study), MPPS)[0].Status == 0
            assert ct.set(ended(), MPPS)[0].Status == 0
            said = dict(created(scheduled("1.2.9"), patient="4711"))
            del said["PatientName"]
            assert ct.create(said, EMERGENCY)[0].Status == 0
        made = Ward(partial(run, "steps"), ris, order["id"])
        wait_until(lambda: made.forward(MPPS)["state"] == "done", "the step to be passed on")
        wait_until(lambda: made.forward(EMERGENCY)["state"] == "failed", "the other one to be refused")
        yield made
    finally:
        process.kill()
        ris.close()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no cell is folded."""
    monkeypatch.setattr(output.out, "width", 300)


@pytest.mark.usefixtures("wide")
def test_steps_are_listed_with_their_orders_and_who_has_them(ward: Ward) -> None:
    shown = ward.steps().stdout
    lines = {line.split()[-1]: line for line in shown.splitlines() if line.strip()}
    for uid, words in (
        (MPPS, ("completed", "CT1", "100", f" {ward.order} ", "RIS: done")),
        (EMERGENCY, ("in-progress", "4711", " none ", "RIS: failed")),
    ):
        assert all(word in lines[uid] for word in words), lines[uid]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {MPPS, EMERGENCY}),
        (("--state", "completed"), {MPPS}),
        (("--state", "completed", "--state", "in-progress"), {MPPS, EMERGENCY}),
        (("--unlinked",), {EMERGENCY}),
        (("--waiting",), {EMERGENCY}),
        (("--patient", "4711"), {EMERGENCY}),
        (("--accession", "A1"), {MPPS}),
        (("--study", "1.2.9"), {EMERGENCY}),
        (("--node", "CT2"), set()),
        (("--limit", "1"), {EMERGENCY}),
    ],
)
def test_filters(ward: Ward, arguments: tuple[str, ...], expected: set[str]) -> None:
    assert {one["sop_instance_uid"] for one in ward.answer(*arguments)["steps"]} == expected


def test_what_is_not_there_is_said_to_be_none(ward: Ward) -> None:
    assert "There is no such step." in ward.steps("--node", "CT2").stdout
    assert "The newest 1; filters or --limit show others." in ward.steps("--limit", "1").stdout
    missing = ward.steps("1.2.3")
    assert missing.returncode == 1
    assert "kivuko worklist steps" in missing.stderr


@pytest.mark.usefixtures("wide")
def test_one_step_is_shown_whole(ward: Ward) -> None:
    shown = ward.steps(MPPS).stdout
    for said in ("completed", "CT1 (CT1, bata)", "A1", "study", "RIS", "2 of 2", "It is as the Standard wants it."):
        assert said in shown, said
    other = ward.steps(EMERGENCY).stdout
    for said in (
        "no order is known for it",
        "0 of 1",
        "it answers the N-CREATE with status 0120",
        "PatientName is missing",
    ):
        assert said in other, said


def test_what_the_ris_refused_is_sent_again(ward: Ward) -> None:
    nameless = ward.steps("--again")
    assert nameless.returncode == 2
    assert "needs the UID" in nameless.stderr
    assert "Every node has it." in ward.steps(MPPS, "--again").stdout
    assert "Every node has it." in ward.steps(EMERGENCY, "--again", "--node", "OTHER").stdout
    ward.ris.answers = lambda _operation, _uid: (0, None)
    assert "sent now to 1 node" in ward.steps(EMERGENCY, "--again", "--node", "RIS").stdout
    wait_until(lambda: ward.forward(EMERGENCY)["state"] == "done", "the step to be passed on")
    assert [uid for operation, uid, _ in ward.ris.heard if operation == "N-CREATE"].count(EMERGENCY) == 2
    assert ward.answer("--waiting")["steps"] == []
