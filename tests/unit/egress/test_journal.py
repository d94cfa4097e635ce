"""What a killed process leaves of what receivers had said."""

import os
from pathlib import Path

import pytest

from services.egress.journal import Answer, Journal, left_behind
from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel


def parcel(item: int) -> Parcel:
    return Parcel(item, f"{item:032x}", (1, item), "1.2", "1.2.3", "1.2.840.10008.1.2.1", f"{item:064x}", "k", 10)


def answer(item: int) -> Answer:
    return Answer(item, f"{item:032x}", f"{item:064x}", Verdict.SENT, "0000")


def abandoned(folder: Path, *items: int) -> None:
    """Leave a journal as a killed process does: nobody holds its lock any more."""
    journal = Journal(folder, f"dead-{items[0]}")
    for item in items:
        journal.note(parcel(item), Outcome(item, Verdict.SENT, "0000"))
    os.close(journal._file)


def test_what_was_not_settled_is_found_once(tmp_path: Path) -> None:
    abandoned(tmp_path, 1, 2)
    with left_behind(tmp_path) as found:
        assert found == [answer(1), answer(2)]
    with left_behind(tmp_path) as found:
        assert found == []


def test_it_stays_when_it_could_not_be_written_down(tmp_path: Path) -> None:
    abandoned(tmp_path, 1)
    with pytest.raises(ConnectionError), left_behind(tmp_path):
        raise ConnectionError
    with left_behind(tmp_path) as found:
        assert found == [answer(1)]


def test_that_of_a_process_that_is_alive_is_left_to_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "alive")
    journal.note(parcel(1), Outcome(1, Verdict.SENT, "0000"))
    with left_behind(tmp_path) as found:
        assert found == []
    journal.close()
    with left_behind(tmp_path) as found:
        assert found == [answer(1)]


def test_what_is_settled_is_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    for item in (1, 2, 3):
        journal.note(parcel(item), Outcome(item, Verdict.SENT, "0000"))
    journal.settled([1, 2, 3])
    journal.note(parcel(4), Outcome(4, Verdict.SENT, "0000"))
    journal.close()
    with left_behind(tmp_path) as found:
        assert found == [answer(4)]


def test_a_long_one_is_begun_anew_with_what_is_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.note(parcel(0), Outcome(0, Verdict.WARNING, "B000"))
    for item in range(1, 12_000):
        journal.note(parcel(item), Outcome(item, Verdict.SENT, "0000"))
        journal.settled([item])
    [path] = tmp_path.iterdir()
    assert path.stat().st_size < 1 << 20
    journal.close()
    with left_behind(tmp_path) as found:
        assert Answer(0, f"{0:032x}", f"{0:064x}", Verdict.WARNING, "B000") in found


def test_lines_that_were_cut_off_are_left_out(tmp_path: Path) -> None:
    abandoned(tmp_path, 1, 2)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + b"\n" + whole[1:].splitlines()[0])
    with left_behind(tmp_path) as found:
        assert found == [answer(1), answer(1)]


def test_what_other_targets_say_is_kept_in_their_words(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.note(parcel(1), Outcome(1, Verdict.SENT, "written"))
    journal.close()
    with left_behind(tmp_path) as found:
        assert found == [Answer(1, f"{1:032x}", f"{1:064x}", Verdict.SENT, "written")]
