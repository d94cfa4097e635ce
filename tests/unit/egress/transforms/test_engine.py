"""Transforms of files: what they change, and that the same input gives the same bytes."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from contracts.definition import Transform
from libs.dicom import part10
from services.egress.transforms.engine import Step, Transformed, keys_of, run, version
from services.egress.transforms.errors import UntransformableError
from tests.support.dicomset import real_files
from tests.support.synthetic import make_ct

pytestmark = pytest.mark.unit

AT = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
SECRETS = {"tb": b"0123456789abcdef0123456789abcdef"}
RESEARCH = {"deidentify": {"profile": "basic", "options": ["shift-dates"], "project": "tb"}}


def changed(content: bytes, *transforms: dict[str, Any], tenant: str = "default") -> tuple[bytes, Transformed]:
    steps = [Step(f"t{number}", Transform.model_validate(each)) for number, each in enumerate(transforms)]
    result = BytesIO()
    made = run(BytesIO(content), result, steps, keys_of(SECRETS, tenant), AT, BytesIO)
    return result.getvalue(), made


def after(content: bytes, *transforms: dict[str, Any], tenant: str = "default") -> Dataset:
    return dcmread(BytesIO(changed(content, *transforms, tenant=tenant)[0]))


def with_values(path: Path, **values: Any) -> bytes:
    dataset = dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    result = BytesIO()
    dataset.save_as(result)
    return result.getvalue()


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ct(tmp_path_factory.mktemp("ct"))


def test_values_are_changed_in_the_order_that_is_documented(ct: Path) -> None:
    content = with_values(ct, PatientID="4711", StudyDescription="CT Abdomen 12", BodyPartExamined="THORAX")
    made = after(
        content,
        {
            "copy": {"OtherPatientIDs": "PatientID"},
            "regex": {"StudyDescription": {"find": r"([A-Za-z]+) (\d+)", "replace": r"\2 \1"}},
            "map": {"BodyPartExamined": {"values": {"THORAX": "CHEST"}}},
            "prefix": {"PatientID": "BATA-"},
            "set": {"IssuerOfPatientID": "BATA"},
            "remove": ["ReferringPhysicianName"],
        },
    )
    assert (made.OtherPatientIDs, made.PatientID, made.IssuerOfPatientID) == ("4711", "BATA-4711", "BATA")
    assert (made.StudyDescription, made.BodyPartExamined) == ("CT 12 Abdomen", "CHEST")
    assert "ReferringPhysicianName" not in made
    assert made.PixelData == dcmread(ct).PixelData


def test_each_of_several_values_is_changed(ct: Path) -> None:
    content = with_values(ct, OtherPatientIDs=["4711", "B-1", "4711"], ImageComments="a")
    assert list(after(content, {"prefix": {"OtherPatientIDs": "B-"}}).OtherPatientIDs) == ["B-4711", "B-1", "B-4711"]
    one, other, again = after(content, {"hash": "OtherPatientIDs", "project": "tb"}).OtherPatientIDs
    assert len({"4711", "B-1", one, other}) == 4
    assert again == one


def test_sequences_and_private_elements_are_reached(ct: Path) -> None:
    dataset = dcmread(ct)
    one, two = Dataset(), Dataset()
    one.AccessionNumber, two.AccessionNumber = "A1", "A2"
    dataset.RequestAttributesSequence = Sequence([one, two])
    dataset.OperatorsName = "Top"
    one.OperatorsName = "Deep"
    dataset.private_block(0x29, "ACME 1.1", create=True).add_new(0x10, "LO", "old")
    source = BytesIO()
    dataset.save_as(source)
    made = after(
        source.getvalue(),
        {
            "set": {
                "RequestAttributesSequence[1].AccessionNumber": "B2",
                "(0029,10,ACME 1.1)": "new",
                "(0031,01,OURS):SH": "x",
                "ReferencedStudySequence[0].ReferencedSOPInstanceUID": "1.2.3",
            },
            "remove": ["*.OperatorsName"],
        },
    )
    assert [item.AccessionNumber for item in made.RequestAttributesSequence] == ["A1", "B2"]
    assert made.private_block(0x29, "ACME 1.1")[0x10].value == "new"
    assert made.private_block(0x31, "OURS")[0x01].value == "x"
    assert made.ReferencedStudySequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert "Top" not in str(made)
    assert "Deep" not in str(made)


def test_what_was_coerced_is_noted_and_what_was_removed_or_hashed_is_not(ct: Path) -> None:
    content = with_values(ct, PatientID="4711", AccessionNumber="A1", OperatorsName="Someone")
    first = after(content, {"prefix": {"PatientID": "X-"}})
    [item] = first.OriginalAttributesSequence
    assert item.ModifiedAttributesSequence[0].PatientID == "4711"
    assert (item.ReasonForTheAttributeModification, item.ModifyingSystem) == ("COERCE", "Kivuko")
    assert item.AttributeModificationDateTime == "20261120103000.000000+0000"
    [equipment] = first.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    second = after(
        content,
        {"prefix": {"PatientID": "X-"}, "set": {"OperatorsName": "Y"}},
        {"hash": ["PatientID"], "remove": "OperatorsName", "project": "tb"},
    )
    assert "4711" not in str(second)
    assert "Someone" not in str(second)
    assert "OriginalAttributesSequence" not in after(content, {"prefix": {"PatientID": "X-"}, "originals": False})


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"prefix": {"AccessionNumber": "A-VERY-LONG-"}}, "prefix AccessionNumber: a value of SH has at most 16"),
        ({"map": {"Modality": {"values": {}, "otherwise": "refuse"}}}, "map Modality"),
        ({"set": {"PatientName": "Łódź"}}, "character set"),
        ({"copy": {"InstanceNumber": "PatientID"}}, "copy InstanceNumber: a value of IS"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_of_the_value_is_said(
    ct: Path, transform: dict[str, Any], words: str
) -> None:
    content = with_values(ct, AccessionNumber="SECRET-77", PatientID="SECRET-77", SpecificCharacterSet="ISO_IR 100")
    with pytest.raises(UntransformableError) as raised:
        changed(content, transform)
    assert words in str(raised.value)
    assert "SECRET" not in str(raised.value)


def test_a_file_that_is_cut_off_is_refused(ct: Path) -> None:
    """Wherever that is not between two elements, which nobody can tell from a shorter dataset."""
    content = ct.read_bytes()
    _, start = part10.decode(BytesIO(content))
    dataset = dcmread(ct)
    raw: list[Any] = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118 (a dataset iterates over elements)
    ends = {start, *(each.value_tell + each.length for each in raw)}
    for cut in range(start, len(content), 3):
        if cut not in ends:
            with pytest.raises(UntransformableError):
                changed(content[:cut], {"set": {"StudyID": "X"}})


def test_the_same_input_gives_the_same_bytes() -> None:
    for file in real_files()[:12]:
        content = file.path.read_bytes()
        assert changed(content, RESEARCH) == changed(content, RESEARCH)


def test_a_study_keeps_together_and_its_references_lead_to_it(tmp_path: Path) -> None:
    image = dcmread(make_ct(tmp_path, study_uid="1.2.3", series_uid="1.2.3.4", PatientID="P"))
    report = dcmread(make_ct(tmp_path, study_uid="1.2.3", series_uid="1.2.3.5", PatientID="P"))
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    report.ReferencedImageSequence = Sequence([reference])
    made = []
    for dataset in (image, report):
        content = BytesIO()
        dataset.save_as(content)
        made.append(after(content.getvalue(), RESEARCH))
    one, two = made
    assert one.StudyInstanceUID == two.StudyInstanceUID != "1.2.3"
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert (
        two.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        == one.SOPInstanceUID
        == one.file_meta["MediaStorageSOPInstanceUID"].value
    )
    assert two.ReferencedImageSequence[0].ReferencedSOPClassUID == image.SOPClassUID
    assert one.PatientID == two.PatientID == one.PatientName != "P"


uids = st.from_regex(r"\A[1-9][0-9]{0,5}(\.[1-9][0-9]{0,9}){1,5}\Z")
ids = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=16)


@settings(max_examples=100)
@given(uids, uids, ids, ids)
def test_pseudonyms_differ_as_what_they_stand_for(one: str, other: str, patient: str, issuer: str) -> None:
    key, elsewhere = keys_of(SECRETS, "a")["tb"], keys_of(SECRETS, "b")["tb"]
    assert (key.uid(one) == key.uid(other)) == (one == other)
    assert key.uid(one) != elsewhere.uid(one)
    assert len(key.uid(one)) <= 64
    assert key.days(patient, issuer) == key.days(patient, issuer) < 0
    assert key.text("patient", issuer, patient) != key.text("patient", patient + issuer, "")


dates = st.dates(min_value=datetime(1950, 1, 1, tzinfo=UTC).date(), max_value=datetime(2050, 1, 1, tzinfo=UTC).date())


@settings(max_examples=25, deadline=None)
@given(dates, dates)
def test_intervals_stay_when_dates_are_shifted(ct: Path, one: Any, other: Any) -> None:
    content = with_values(ct, StudyDate=f"{one:%Y%m%d}", SeriesDate=f"{other:%Y%m%d}", StudyTime="101500")
    made = after(content, RESEARCH)
    shifted = [datetime.strptime(made[name].value, "%Y%m%d").date() for name in ("StudyDate", "SeriesDate")]  # noqa: DTZ007
    assert shifted[1] - shifted[0] == other - one
    assert shifted[0] < one
    assert made.StudyTime == "101500"
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"


def test_options_keep_what_they_name_and_no_more(ct: Path) -> None:
    content = with_values(
        ct,
        InstitutionName="Hospital",
        DeviceSerialNumber="SN1",
        PatientSex="F",
        StudyDescription="CT Head Obono 4711222",
    )
    none = after(content, RESEARCH)
    assert "Hospital" not in str(none)
    assert "SN1" not in str(none)
    assert not none.get("StudyDescription")
    options = ["retain-uids", "retain-device", "retain-institution", "retain-patient-characteristics", "retain-dates"]
    kept = after(
        content,
        {"deidentify": {"profile": "basic", "options": [*options, "clean-descriptors"], "project": "tb"}},
    )
    assert (kept.InstitutionName, kept.DeviceSerialNumber, kept.PatientSex) == ("Hospital", "SN1", "F")
    assert (kept.StudyDescription, kept.StudyDate) == ("CT Head", dcmread(ct).StudyDate)
    assert kept.SOPInstanceUID == dcmread(ct).SOPInstanceUID
    codes = {item.CodeValue for item in kept.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113105", "113106", "113108", "113109", "113110", "113112"}


def test_what_is_burned_in_is_blanked_by_device_or_the_instance_is_refused(ct: Path) -> None:
    content = with_values(ct, BurnedInAnnotation="YES", Manufacturer="ACME", ManufacturerModelName="Sono 1")
    with pytest.raises(UntransformableError, match="burned into"):
        changed(content, RESEARCH)
    rules = [
        {"manufacturer": "other", "areas": []},
        {"manufacturer": "acme", "model": "SONO 1", "areas": [[0, 0, 5, 2], [14, 14, 99, 99]]},
    ]
    made = after(content, RESEARCH | {"blank": rules})
    pixels, before = made.pixel_array, dcmread(ct).pixel_array
    assert not pixels[0:2, 0:5].any()
    assert not pixels[14:, 14:].any()
    pixels[0:2, 0:5], pixels[14:, 14:] = before[0:2, 0:5], before[14:, 14:]
    assert (pixels == before).all()
    assert (made.BurnedInAnnotation, made.ImageType[0]) == ("NO", "DERIVED")
    plain = after(content, {"blank": rules})
    assert plain.SOPInstanceUID not in (dcmread(ct).SOPInstanceUID, made.SOPInstanceUID)


@pytest.mark.parametrize(
    "name", ["SC_rgb_small_odd.dcm", "examples_ybr_color.dcm", "ExplVR_BigEnd.dcm", "OBXXXX1A_rle_2frame.dcm"]
)
def test_areas_are_blanked_in_whatever_way_the_pixels_are_kept(name: str) -> None:
    [path] = [file.path for file in real_files() if file.path.name == name]
    made = after(path.read_bytes(), {"blank": [{"areas": [[0, 0, 2, 3]]}]})
    shape = made.pixel_array.reshape(int(made.get("NumberOfFrames", 1)), made.Rows, made.Columns, -1)
    area = shape[:, 0:3, 0:2]
    assert (area.max(axis=(0, 1, 2)) == area.min(axis=(0, 1, 2))).all()


def test_the_version_follows_from_what_is_done() -> None:
    one = [Step("a", Transform.model_validate({"set": {"PatientID": "X", "StudyID": "1"}}))]
    same = [Step("b", Transform.model_validate({"set": {"StudyID": "1", "PatientID": "X"}}))]
    other = [Step("a", Transform.model_validate({"set": {"PatientID": "Y"}}))]
    assert version(one) == version(same) != version(other)


def test_two_hospitals_number_is_two_people_where_the_issuer_is_there_or_set_by_the_transform(ct: Path) -> None:
    content = with_values(ct, PatientID="4711", IssuerOfPatientID="HGM")
    bata, unsaid = ({**RESEARCH, "set": {"IssuerOfPatientID": said}} for said in ("BATA", ""))
    made = [after(content, each).PatientID for each in (RESEARCH, RESEARCH, bata, unsaid)]
    assert (made[0] == made[1], len(set(made))) == (True, 3)


def test_tenants_share_nothing(ct: Path) -> None:
    content = ct.read_bytes()
    assert after(content, RESEARCH).PatientID != after(content, RESEARCH, tenant="other").PatientID


def test_what_the_table_of_the_standard_does_not_list_is_not_let_through_for_that(ct: Path) -> None:
    """UIDs of instances, private elements before and behind the pixels, and texts that hold a removed name."""
    dataset = dcmread(BytesIO(with_values(ct, PatientName="Nsue^Teodora", SequenceName="for NSUE", ScanOptions="FAST")))
    dataset.VolumeFrameOfReferenceUID = "1.2.3.4"
    for group in (0x0029, 0x7FE1):
        dataset.private_block(group, "ACME", create=True).add_new(1, "LO", "kept")
    inner = Dataset()
    inner.ScanOptions = "FAST"
    dataset.private_block(0x0029, "ACME").add_new(2, "SQ", [inner])
    result = BytesIO()
    dataset.save_as(result)
    changed_only = after(result.getvalue(), {"prefix": {"PatientID": "B-"}})
    assert {element.value for element in changed_only if element.tag.is_private and element.VR != "SQ"} == {
        "ACME",
        "kept",
    }
    assert (changed_only[0x7FE11001].value, changed_only.VolumeFrameOfReferenceUID) == ("kept", "1.2.3.4")
    made = after(result.getvalue(), RESEARCH)
    assert [element.tag for element in made if element.tag.is_private] == []
    assert made.VolumeFrameOfReferenceUID not in ("", "1.2.3.4")
    assert (made.SequenceName or "", made.ScanOptions) == ("", "FAST")
