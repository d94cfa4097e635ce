"""Deliveries and their receipts on the command line: to a receiver that nobody here wrote, and to one that is away."""

import json
import os
import pty
import re
import shutil
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Clinic, command
from tests.integration.ingest.peer import send
from tests.support.kivuko import KIVUKO, Process
from tests.support.process import program, wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = pytest.mark.integration


def delivery(clinic: Clinic, destination: str) -> dict[str, Any]:
    """Give the study's delivery to a destination, or nothing."""
    found = clinic.answer("list", "--study", clinic.study, "--destination", destination)["deliveries"]
    return dict(found[0]) if found else {}


@pytest.fixture(scope="module")
def clinic(clinic: Clinic) -> Clinic:
    """One that has delivered its study to one of its two destinations."""
    made = replace(clinic, group="delivery")
    wait_until(lambda: delivery(made, "archive").get("state") == "done", "the study to be delivered")
    wait_until(lambda: delivery(made, "away").get("state") == "waiting", "the other destination to be tried")
    return made


@pytest.fixture
def receipt(clinic: Clinic, tmp_path: Path) -> Path:
    """The receipt of what was delivered, as a file."""
    file = tmp_path / "receipt.json"
    done = clinic.run("receipt", delivery(clinic, "archive")["id"], "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert "3 instances at archive" in done.stdout
    return file


@pytest.fixture
def key(clinic: Clinic, tmp_path: Path) -> Path:
    """The public key, as a file."""
    file = tmp_path / "key.pem"
    file.write_text(clinic.run("key").stdout)
    return file


def offline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Check a receipt where no Kivuko runs."""
    return command("delivery", "verify", *map(str, arguments), KIVUKO_HOME="/nowhere")


def test_the_list_says_what_is_next(clinic: Clinic) -> None:
    text = clinic.run("list").stdout
    for destination in ("archive", "away"):
        assert delivery(clinic, destination)["id"] in text
    assert "complete 20" in text
    assert "nothing takes connections" in text
    waiting = clinic.run("list", "--state", "waiting").stdout
    assert delivery(clinic, "away")["id"] in waiting
    assert delivery(clinic, "archive")["id"] not in waiting
    assert "No delivery fits." in clinic.run("list", "--study", "1.2.3").stdout
    first = clinic.run("list", "--limit", "1").stdout
    [after] = [line.split()[-1] for line in first.splitlines() if "--before" in line]
    second = clinic.run("list", "--limit", "1", "--before", after).stdout
    assert len({line for text in (first, second) for line in text.splitlines() if clinic.study in line}) == 2
    wrong = clinic.run("list", "--state", "lost")
    assert wrong.returncode == 1
    assert "state" in wrong.stderr


def test_on_a_narrow_terminal_identifiers_stay_whole(clinic: Clinic) -> None:
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 80))
    env = {**os.environ, "KIVUKO_HOME": str(clinic.kivuko.home), "TERM": "xterm"}
    with subprocess.Popen([KIVUKO, "delivery", "list"], stdout=its, env=env) as running:
        os.close(its)
        text = "".join(_printed(ours))
        assert running.wait(60) == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith(delivery(clinic, "away")["id"]) for line in lines) == 1
    assert sum(line.strip() == f"study {clinic.study}" for line in lines) == 2


def _printed(terminal: int) -> Iterator[str]:
    # Reading from a terminal whose program has ended is an error, not an end.
    with suppress(OSError):
        while part := os.read(terminal, 1 << 16):
            yield part.decode()


def test_one_that_waits_is_shown_with_what_keeps_it(clinic: Clinic) -> None:
    away = delivery(clinic, "away")["id"]
    text = clinic.run("show", away).stdout
    assert "waits for the next attempt" in text
    assert "nothing takes connections" in text
    assert "0 sent (0 B), 3 to send" in text
    [group] = [line.split() for line in text.splitlines() if "They had no turn yet." in line]
    assert group[:2] == ["3", "pending"]
    assert clinic.run("show", away, "--all").stdout.count("pending") == 3
    assert len(clinic.answer("show", away)["items"]) == 3


def test_one_that_is_done_is_shown_without_its_instances_unless_asked(clinic: Clinic) -> None:
    done = delivery(clinic, "archive")["id"]
    text = clinic.run("show", done).stdout
    assert "the receiver said success for every instance" in text
    assert "3 sent" in text
    assert "To look at" not in text
    assert f"kivuko delivery receipt {done}" in text
    listed = clinic.run("show", done, "--all").stdout.splitlines()
    assert sum(line.split()[1:3] == ["sent", "0000"] for line in listed) == 3


def test_trying_again(clinic: Clinic) -> None:
    away = delivery(clinic, "away")
    assert "3 instances tried again" in clinic.run("retry", away["id"]).stdout
    wait_until(lambda: delivery(clinic, "away")["attempts"] > away["attempts"], "another attempt")
    assert "nothing to try again" in clinic.run("retry", delivery(clinic, "archive")["id"]).stdout
    missing = clinic.run("retry", "0" * 32)
    assert missing.returncode == 1
    assert "There is no delivery" in missing.stderr


def test_one_is_held_cancelled_and_released(clinic: Clinic) -> None:
    away = delivery(clinic, "away")["id"]
    text = clinic.run("hold", away, "--reason", "wrong [rule]").stdout
    assert f"kivuko delivery release {away}" in text
    shown = clinic.run("show", away).stdout
    assert "held by local since" in shown
    assert ": wrong [rule]" in shown
    assert "To let it go" in shown
    assert "wrong [rule]" in clinic.run("list", "--state", "held").stdout
    refused = clinic.run("retry", away)
    assert refused.returncode == 1
    assert "Release it instead." in refused.stderr
    assert "what has arrived there, stays there" in clinic.run("cancel", away).stdout
    assert "it is not done" in clinic.run("show", away).stdout
    assert clinic.run("release", away).stdout.startswith("Released. It is ")
    refused = clinic.run("cancel", delivery(clinic, "archive")["id"])
    assert refused.returncode == 1
    assert "can't be called back" in refused.stderr


def test_many_are_ordered_only_when_it_was_said_how_many(clinic: Clinic) -> None:
    counted = clinic.run("hold", "--destination", "away")
    assert counted.returncode == 2
    assert "1 delivery would be held: 1 waiting." in counted.stderr
    assert "--yes" in counted.stderr
    assert json.loads(clinic.run("hold", "--destination", "away", "--json").stderr)["deliveries"] == 1
    assert delivery(clinic, "away")["state"] == "waiting"
    done = clinic.run("hold", "--destination", "away", "--yes").stdout
    assert "1 delivery held." in done
    [back] = [line.split("`")[1] for line in done.splitlines() if "`" in line]
    assert clinic.run(*back.split()[2:], "--yes").stdout == "1 delivery released.\n"
    assert delivery(clinic, "away")["ordered"] is None
    assert clinic.answer("cancel", "--study", clinic.study, "--destination", "away", "--yes")["deliveries"] == 1
    assert "No delivery fits" in clinic.run("cancel", "--destination", "away").stdout
    assert clinic.answer("retry", "--destination", "away", "--state", "cancelled", "--yes")["instances"] == 3
    for wrong in ((), (delivery(clinic, "away")["id"], "--destination", "away")):
        refused = clinic.run("hold", *wrong)
        assert refused.returncode == 2
        assert "not both" in refused.stderr


def test_there_is_no_receipt_for_what_is_not_done(clinic: Clinic, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    refused = clinic.run("receipt", delivery(clinic, "away")["id"], "-o", str(file))
    assert refused.returncode == 1
    assert "not done but waiting: 0 of 3 instances are sent" in refused.stderr
    assert "kivuko delivery show" in refused.stderr
    assert not file.exists()
    assert clinic.run("receipt", "0" * 32).returncode == 1


def test_a_receipt_names_every_instance_and_is_the_same_each_time(clinic: Clinic, receipt: Path) -> None:
    document = json.loads(receipt.read_text())
    assert {item["sop_instance_uid"] for item in document["receipt"]["items"]} == {
        path.name.partition(".")[2] for path in clinic.archive.files()
    }
    assert document["receipt"]["study_instance_uid"] == clinic.study
    assert document["receipt"]["format"] == "kivuko.receipt.v1"
    printed = clinic.run("receipt", delivery(clinic, "archive")["id"])
    assert json.loads(printed.stdout) == document
    again = clinic.run("receipt", delivery(clinic, "archive")["id"], "-o", str(receipt))
    assert again.returncode == 1
    assert "File exists" in again.stderr
    assert json.loads(receipt.read_text()) == document


def test_half_of_a_receipt_is_not_left(clinic: Clinic, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    limited = [program("prlimit", "util-linux"), "--fsize=100", KIVUKO, "delivery", "receipt"]
    limited += [delivery(clinic, "archive")["id"], "-o", str(file)]
    env = {**os.environ, "KIVUKO_HOME": str(clinic.kivuko.home)}
    done = subprocess.run(limited, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert not file.exists()


def test_a_receipt_is_checked_without_any_kivuko(clinic: Clinic, receipt: Path, key: Path) -> None:
    done = offline(receipt, "--key", key)
    assert done.returncode == 0, done.stdout
    assert "The receipt holds." in done.stdout
    told = json.loads(offline(receipt, "--key", key, "--json").stdout)
    assert told["holds"] is True
    assert told["study_instance_uid"] == clinic.study
    assert [each["check"] for each in told["checks"]] == ["signature", "set", "count", "outcomes", "times"]
    nobody = offline(receipt)
    assert nobody.returncode == 3
    assert "--key" in nobody.stderr
    assert clinic.run("verify", str(receipt)).returncode == 0


def test_one_that_was_changed_is_found(receipt: Path, key: Path) -> None:
    receipt.write_text(receipt.read_text().replace('"archive"', '"archivf"'))
    done = offline(receipt, "--key", key)
    assert done.returncode == 1
    assert "was changed after it was signed" in done.stdout
    assert "The receipt does not hold." in done.stdout
    assert json.loads(offline(receipt, "--key", key, "--json").stdout)["holds"] is False
    receipt.write_text("{}")
    broken = offline(receipt, "--key", key)
    assert broken.returncode == 1
    assert "is no receipt" in broken.stderr
    assert offline(receipt.with_name("nowhere.json"), "--key", key).returncode == 2
    assert offline(receipt, "--key", receipt).returncode in (1, 2)


def test_copies_are_found_byte_for_byte_where_they_were_sent(clinic: Clinic, receipt: Path, key: Path) -> None:
    done = offline(receipt, "--key", key, "--objects", clinic.archive.folder)
    assert done.returncode == 0, done.stdout
    assert "all 3 instances are in" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    copy = receipt.parent / "copy"
    shutil.copytree(clinic.archive.folder, copy)
    first, second, _ = sorted(copy.iterdir())
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.unlink()
    damaged = offline(receipt, "--key", key, "--objects", copy)
    assert damaged.returncode == 1
    assert "has other content" in damaged.stdout
    assert "is not in" in damaged.stdout
    assert offline(receipt, "--key", key, "--objects", copy / "nowhere").returncode == 2


def test_another_program_can_check_it_as_the_guide_says(receipt: Path, key: Path, tmp_path: Path) -> None:
    document = json.loads(receipt.read_text())
    signed = json.dumps(document["receipt"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (tmp_path / "signed").write_text(signed)
    openssl = program("openssl", "openssl")
    value = document["signature"]["value"].encode()
    decoded = subprocess.run([openssl, "base64", "-d", "-A"], input=value, capture_output=True, check=True)
    (tmp_path / "signature").write_bytes(decoded.stdout)
    arguments = ["pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", "signed", "-sigfile", "signature"]
    checked = subprocess.run([openssl, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_key_is_the_same_after_a_restart_and_nobody_else_reads_it(clinic: Clinic, receipt: Path, key: Path) -> None:
    clinic.kivuko.stop()
    clinic.kivuko.start()
    assert clinic.run("key").stdout == key.read_text()
    assert clinic.run("verify", str(receipt)).returncode == 0
    assert (clinic.kivuko.home / "receipt-key.pem").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in key.read_text()


def test_an_amended_study_gets_another_receipt_and_the_first_one_stays_true(
    clinic: Clinic, tmp_path: Path, key: Path
) -> None:
    amended = replace(clinic, study=new_uid())

    def receipt(version: int) -> tuple[Path, dict[str, Any]]:
        paths = make_study(tmp_path, 2, study_uid=amended.study)
        assert set(send(clinic.kivuko.dicom_port, paths)) == {0x0000}

        def delivered() -> bool:
            found = delivery(amended, "archive")
            return found.get("study_version") == version and found["state"] == "done"

        wait_until(delivered, f"version {version} to be delivered")
        file = tmp_path / f"version-{version}.json"
        done = amended.run("receipt", delivery(amended, "archive")["id"], "-o", str(file))
        assert done.returncode == 0, done.stderr
        return file, json.loads(file.read_text())["receipt"]

    (first, one), (second, two) = receipt(1), receipt(2)
    assert (one["study_version"], len(one["items"])) == (1, 2)
    assert (two["study_version"], len(two["items"])) == (2, 4)
    assert {item["content_hash"] for item in one["items"]} < {item["content_hash"] for item in two["items"]}
    for file in (first, second):
        assert offline(file, "--key", key, "--objects", clinic.archive.folder).returncode == 0


def test_who_may_not_see_the_delivery_gets_no_receipt(clinic: Clinic) -> None:
    for name, options in (("far", ("--tenant", "other")), ("near", ("--site", "elsewhere"))):
        made = clinic.kivuko.cli("token", "create", name, "--role", "operator", *options, "--json")
        env = {"KIVUKO_URL": clinic.kivuko.http, "KIVUKO_TOKEN": json.loads(made.stdout)["token"]}
        refused = clinic.run("receipt", delivery(clinic, "archive")["id"], **env)
        assert refused.returncode == 1
        assert "There is no delivery with this identifier in your scope." in refused.stderr
        assert clinic.run("key", **env).returncode == 0


def test_without_a_key_deliveries_go_on_and_receipts_say_what_to_set(
    tmp_path: Path, clinic: Clinic, closed_port: int
) -> None:
    missing = tmp_path / "secret.pem"
    kivuko = Process(["up"], tmp_path / "kivuko", {"KIVUKO_EGRESS_RECEIPT_KEY": str(missing)})
    other = replace(clinic, kivuko=kivuko, folder=tmp_path, study=new_uid())
    try:
        other.start(closed_port)
        wait_until(lambda: delivery(other, "archive").get("state") == "done", "the study to be delivered")
        done = delivery(other, "archive")["id"]
        refused = other.run("receipt", done)
        assert refused.returncode == 3
        assert "KIVUKO_EGRESS_RECEIPT_KEY" in refused.stderr
        subprocess.run([program("openssl", "openssl"), "genpkey", "-algorithm", "ed25519", "-out", missing], check=True)
        assert other.run("receipt", done).returncode == 0
    finally:
        kivuko.kill()


def test_one_is_made_urgent_sent_elsewhere_and_called_back(clinic: Clinic) -> None:
    away = delivery(clinic, "away")["id"]
    assert "Its lane is stat now." in clinic.run("change", away, "--priority", "stat", "--why", "asked for").stdout
    assert delivery(clinic, "away")["priority"] == "stat"
    wrong = clinic.run("redirect", away, "--to", "nowhere")
    assert wrong.returncode == 1
    assert "nowhere" in wrong.stderr
    done = clinic.run("redirect", away, "--to", "archive", "--why", "it is there already")
    assert "It goes to archive instead" in done.stdout
    shown = clinic.run("show", away).stdout
    assert "diverted: another destination gets it" in shown
    assert "it is there already" in shown
    assert "Where it goes" in shown
    assert away in clinic.run("list", "--state", "diverted").stdout
    assert delivery(clinic, "archive")["state"] == "done"
    asked = clinic.run("retry", "--destination", "away", "--state", "diverted")
    assert asked.returncode == 2
    assert "1 delivery would be tried again: 1 diverted." in asked.stderr
    assert (
        "1 delivery tried again" in clinic.run("retry", "--destination", "away", "--state", "diverted", "--yes").stdout
    )
    assert delivery(clinic, "away")["state"] in ("open", "waiting")
    assert delivery(clinic, "archive")["state"] == "done"
