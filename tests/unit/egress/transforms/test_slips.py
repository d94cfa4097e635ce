"""What could slip through a transform: values where nobody looks for them, pixels that are not where they seem."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from libs.dicom.transcode import transcode
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.remarks import remarks
from tests.support.dicomset import real_files
from tests.support.synthetic import make_ct
from tests.unit.egress.transforms.test_engine import RESEARCH, after, changed, with_values

pytestmark = pytest.mark.unit

BLANK = {"blank": [{"manufacturer": "ACME", "areas": [[0, 0, 4, 4]]}]}
SECRET = b"NSUE^TEODORA 19700101 Bata 1.86N 9.76E"


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ct(tmp_path_factory.mktemp("ct"))


def written(dataset: Dataset) -> bytes:
    result = BytesIO()
    dataset.save_as(result)
    return result.getvalue()


def photo(ct: Path, shape: tuple[int, ...], kind: str, **more: Any) -> Dataset:
    dataset = dcmread(ct)
    dataset.Manufacturer = "ACME"
    dataset.Rows, dataset.Columns = shape[-3:-1] if shape[-1] == 3 else shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if shape[-1] == 3 else 1), kind
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    pixels = np.full(shape, 200, np.uint8).tobytes()
    dataset.PixelData = pixels + bytes(len(pixels) % 2)
    dataset["PixelData"].VR = "OB"
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def test_uids_that_the_table_lists_are_replaced_whatever_they_are_called(ct: Path) -> None:
    item = Dataset()
    item.AnnotationGroupUID = "1.2.3.5"
    made = after(
        with_values(ct, ManufacturerDeviceClassUID="1.2.3.4", AnnotationGroupSequence=Sequence([item])), RESEARCH
    )
    assert made.ManufacturerDeviceClassUID.startswith("2.25.")
    assert made.AnnotationGroupSequence[0].AnnotationGroupUID.startswith("2.25.")
    options = {"deidentify": {"profile": "basic", "options": ["retain-uids"], "project": "tb"}}
    kept = after(with_values(ct, AnnotationGroupSequence=Sequence([item])), options)
    assert kept.AnnotationGroupSequence[0].AnnotationGroupUID == "1.2.3.5"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20240105 NSUE"),
        ("StudyDate", "2024NSUE"),
        ("StudyTime", "NSUE"),
        ("StudyTime", "101500 NSUE"),
        ("AcquisitionDateTime", "20240105101500 NSUE"),
        ("AcquisitionDateTime", "202401051015NSUE+0100"),
    ],
)
def test_what_is_no_date_or_time_is_not_shifted_but_goes(ct: Path, keyword: str, value: str) -> None:
    tag = tag_for_keyword(keyword) or 0
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + dictionary_VR(tag).encode()
    content = with_values(ct, **{keyword: ""})
    assert content.count(head + b"\0\0") == 1
    raw = value.encode() + b" " * (len(value) % 2)
    content = content.replace(head + b"\0\0", head + struct.pack("<H", len(raw)) + raw)
    for option in ("shift-dates", "retain-dates"):
        transform = {"deidentify": {"profile": "basic", "options": [option], "project": "tb"}}
        assert b"NSUE" not in changed(content, transform)[0]


@pytest.mark.parametrize("value", ["20240105", "2024.01.05", "2024", "202401"])
def test_dates_in_the_forms_that_occur_are_shifted(ct: Path, value: str) -> None:
    made = after(with_values(ct, SeriesDate=value, PatientID="P"), RESEARCH).SeriesDate
    assert made.isdigit()
    assert made[:4] < "2024"
    assert len(made) == len(value.replace(".", ""))


def test_who_de_identifies_again_says_so_beside_what_was_done_before(ct: Path) -> None:
    second = {"deidentify": {"profile": "basic", "options": ["retain-dates", "retain-device"], "project": "tb"}}
    made = after(ct.read_bytes(), RESEARCH, second)
    codes = [item.CodeValue for item in made.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113106", "113109"]
    assert made.DeidentificationMethod[0] == "Kivuko"
    assert len(made.DeidentificationMethod) == 5
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    none = {"deidentify": {"profile": "basic", "project": "tb"}}
    assert after(ct.read_bytes(), none, second).LongitudinalTemporalInformationModified == "REMOVED"
    assert after(ct.read_bytes(), second, none).LongitudinalTemporalInformationModified == "REMOVED"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "胸部 山田太郎様"),
        ("Hong^Gildong=洪^吉洞=홍^길동", "홍길동 환자"),
        ("Wang^XiaoDong=王^小东=", "王小东胸片"),
    ],
)
def test_names_of_two_characters_are_found_inside_a_text(ct: Path, name: str, text: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", text
    values = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": name, "AnatomicRegionSequence": Sequence([code])}
    made = after(with_values(ct, **values), RESEARCH)
    assert not made.AnatomicRegionSequence[0].CodeMeaning


def test_a_birth_date_in_a_text_is_found(ct: Path) -> None:
    made = after(with_values(ct, PatientBirthDate="19700131", ScanOptions=["FAST", "DOB 19700131"]), RESEARCH)
    assert "19700131" not in str(made)
    assert made.ScanOptions[0] == "FAST"


def test_what_is_removed_is_taken_out_of_older_notes_wherever_they_have_it(ct: Path) -> None:
    dataset = dcmread(ct)
    was, item = Dataset(), Dataset()
    was.AccessionNumber = "SECRET-1"
    was.private_block(0x29, "ACME", create=True).add_new(1, "LO", "SECRET-2")
    item.ModifiedAttributesSequence = Sequence([was])
    item.ReasonForTheAttributeModification = "COERCE"
    dataset.OriginalAttributesSequence = Sequence([item])
    made = after(written(dataset), {"remove": ["RequestAttributesSequence.AccessionNumber", "(0029,01,ACME)"]})
    assert "SECRET" not in str(made)


def test_colours_that_share_nothing_though_the_header_says_so_are_blanked_where_they_are(ct: Path) -> None:
    full = photo(ct, (16, 16, 3), "YBR_FULL_422")
    made = after(written(full), BLANK)
    pixels = np.frombuffer(made.PixelData, np.uint8).reshape(16, 16, 3)
    assert not pixels[:4, :4, 0].any()
    assert (pixels[4:] == 200).all()
    assert (pixels[:, 4:] == 200).all()


def test_pixels_beyond_those_that_the_header_announces_are_not_let_through(ct: Path) -> None:
    several = photo(ct, (3, 16, 16), "MONOCHROME2", NumberOfFrames="1")
    with pytest.raises(UntransformableError, match="more frames than its header says"):
        changed(written(several), BLANK)
    behind = photo(ct, (20, 16), "MONOCHROME2")
    behind.Rows = 16
    made = after(written(behind), BLANK).PixelData
    assert (len(made), made[16 * 16 :]) == (20 * 16, bytes(4 * 16))
    assert made[8 * 16 : 16 * 16] == b"\xc8" * (8 * 16)


def test_pixels_that_are_there_twice_are_refused(ct: Path) -> None:
    twice = photo(ct, (16, 16), "MONOCHROME2")
    content = written(twice)
    start = content.index(b"\xe0\x7f\x10\x00OB")
    with pytest.raises(UntransformableError, match="more than once"):
        changed(content + content[start:], BLANK)


def test_an_icon_does_not_show_what_was_blanked(ct: Path) -> None:
    icon = photo(ct, (8, 8), "MONOCHROME2")
    small = Dataset()
    for tag in icon.group_dataset(0x28).keys() | {icon["PixelData"].tag}:
        small[tag] = icon[tag]
    image = photo(ct, (16, 16), "MONOCHROME2", IconImageSequence=Sequence([small]))
    assert "IconImageSequence" not in after(written(image), BLANK)
    assert "IconImageSequence" in after(written(image), {"set": {"StudyID": "X"}})


def test_what_has_no_pixels_has_none_to_blank(ct: Path) -> None:
    report = photo(ct, (16, 16), "MONOCHROME2")
    for tag in [*report.group_dataset(0x28).keys(), report["PixelData"].tag]:
        del report[tag]
    made = after(written(report), RESEARCH | BLANK)
    assert "BurnedInAnnotation" not in made
    assert "113101" not in {item.CodeValue for item in made.DeidentificationMethodCodeSequence}


def test_elements_among_the_pixels_that_the_standard_does_not_know_are_refused(ct: Path) -> None:
    content = written(photo(ct, (16, 16), "MONOCHROME2"))
    strange = struct.pack("<HH2sH", 0x7FE0, 0x1234, b"LO", len(SECRET)) + SECRET
    with pytest.raises(UntransformableError, match="7FE0"):
        changed(content + strange, RESEARCH)


def test_what_nobody_can_look_into_goes(ct: Path) -> None:
    encrypted, drawing = Dataset(), Dataset()
    encrypted.EncryptedContentTransferSyntaxUID = "1.2.840.10008.1.2.1"
    encrypted.EncryptedContent = SECRET
    drawing.HPGLDocument = SECRET
    made, _ = changed(
        with_values(ct, EncryptedAttributesSequence=Sequence([encrypted]), HPGLDocumentSequence=Sequence([drawing])),
        RESEARCH,
    )
    assert SECRET not in made


def test_zeros_behind_the_dataset_are_no_damage(ct: Path) -> None:
    content = ct.read_bytes()
    for more in (1, 2, 8, 700):
        assert changed(content + bytes(more), RESEARCH) == changed(content, RESEARCH)


def test_what_was_signed_is_not_said_to_be(ct: Path) -> None:
    parameters = Dataset()
    parameters.MACIDNumber = 1
    content = with_values(ct, MACParametersSequence=Sequence([parameters]))
    assert "MACParametersSequence" not in after(content, {"set": {"StudyID": "X"}})
    assert "MACParametersSequence" in after(content, {"originals": False})


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def compressed(ct: Path, target: str) -> tuple[Dataset, bytes]:
    """Give a compressed image, and its frame."""
    dataset = photo(ct, (64, 64), "MONOCHROME2")
    result = BytesIO()
    transcode(BytesIO(written(dataset)), result, target)
    made = dcmread(BytesIO(result.getvalue()))
    return made, next(generate_frames(made.PixelData, number_of_frames=1))


JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def told(frame: bytes) -> bytes:
    """Give a frame into which programs have written whom it shows."""
    if frame.startswith(b"\xff\xd8"):
        exif = segment(0xE1, b"Exif\0\0" + SECRET) + segment(0xED, b"\xff" * 8 + SECRET) + segment(0xFE, SECRET)
        exif += segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + SECRET)
        icc = segment(0xE2, b"ICC_PROFILE\0\1\1profile")
        scan = frame.index(b"\xff\xda")
        return frame[:2] + exif + icc + frame[2:scan] + segment(0xFE, SECRET) + frame[scan:] + SECRET
    if frame.startswith(b"\0\0\0\x0cjP  "):
        boxes = b"".join(struct.pack(">I4s", 8 + len(SECRET), kind) + SECRET for kind in (b"xml ", b"uuid"))
        return frame[:12] + boxes + frame[12:]
    first = frame.index(b"\xff\x90")
    tile = frame.index(b"\xff\x93", first)
    comment = segment(0x64, b"\0\1" + SECRET)
    (length,) = struct.unpack_from(">I", frame, first + 6)
    head = frame[first : first + 6] + struct.pack(">I", length + len(comment)) + frame[first + 10 : tile]
    return frame[:first] + comment + head + comment + frame[tile:] + SECRET


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("target", [JPEG_LS, JPEG_2000])
def test_what_programs_write_beside_compressed_pixels_goes(ct: Path, target: str, pieces: int) -> None:
    dataset, frame = compressed(ct, target)
    frame = told(frame)
    dataset.PixelData = encapsulate([frame + bytes(len(frame) % 2)], fragments_per_frame=pieces)
    dataset["PixelData"].is_undefined_length = True
    content = written(dataset)
    assert b"Bata" in changed(content, {"set": {"StudyID": "X"}})[0]
    made, _ = changed(content, RESEARCH)
    assert all(word not in made for word in (b"Bata", b"NSUE", b"1.86N"))
    assert len(dcmread(BytesIO(made)).PixelData) == len(dataset.PixelData)
    plain = after(content, RESEARCH, {"transfer-syntax": "explicit-le"})
    assert plain.PixelData == bytes([200]) * (64 * 64)
    if target == JPEG_LS:
        assert b"ICC_PROFILE" in made


def test_a_compressed_frame_that_can_not_be_looked_through_is_not_passed_on(ct: Path) -> None:
    dataset, frame = compressed(ct, JPEG_LS)
    dataset.PixelData = encapsulate([frame[:2] + struct.pack(">BBH", 0xFF, 0xE1, 60_000) + frame[2:]])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(UntransformableError, match="looked through"):
        changed(written(dataset), RESEARCH)


def test_what_stands_in_boxes_around_a_codestream_goes(ct: Path) -> None:
    dataset, frame = compressed(ct, JPEG_2000)
    inside = told(frame)
    boxed = told(b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8 + len(inside), b"jp2c") + inside)
    dataset.PixelData = encapsulate([boxed + bytes(len(boxed) % 2)])
    dataset["PixelData"].is_undefined_length = True
    made, _ = changed(written(dataset), RESEARCH)
    assert b"Bata" not in made
    assert len(dcmread(BytesIO(made)).PixelData) == len(dataset.PixelData)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ", b""]), st.binary(max_size=120))
def test_whatever_a_frame_holds_it_is_looked_through_or_refused(start: bytes, rest: bytes) -> None:
    data = start + rest
    try:
        found = remarks(data)
    except UntransformableError:
        return
    assert all(0 <= begin <= end <= len(data) for begin, end in found)


def test_frames_of_the_whole_set_decode_the_same_without_their_remarks() -> None:
    seen = 0
    for file in real_files():
        dataset = dcmread(file.path, force=True)
        if not dataset.get("PixelData") or not dataset["PixelData"].is_undefined_length:
            continue
        if dataset.get("BurnedInAnnotation") == "YES":
            continue
        try:
            before = after(file.path.read_bytes(), {"transfer-syntax": "explicit-le"})
            made = after(file.path.read_bytes(), RESEARCH, {"transfer-syntax": "explicit-le"})
        except UntransformableError:
            continue
        assert made.PixelData == before.PixelData, file.path.name
        seen += 1
    assert seen > 5


def test_names_are_changed_as_people_read_them_in_any_character_set(ct: Path) -> None:
    values = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Łucja^José", "OperatorsName": ["Müller^A", "B"]}
    content = with_values(ct, **values)
    made = after(
        content,
        {
            "copy": {"OtherPatientNames": "PatientName"},
            "regex": {"OperatorsName": {"find": r"^(.)[^^]*", "replace": r"\1."}},
            "prefix": {"PatientName": "BATA-"},
        },
    )
    assert (str(made.OtherPatientNames), str(made.PatientName)) == ("Łucja^José", "BATA-Łucja^José")
    assert [str(each) for each in made.OperatorsName] == ["M.^A", "B."]
    again = after(content, {"map": {"PatientName": {"values": {"Łucja^José": "X"}, "otherwise": "refuse"}}})
    assert again.PatientName == "X"


def test_names_beyond_ascii_are_found_in_a_text(ct: Path) -> None:
    values = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Łucja^José", "ScanOptions": "FAST"}
    made = after(with_values(ct, **values, SequenceName="for łucja"), RESEARCH)
    assert (made.SequenceName or "", made.ScanOptions) == ("", "FAST")
