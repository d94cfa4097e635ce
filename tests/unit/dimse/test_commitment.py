from io import BytesIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.commitment import EXPLICIT, IMPLICIT, Failure, Reference, Report, UnreadableReportError

UIDS = st.lists(st.integers(0, 10**12).map(str), min_size=2, max_size=4).map(".".join)
REFERENCES = st.builds(Reference, UIDS, UIDS)
FAILURES = st.builds(Failure, UIDS, UIDS, st.integers(0, 0xFFFF))
SYNTAXES = st.sampled_from(commitment.TRANSFER_SYNTAXES)
CT = "1.2.840.10008.5.1.4.1.1.2"


def by_pydicom(data: bytes, syntax: str) -> Dataset:
    return read_dataset(BytesIO(data), is_implicit_VR=syntax == IMPLICIT, is_little_endian=True)


def written(dataset: Dataset, syntax: str) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = syntax == IMPLICIT, True
    write_dataset(file, dataset)
    return file.getvalue()


def sequence(tag: int, items: list[Dataset], *, open_ended: bool) -> DataElement:
    element = DataElement(tag, "SQ", Sequence(items))
    element.is_undefined_length = open_ended
    for item in items:
        item.is_undefined_length_sequence_item = open_ended
    return element


def item(named: Reference | Failure, *, with_more: bool = False) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID = named.sop_class_uid
    found.ReferencedSOPInstanceUID = named.sop_instance_uid
    if isinstance(named, Failure):
        found.FailureReason = named.reason
    if with_more:
        found.StorageMediaFileSetID = "TAPE 7"
        # A sequence within: its instance is none that is reported.
        found.add(sequence(Tag("ReferencedSOPSequence"), [item(Reference("1.2", "1.3"))], open_ended=True))
    return found


def dataset(report: Report, *, open_ended: bool = False, with_more: bool = False) -> Dataset:
    found = Dataset()
    found.TransactionUID = report.transaction_uid
    if with_more:
        found.RetrieveAETitle = "ARCHIVE"
        found.add_new(0x00091001, "OB", b"\0\1" * 40)
        found.add(sequence(0x00091002, [item(Reference("1.4", "1.5"), with_more=True)], open_ended=open_ended))
    for tag, named in ((0x00081198, report.failed), (0x00081199, report.committed)):
        if named:
            items = [item(each, with_more=with_more) for each in named]
            found.add(sequence(tag, items, open_ended=open_ended))
    return found


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """Reports as the reader gives them: each instance once."""
    named = draw(st.lists(st.one_of(REFERENCES, FAILURES), min_size=1, unique_by=lambda each: each.sop_instance_uid))
    return Report(
        draw(UIDS),
        tuple(each for each in named if isinstance(each, Reference)),
        tuple(each for each in named if isinstance(each, Failure)),
    )


@given(UIDS, st.lists(REFERENCES, min_size=1, max_size=20), SYNTAXES)
def test_a_request_is_read_by_others(transaction: str, references: list[Reference], syntax: str) -> None:
    found = by_pydicom(commitment.encode_request(transaction, references, syntax), syntax)
    assert found.TransactionUID == transaction
    said = [(each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in found.ReferencedSOPSequence]
    assert said == [(each.sop_class_uid, each.sop_instance_uid) for each in references]
    assert len(found) == 2


@given(reports(), SYNTAXES, st.booleans(), st.booleans())
def test_a_report_that_others_wrote_is_read(report: Report, syntax: str, open_ended: bool, with_more: bool) -> None:
    data = written(dataset(report, open_ended=open_ended, with_more=with_more), syntax)
    assert commitment.decode_report(data, syntax) == report


@given(reports(), SYNTAXES)
def test_our_report_is_read_by_us_and_by_others(report: Report, syntax: str) -> None:
    data = commitment.encode_report(report, syntax)
    assert commitment.decode_report(data, syntax) == report
    assert by_pydicom(data, syntax) == dataset(report)


@given(st.binary(max_size=300), SYNTAXES)
def test_any_bytes_are_a_report_or_a_clear_error(data: bytes, syntax: str) -> None:
    report_or_error(data, syntax)


@given(reports(), SYNTAXES, st.booleans(), st.data())
def test_mutated_reports_are_a_report_or_a_clear_error(
    report: Report, syntax: str, open_ended: bool, data: st.DataObject
) -> None:
    raw = bytearray(written(dataset(report, open_ended=open_ended, with_more=True), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    report_or_error(bytes(raw), syntax)


@given(reports(), SYNTAXES, st.data())
def test_a_report_that_breaks_off_is_never_read(report: Report, syntax: str, data: st.DataObject) -> None:
    raw = commitment.encode_report(report, syntax)
    # Between its two sequences it would be a whole one.
    until = len(raw) if not (report.failed and report.committed) else 0
    at = data.draw(st.integers(0, max(0, until - 1)))
    with pytest.raises(UnreadableReportError):
        commitment.decode_report(raw[:at], syntax)


def report_or_error(data: bytes, syntax: str) -> None:
    try:
        found = commitment.decode_report(data, syntax)
    except UnreadableReportError:
        return
    assert found.committed or found.failed
    # What was read can be written: every UID is one.
    assert commitment.decode_report(commitment.encode_report(found, syntax), syntax) == found


@given(UIDS, st.sets(UIDS, min_size=1), st.data())
def test_an_instance_in_both_lists_has_failed(transaction: str, uids: set[str], data: st.DataObject) -> None:
    both = sorted(uids)
    failed = tuple(Failure(CT, uid, 0x0112) for uid in both[: data.draw(st.integers(0, len(both)))])
    said = Report(transaction, tuple(Reference(CT, uid) for uid in both), failed)
    found = commitment.decode_report(commitment.encode_report(said, IMPLICIT), IMPLICIT)
    assert found.failed == failed
    assert {each.sop_instance_uid for each in found.committed} == uids - {each.sop_instance_uid for each in failed}


def test_a_failure_without_a_reason_is_one() -> None:
    found = Dataset()
    found.TransactionUID = "1.2.3"
    found.add(sequence(0x00081198, [item(Reference(CT, "1.2.4"))], open_ended=False))
    read = commitment.decode_report(written(found, EXPLICIT), EXPLICIT)
    assert read == Report("1.2.3", (), (Failure(CT, "1.2.4", commitment.NO_REASON),))


def test_sequences_of_unknown_representation_are_read() -> None:
    inner = commitment.encode_report(Report("1.2.3", (Reference(CT, "1.2.4"),), ()), IMPLICIT)
    at = inner.index(b"\x08\x00\x99\x11")
    value = inner[at + 8 :]
    whole = b"\x08\x00\x95\x11UI\x06\x00" + b"1.2.3\0"
    for length, end in ((len(value), b""), (0xFFFFFFFF, b"\xfe\xff\xdd\xe0\0\0\0\0")):
        data = whole + b"\x08\x00\x99\x11UN\0\0" + length.to_bytes(4, "little") + value + end
        assert commitment.decode_report(data, EXPLICIT).committed == (Reference(CT, "1.2.4"),)


WHOLE = commitment.encode_report(Report("1.2.3", (Reference(CT, "1.2.4"),), (Failure(CT, "1.2.5", 1),)), IMPLICIT)
NESTED = b"".join(b"\x09\x00\x01\x10\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(5000))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "names no instance"),
        (b"\x08\x00\x95\x11\x06\x00\x00\x001.2.3\0", "names no instance"),
        (WHOLE[14:], "no Transaction UID"),
        (WHOLE + WHOLE, "twice"),
        (WHOLE + b"\x09\x00", "ends within an element"),
        (WHOLE.replace(b"1.2.4\0", b"1.2.x\0"), "no UID"),
        (WHOLE.replace(b"1.2.4\0", b"1.2.4\n"), "no UID"),
        (WHOLE.replace(b"\x55\x11", b"\x56\x11"), "without its SOP class or instance UID"),
        (WHOLE.replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0"), "something else than an item"),
        (NESTED, "deep"),
        (NESTED[:48], "ends within"),
        (b"\xfe\xff\x00\xe0\0\0\0\0", "an item outside a sequence"),
        (bytes(commitment.LONGEST_REPORT + 1), "longer than"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableReportError, match=why):
        commitment.decode_report(data, IMPLICIT)


def test_a_report_in_another_transfer_syntax_is_not_read() -> None:
    with pytest.raises(UnreadableReportError, match="transfer syntax"):
        commitment.decode_report(WHOLE, "1.2.840.10008.1.2.2")


def test_as_many_as_are_asked_for_can_be_reported_and_no_more() -> None:
    def named(count: int) -> list[Reference]:
        return [Reference(CT, f"1.2.{number}") for number in range(count)]

    most = commitment.MOST_INSTANCES
    found = commitment.decode_report(commitment.encode_request("1.2.3", named(most), IMPLICIT), IMPLICIT)
    assert len(found.committed) == most
    with pytest.raises(ValueError, match="1 to 10000"):
        commitment.encode_request("1.2.3", named(most + 1), IMPLICIT)
    with pytest.raises(UnreadableReportError, match="more than 10000"):
        commitment.decode_report(
            commitment.encode_report(Report("1.2.3", tuple(named(most + 1)), ()), IMPLICIT), IMPLICIT
        )


@pytest.mark.parametrize("uid", ["", "1.2.", "1..2", "1.2\n", "a", "1." + "2" * 64])
def test_what_is_no_uid_is_not_sent(uid: str) -> None:
    with pytest.raises(ValueError, match="no UID"):
        commitment.encode_request(uid, [Reference(CT, "1.2")], IMPLICIT)
    with pytest.raises(ValueError, match="no UID"):
        commitment.encode_request("1.2", [Reference(CT, uid)], EXPLICIT)
    with pytest.raises(ValueError, match="1 to"):
        commitment.encode_request("1.2", [], IMPLICIT)
    with pytest.raises(ValueError, match="little endian"):
        commitment.encode_request("1.2", [Reference(CT, "1.3")], "1.2.840.10008.1.2.2")


def test_a_report_of_something_else_is_refused_by_its_command() -> None:
    def said(sop_class: str, instance: str, event: int) -> int | None:
        return commitment.objection(commands.event_report_request(7, sop_class, instance, event))

    assert said(commitment.SOP_CLASS, commitment.SOP_INSTANCE, 1) is None
    assert said(commitment.SOP_CLASS, commitment.SOP_INSTANCE, 2) is None
    assert said(commitment.SOP_CLASS, commitment.SOP_INSTANCE, 3) == 0x0113
    assert said(commitment.SOP_CLASS, "1.2.3", 1) == 0x0112
    assert said("1.2.3", commitment.SOP_INSTANCE, 1) == 0x0118
    assert commitment.objection(commitment.action_request(1)) == 0x0211
    bare = dict(commands.event_report_request(7, commitment.SOP_CLASS, commitment.SOP_INSTANCE, 1).elements)
    assert commitment.objection(commands.Command({**bare, 0x0800: b"\x01\x01"})) == 0x0115


@example(1, commitment.FAILURES_EXIST)
@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_commands_are_as_the_standard_has_them(message_id: int, event: int) -> None:
    request = by_pydicom(commands.encode(commitment.action_request(message_id)), IMPLICIT)
    assert (request.CommandField, request.MessageID, request.ActionTypeID) == (0x0130, message_id, 1)
    assert request.RequestedSOPClassUID == "1.2.840.10008.1.20.1"
    assert request.RequestedSOPInstanceUID == "1.2.840.10008.1.20.1.1"
    assert request.CommandDataSetType != 0x0101
    report = commands.event_report_request(message_id, commitment.SOP_CLASS, commitment.SOP_INSTANCE, event)
    answered = by_pydicom(commands.encode(commands.response(report, 0x0110)), IMPLICIT)
    assert (answered.CommandField, answered.MessageIDBeingRespondedTo, answered.Status) == (0x8100, message_id, 0x0110)
    assert (answered.AffectedSOPClassUID, answered.EventTypeID) == ("1.2.840.10008.1.20.1", event)
    assert answered.CommandDataSetType == 0x0101
