"""The events of a report: all that it says and nothing else, in parts of a bounded size."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.commitment import Committed, NotCommitted
from services.ingest.commitment import MOST, events

pytestmark = pytest.mark.unit
CLASS = "1.2.840.10008.5.1.4.1.1.2"


@given(st.integers(0, 3 * MOST), st.integers(0, 3 * MOST))
def test_a_report_is_told_in_parts_and_whole(committed: int, failed: int) -> None:
    kept = [(CLASS, f"1.1.{number}") for number in range(committed)]
    lost = [(CLASS, f"1.2.{number}", number) for number in range(failed)]
    said = list(events("1.2.9", "PACS", kept, lost))
    assert len(said) == -(-(committed + failed) // MOST)
    assert {(each.transaction_uid, each.node) for each in said} <= {("1.2.9", "PACS")}
    assert all(0 < len(each.committed) + len(each.failed) <= MOST for each in said)
    assert [(one.sop_class_uid, one.sop_instance_uid) for each in said for one in each.committed] == kept
    told = [one for each in said for one in each.failed]
    assert [(one.sop_class_uid, one.sop_instance_uid, one.failure_reason) for one in told] == lost
    types = Counter(type(one) for each in said for one in (*each.committed, *each.failed))
    assert (types[Committed], types[NotCommitted]) == (committed, failed)
