"""Images that are made up, whole and damaged, in other transfer syntaxes."""

import io
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from libs.dicom import codec, encapsulated, syntax
from libs.dicom.transcode import Bounds, NotTranscodableError, Transcoded, lossy_uid, transcode
from tests.support.pixels import files
from tests.support.process import program

pytestmark = pytest.mark.unit

LOSSLESS = (syntax.RLE, syntax.JPEG_LS, syntax.JPEG_2000_LOSSLESS)
COMPRESSED = (*LOSSLESS, syntax.JPEG_2000)


def image(**attributes: Any) -> Dataset:
    """Make an image of 40 x 33 pixels of 16 bits; the attributes by keyword."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 40, 33, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = np.arange(40 * 33, dtype="<u2").tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if dataset.BitsAllocated <= 8 else "OW"
    return dataset


def part10(dataset: Dataset, transfer_syntax: str = syntax.EXPLICIT) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if transfer_syntax not in syntax.NATIVE and "PixelData" in dataset:
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    written = io.BytesIO()
    dcmwrite(written, dataset, enforce_file_format=True)
    return written.getvalue()


def transcoded(file: bytes, target: str, ratio: float | None = None, bounds: Bounds | None = None) -> bytes:
    return told(file, target, ratio, bounds)[1]


def told(
    file: bytes, target: str, ratio: float | None = None, bounds: Bounds | None = None
) -> tuple[Transcoded, bytes]:
    result = io.BytesIO()
    return transcode(io.BytesIO(file), result, target, ratio=ratio, bounds=bounds), result.getvalue()


def refused(file: bytes, target: str, ratio: float | None = None, bounds: Bounds | None = None) -> NotTranscodableError:
    with pytest.raises(NotTranscodableError) as caught:
        transcoded(file, target, ratio, bounds)
    return caught.value


def read(file: bytes) -> Dataset:
    return dcmread(io.BytesIO(file))


@st.composite
def images(draw: st.DrawFn) -> Dataset:
    """Images of each kind: widths, signs, planes, colours, frames, and cells that hold more than values."""
    allocated = draw(st.sampled_from([8, 16]))
    stored = draw(st.integers(2, allocated))
    high = draw(st.sampled_from([stored - 1, allocated - 1]))
    samples = draw(st.sampled_from([1, 3]))
    signed = draw(st.booleans()) if samples == 1 else False
    rows, columns, frames = draw(st.integers(32, 35)), draw(st.integers(32, 35)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    clean = draw(st.booleans())
    values = rng.integers(0, 1 << (stored if clean else allocated), (frames, rows, columns, samples))
    if clean and signed:
        values -= (values >> (stored - 1)) << stored
    if draw(st.booleans()):
        values[:, : rows // 2] = values[0, 0, 0, 0]
    cells = values.astype(f"<u{allocated // 8}")
    planes = samples == 3 and draw(st.booleans())
    data = (cells.transpose(0, 3, 1, 2) if planes else cells).tobytes()
    return image(
        Rows=rows, Columns=columns, SamplesPerPixel=samples, BitsAllocated=allocated, BitsStored=stored, HighBit=high,
        PixelRepresentation=int(signed), NumberOfFrames=frames, PixelData=data + bytes(len(data) % 2),
        PhotometricInterpretation="MONOCHROME2" if samples == 1 else draw(st.sampled_from(["RGB", "YBR_FULL"])),
        **({"PlanarConfiguration": int(planes)} if samples == 3 else {}),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(images(), st.sampled_from(LOSSLESS), st.sampled_from(sorted(syntax.NATIVE)))
def test_every_cell_comes_back(dataset: Dataset, target: str, source: str) -> None:
    file = part10(dataset)
    if source == syntax.IMPLICIT:
        file = transcoded(file, source)
    packed = transcoded(file, target)
    back = transcoded(packed, syntax.EXPLICIT)
    before, after = pixel_array(io.BytesIO(file), raw=True), pixel_array(io.BytesIO(back), raw=True)
    assert np.array_equal(before, after)
    assert read(back).PhotometricInterpretation == dataset.PhotometricInterpretation
    if target != syntax.JPEG_2000_LOSSLESS or dataset.PhotometricInterpretation != "RGB":
        assert read(packed).PhotometricInterpretation == dataset.PhotometricInterpretation


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(LOSSLESS), st.data())
def test_what_ends_early_is_refused(target: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(1)
    packed = transcoded(part10(image(PixelData=rng.integers(0, 9000, 40 * 33).astype("<u2").tobytes())), target)
    # A file may end before the pixel data, and then has none; some writers leave out the delimiter at the end.
    length = data.draw(st.integers(packed.index(b"\xe0\x7f\x10\x00OB"), len(packed) - 9))
    assert refused(packed[:length], syntax.EXPLICIT).why == "damaged"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(LOSSLESS), st.data())
def test_damaged_bytes_end_in_a_refusal_or_an_image(target: str, data: st.DataObject) -> None:
    packed = bytearray(transcoded(part10(image()), target))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(132, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = transcoded(bytes(packed), syntax.EXPLICIT, bounds=Bounds(frame=1 << 20, image=1 << 22, header=1 << 20))
    except NotTranscodableError:
        return
    assert result


@pytest.mark.parametrize(
    ("changes", "target", "why", "words"),
    [
        (
            {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": bytes(166)},
            syntax.RLE,
            "unsuited",
            "one bit",
        ),
        ({"Rows": None}, syntax.RLE, "damaged", "has no Rows"),
        ({"PixelData": None}, syntax.RLE, "damaged", "no pixels"),
        (
            {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3, "Rows": 20, "PixelData": bytes(2640)},
            syntax.RLE,
            "damaged",
            "share chrominance",
        ),
        ({"NumberOfFrames": 2}, syntax.RLE, "damaged", "fewer pixels"),
        ({"Rows": 20}, syntax.RLE, "damaged", "Number of Frames"),
        ({"Rows": 65535, "Columns": 65535}, syntax.RLE, "too-large", "larger than what is allowed"),
        ({"NumberOfFrames": 2000000000}, syntax.RLE, "too-large", "larger than what is allowed"),
        ({"SamplesPerPixel": 4}, syntax.RLE, "unreadable", "4 samples"),
        ({"BitsStored": 17}, syntax.RLE, "damaged", "contradict"),
        ({"BitsAllocated": 12}, syntax.RLE, "unreadable", "12 bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, syntax.JPEG_2000, "unsuited", "table"),
        ({"BitsStored": 12, "HighBit": 15}, syntax.JPEG_2000, "unsuited", "low bits"),
        ({"BitsStored": 8, "HighBit": 7}, syntax.JPEG_2000, "unsuited", "overlay"),
    ],
)
def test_refuses(changes: dict[str, Any], target: str, why: str, words: str) -> None:
    error = refused(part10(image(**changes)), target, 10 if target == syntax.JPEG_2000 else None)
    assert (error.why, words in str(error)) == (why, True), error


def test_refuses_floating_point_and_video() -> None:
    dataset = image(PixelData=None)
    dataset.FloatPixelData = np.zeros(40 * 33, "<f4").tobytes()
    assert "floating point" in str(refused(part10(dataset), syntax.RLE))
    assert read(transcoded(part10(dataset), syntax.IMPLICIT)).FloatPixelData == dataset.FloatPixelData
    video = image(PixelData=encapsulate([b"\0\0\1\xb3"]))
    error = refused(part10(video, "1.2.840.10008.1.2.4.100"), syntax.EXPLICIT)
    assert (error.why, "MPEG2" in str(error)) == ("unreadable", True)


@pytest.mark.parametrize(
    ("target", "ratio"), [("1.2.3", None), (syntax.JPEG_2000, None), (syntax.RLE, 10), (syntax.JPEG_2000, 1)]
)
def test_a_wrong_order_is_no_matter_of_the_image(target: str, ratio: float | None) -> None:
    with pytest.raises(ValueError, match="transfer syntax"):
        transcoded(part10(image()), target, ratio)


@pytest.mark.parametrize("target", COMPRESSED)
def test_what_has_no_pixels_goes_uncompressed(target: str) -> None:
    dataset = image(PixelData=None, BitsAllocated=None)
    what, result = told(part10(dataset, syntax.IMPLICIT), target, 10 if target == syntax.JPEG_2000 else None)
    assert what == Transcoded(syntax.EXPLICIT, "1.2.3.4", 0, lossy=False)
    assert read(result) == read(part10(dataset))


def lossy_source() -> Dataset:
    y, x = np.mgrid[:128, :128]
    return image(
        Rows=128, Columns=128, BitsStored=12, HighBit=11,
        PixelData=(1000 + 800 * np.sin(x / 9) * np.cos(y / 7)).astype("<u2").tobytes(),
    )  # fmt: skip


def test_a_lossy_image_says_so() -> None:
    dataset = lossy_source()
    dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", "4.5"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.DerivationDescription = "cropped"
    dataset.SmallestImagePixelValue = 200
    what, result = told(part10(dataset), syntax.JPEG_2000, 10)
    after = read(result)
    assert what == Transcoded(syntax.JPEG_2000, lossy_uid("1.2.3.4", 10), 1, lossy=True)
    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID == what.sop_instance_uid != "1.2.3.4"
    assert after.LossyImageCompression == "01"
    assert list(after.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]
    earlier, ratio = after.LossyImageCompressionRatio
    assert earlier == 4.5
    frame = next(generate_frames(after.PixelData, number_of_frames=1))
    assert float(ratio) == pytest.approx(128 * 128 * 2 / len(frame), rel=0.01)
    assert list(after.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert after.DerivationDescription.startswith("cropped; ")
    assert after.DerivationCodeSequence[0].CodeValue == "113040"
    came_from = after.SourceImageSequence[0]
    assert (came_from.ReferencedSOPInstanceUID, came_from.ReferencedSOPClassUID) == ("1.2.3.4", dataset.SOPClassUID)
    assert came_from.PurposeOfReferenceCodeSequence[0].CodeValue == "121320"
    assert "SmallestImagePixelValue" not in after
    plain = transcoded(result, syntax.EXPLICIT)
    before, now = (pixel_array(io.BytesIO(each), raw=True).astype(int) for each in (part10(dataset), plain))
    assert 0 < np.abs(before - now).max() < 100


def test_once_lossy_always_lossy() -> None:
    _, result = told(part10(lossy_source()), syntax.JPEG_2000, 10)
    uid = read(result).SOPInstanceUID
    for target in (syntax.EXPLICIT, syntax.JPEG_LS, syntax.IMPLICIT):
        what, result = told(result, target)
        after = read(result)
        assert (after.LossyImageCompression, after.SOPInstanceUID, what.lossy) == ("01", uid, False)
        assert after.ImageType[0] == "DERIVED"


def test_a_mark_that_is_missing_is_added() -> None:
    _, result = told(part10(lossy_source()), syntax.JPEG_2000, 10)
    unmarked = read(result)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        delattr(unmarked, keyword)
    after = read(transcoded(part10(unmarked, syntax.JPEG_2000), syntax.JPEG_LS))
    assert (after.LossyImageCompression, after.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert float(after.LossyImageCompressionRatio) > 9


def test_what_is_small_enough_is_not_lossy_once_more() -> None:
    _, result = told(part10(lossy_source()), syntax.JPEG_2000, 10)
    again, same = told(result, syntax.JPEG_2000, 9)
    assert (same, again.lossy, again.frames) == (result, False, 0)
    further, smaller = told(result, syntax.JPEG_2000, 60)
    after = read(smaller)
    assert further.sop_instance_uid == lossy_uid(str(read(result).SOPInstanceUID), 60) == after.SOPInstanceUID
    assert list(after.LossyImageCompressionMethod) == ["ISO_15444_1", "ISO_15444_1"]


def test_losses_that_the_header_kept_silent_about_come_first() -> None:
    unmarked = read(transcoded(part10(lossy_source()), syntax.JPEG_2000, 10))
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        delattr(unmarked, keyword)
    first, second = read(
        transcoded(part10(unmarked, syntax.JPEG_2000), syntax.JPEG_2000, 60)
    ).LossyImageCompressionRatio
    assert 9 < first < second


def test_frames_of_functional_groups_are_derived_too() -> None:
    dataset = lossy_source()
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]
    group = Dataset()
    group.CTImageFrameTypeSequence = [kind]
    dataset.SharedFunctionalGroupsSequence = [group]
    after = read(transcoded(part10(dataset), syntax.JPEG_2000, 10))
    said = after.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType
    assert [each.strip() for each in said] == ["DERIVED", "PRIMARY", "AXIAL", "NONE"]


def multi_frame(count: int) -> Dataset:
    cells = np.random.default_rng(2).integers(0, 4000, (count, 40, 33)).astype("<u2")
    return image(NumberOfFrames=count, PixelData=cells.tobytes())


@pytest.mark.parametrize("table", ["right", "none", "wrong"])
@pytest.mark.parametrize("target", [syntax.JPEG_LS, syntax.JPEG_2000_LOSSLESS])
def test_frames_of_several_fragments(target: str, table: str) -> None:
    file = part10(multi_frame(3))
    packed = read(transcoded(file, target))
    frames = list(generate_frames(packed.PixelData, number_of_frames=3))
    packed.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=table != "none")
    if table == "wrong":
        packed.PixelData = packed.PixelData[:12] + b"\x07" + packed.PixelData[13:]
    assert (
        pixel_array(io.BytesIO(transcoded(part10(packed, target), syntax.EXPLICIT)), raw=True).tobytes()
        == read(file).PixelData
    )


@pytest.mark.parametrize(("said", "there"), [(2, 3), (4, 3), (None, 3)])
@pytest.mark.parametrize("target", LOSSLESS)
def test_another_number_of_frames_than_announced(target: str, said: int | None, there: int) -> None:
    packed = read(transcoded(part10(multi_frame(there)), target))
    packed.NumberOfFrames = said
    error = refused(part10(packed, target), syntax.EXPLICIT)
    assert (error.why, "frames" in str(error)) == ("damaged", True)


@pytest.mark.parametrize("target", LOSSLESS)
def test_offset_tables_lead_to_the_frames(target: str) -> None:
    file = part10(multi_frame(5))
    whole = read(file).PixelData
    with patch.object(encapsulated, "REACH", 1000):
        extended = read(transcoded(file, target))
    basic = read(transcoded(file, target))
    assert "ExtendedOffsetTable" not in basic
    offsets = (extended.ExtendedOffsetTable, extended.ExtendedOffsetTableLengths)
    ways = {
        "basic": (basic, list(generate_frames(basic.PixelData, number_of_frames=5))),
        "extended": (extended, list(generate_frames(extended.PixelData, number_of_frames=5, extended_offsets=offsets))),
    }
    for way, (dataset, frames) in ways.items():
        assert len(frames) == 5
        again = part10(dataset, target)
        assert read(transcoded(again, syntax.EXPLICIT)).PixelData == whole, way
        assert "ExtendedOffsetTable" not in read(transcoded(again, syntax.EXPLICIT))


def test_what_stands_behind_the_pixels_stays_but_signatures() -> None:
    dataset = image()
    dataset.add_new(0x7FE10010, "LO", "SOMEBODY")
    dataset.add_new(0x7FE11001, "OB", b"\1\2")
    dataset.add_new(0xFFFAFFFA, "SQ", [])
    dataset.add_new(0xFFFCFFFC, "OB", b"\0\0")
    for target in (syntax.RLE, syntax.JPEG_2000_LOSSLESS):
        after = read(transcoded(part10(dataset), target))
        assert after[0x7FE11001].value == b"\1\2"
        assert 0xFFFAFFFA not in after


def test_an_icon_that_was_compressed_is_not_any_more() -> None:
    icon = read(transcoded(part10(image()), syntax.JPEG_LS))
    del icon.file_meta
    dataset = read(transcoded(part10(image()), syntax.JPEG_LS))
    dataset.IconImageSequence = [icon]
    file = part10(dataset, syntax.JPEG_LS)
    for target in (syntax.EXPLICIT, syntax.RLE):
        after = read(transcoded(file, target)).IconImageSequence[0]
        assert not after["PixelData"].is_undefined_length
        assert after.PixelData == image().PixelData


def test_an_encoder_that_errs_is_found_out() -> None:
    def wrong(target: str, frame: codec.Frame, *others: Any) -> bytes:
        return real(target, frame ^ 1, *others)

    real = codec.encode
    for target in LOSSLESS:
        with patch.object(codec, "encode", wrong):
            assert refused(part10(image()), target).why == "different"


def test_does_without_a_decoder_that_may_not_be_installed() -> None:
    with patch.dict("sys.modules", {"libjpeg.utils": None}):
        packed = transcoded(part10(image()), syntax.JPEG_LS)
        assert read(transcoded(packed, syntax.EXPLICIT)).PixelData == image().PixelData
        jpeg = next(each for name, each in files().items() if name == "JPEG-LL.dcm")
        error = refused(jpeg.read_bytes(), syntax.RLE)
    assert (error.why, "no decoder for JPEG is installed" in str(error)) == ("unreadable", True)


def test_half_of_the_chrominance_becomes_whole() -> None:
    half = np.tile(np.array([10, 20, 100, 200], np.uint8), 40 * 16).tobytes()
    dataset = image(
        Columns=32, SamplesPerPixel=3, PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PhotometricInterpretation="YBR_FULL_422", PixelData=half,
    )  # fmt: skip
    after = read(transcoded(transcoded(part10(dataset), syntax.JPEG_LS), syntax.EXPLICIT))
    assert (after.PhotometricInterpretation, after.PixelData[:6]) == ("YBR_FULL", bytes([10, 100, 200, 20, 100, 200]))


def test_what_a_codestream_is_counts_and_not_its_transfer_syntax() -> None:
    packed = read(transcoded(part10(image()), syntax.JPEG_2000_LOSSLESS))
    after = read(transcoded(part10(packed, "1.2.840.10008.1.2.4.201"), syntax.EXPLICIT))
    assert after.PixelData == image().PixelData


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        cells = np.zeros((count, 256, 256), "<u2")
        cells[:, ::3] = 77
        source, result = tmp_path / f"{count}.dcm", tmp_path / "result.dcm"
        source.write_bytes(part10(image(Rows=256, Columns=256, NumberOfFrames=count, PixelData=cells.tobytes())))
        del cells
        most = 0
        for target in (syntax.RLE, syntax.EXPLICIT):
            tracemalloc.start()
            with source.open("rb") as file, result.open("w+b") as written:
                transcode(file, written, target)
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            source.write_bytes(result.read_bytes())
        return most

    assert peak(40) < peak(4) + (1 << 17)


def test_dcmtk_finds_nothing_wrong_with_the_files(tmp_path: Path) -> None:
    for target in (*LOSSLESS, syntax.EXPLICIT):
        path = tmp_path / f"{target}.dcm"
        path.write_bytes(transcoded(part10(multi_frame(3)), target))
        dump = subprocess.run([program("dcmdump", "dcmtk"), str(path)], capture_output=True, text=True, check=True)
        assert not dump.stderr


def packed(target: str, header: dict[str, Any], **attributes: Any) -> bytes:
    """Compress an image, and have its header say something else of it then."""
    dataset = read(transcoded(part10(image(**attributes)), target))
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    return part10(dataset, target)


@pytest.mark.parametrize("target", [syntax.JPEG_LS, syntax.JPEG_2000_LOSSLESS])
@pytest.mark.parametrize(
    ("header", "words"),
    [({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "more bits"), ({"Rows": 39}, "another size")],
)
def test_a_frame_that_is_not_what_its_header_says_is_refused(target: str, header: dict[str, Any], words: str) -> None:
    error = refused(packed(target, header), syntax.EXPLICIT)
    assert (error.why, words in str(error)) == ("damaged", True), error


@pytest.mark.parametrize("target", [syntax.JPEG_LS, syntax.JPEG_2000_LOSSLESS])
def test_a_frame_without_its_end_is_refused_though_a_decoder_fills_it_up(target: str) -> None:
    noise = np.random.default_rng(1).integers(0, 9000, 40 * 33).astype("<u2").tobytes()
    dataset = read(transcoded(part10(image(PixelData=noise)), target))
    [frame] = generate_frames(dataset.PixelData)
    dataset.PixelData = encapsulate([frame[: len(frame) * 3 // 4]])
    error = refused(part10(dataset, target), syntax.EXPLICIT)
    assert (error.why, "ends before its end is marked" in str(error)) == ("damaged", True), error


def test_signs_that_the_header_does_not_want_stay_within_the_value() -> None:
    below = np.full(40 * 33, -1, "<i2").tobytes()
    signed = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "PixelData": below}
    file = packed(syntax.JPEG_2000_LOSSLESS, {"PixelRepresentation": 0}, **signed)
    cells = np.frombuffer(read(transcoded(file, syntax.EXPLICIT)).PixelData, "<u2")
    assert set(cells) == {0x0FFF}


def test_a_loss_that_was_kept_silent_is_said_even_of_what_is_small_enough() -> None:
    dataset = read(transcoded(part10(image()), syntax.JPEG_2000, 20))
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        delattr(dataset, keyword)
    again = read(transcoded(part10(dataset, syntax.JPEG_2000), syntax.JPEG_2000, 2))
    assert again.LossyImageCompression == "01"


def test_uncompressed_pixels_are_of_even_length_and_below_what_their_length_can_say() -> None:
    pixels = {"Rows": 35, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(35 * 33 + 1)}
    file = transcoded(part10(image(**pixels)), syntax.RLE)
    assert len(read(transcoded(file, syntax.EXPLICIT)).PixelData) == 35 * 33 + 1
    with patch("libs.dicom.transcode._LONGEST_NATIVE", 35 * 33 - 1):
        error = refused(file, syntax.EXPLICIT)
    assert (error.why, "4 GiB" in str(error)) == ("unsuited", True)
