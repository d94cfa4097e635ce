"""Real images go to each lossless transfer syntax and back, and dcmtk and GDCM read the same pixels as we do."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import UID

from libs.dicom import codec, syntax
from libs.dicom.transcode import NotTranscodableError, Transcoded, transcode
from tests.support import pixels

pytestmark = pytest.mark.unit

LOSSLESS = {"rle": syntax.RLE, "jpeg-ls": syntax.JPEG_LS, "jpeg2000": syntax.JPEG_2000_LOSSLESS}
#: What is given in none of them, and why.
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": ("damaged", "has another size than its header says"),
    "MR_truncated.dcm": ("damaged", "ends inside"),
    "badVR.dcm": ("damaged", "is no number"),
    "liver.dcm": ("unsuited", "one bit each"),
    "liver_1frame.dcm": ("unsuited", "one bit each"),
    "liver_expb.dcm": ("unsuited", "one bit each"),
    "liver_expb_1frame.dcm": ("unsuited", "one bit each"),
    "nested_priv_SQ.dcm": ("damaged", "no Photometric Interpretation"),
    # Their writer swapped four bytes at a time; dcmtk, by the Standard, swaps two.
    "rtdose_expb.dcm": ("damaged", "wider than 16 bits"),
    "rtdose_expb_1frame.dcm": ("damaged", "wider than 16 bits"),
}
#: What a codec does not take, by the reason that is given.
TOO_WIDE = ("holds 2 to 16 bits", "up to 24 bits")
TOO_SMALL = ("32 x 32 pixels", "buffer is too small")
#: Where a peer gives up, and on what transfer syntax.
PEER_FAILS = {
    # GDCM 3.0 writes no file of several frames in colours of 16 bits, whatever they were compressed with.
    **dict.fromkeys(
        ("SC_rgb_16bit_2frame.dcm", "SC_rgb_expb_16bit_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm"),
        syntax.JPEG_2000_LOSSLESS,
    ),
}


def names() -> list[str]:
    return sorted(pixels.files())


def given(path: Path, target: str, to: Path, ratio: float | None = None) -> Transcoded:
    with path.open("rb") as source, to.open("w+b") as result:
        return transcode(source, result, target, ratio=ratio)


def same(path: Path, other: Path) -> bool:
    """Tell whether two uncompressed files hold the same values."""
    ours, theirs = pixels.uncompressed_values(path), pixels.uncompressed_values(other)
    return ours.shape == theirs.shape and not ((ours ^ theirs) & pixels.value_bits(path)).any()


def may_be_refused(path: Path, error: NotTranscodableError) -> bool:
    header = dcmread(path, stop_before_pixels=True)
    wide = any(each in str(error) for each in TOO_WIDE) and header.BitsStored > 16
    small = any(each in str(error) for each in TOO_SMALL) and min(header.Rows, header.Columns) < 32
    return error.why == "unsuited" and (wide or small)


@pytest.mark.parametrize("name", [name for name in names() if name not in REFUSED])
def test_goes_to_each_lossless_target_and_back(name: str, tmp_path: Path) -> None:
    path = pixels.files()[name]
    plain = tmp_path / "plain.dcm"
    given(path, syntax.EXPLICIT, plain)
    reached = []
    for word, target in LOSSLESS.items():
        packed, back = tmp_path / f"{word}.dcm", tmp_path / f"{word}-back.dcm"
        try:
            told = given(path, target, packed)
        except NotTranscodableError as error:
            if not may_be_refused(path, error):
                raise
            continue
        reached.append(target)
        assert told.transfer_syntax_uid == pixels.transfer_syntax(packed) == target
        assert not told.lossy
        if pixels.transfer_syntax(path) != target:
            assert told.frames == int(dcmread(path, stop_before_pixels=True).get("NumberOfFrames") or 1)
        given(packed, syntax.EXPLICIT, back)
        assert same(plain, back), word
        if PEER_FAILS.get(name) == target:
            with pytest.raises(subprocess.CalledProcessError):
                pixels.peer_decoded(packed, tmp_path)
        else:
            assert same(plain, pixels.peer_decoded(packed, tmp_path)), word
    assert syntax.RLE in reached


@pytest.mark.parametrize("name", [name for name in names() if name not in REFUSED])
def test_what_is_decoded_is_what_others_decode(name: str, tmp_path: Path) -> None:
    path = pixels.files()[name]
    plain = tmp_path / "plain.dcm"
    told = given(path, syntax.EXPLICIT, plain)
    source = pixels.transfer_syntax(path)
    if source in syntax.NATIVE:
        assert same(plain, path)
        return
    assert told.frames
    if source in syntax.JPEG_LOSSY:
        assert dcmread(plain).LossyImageCompression == "01"
    else:
        assert same(plain, pixels.peer_decoded(path, tmp_path))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refuses_with_the_reason(name: str, tmp_path: Path) -> None:
    why, words = REFUSED[name]
    with pytest.raises(NotTranscodableError, match=words) as caught:
        given(pixels.files()[name], syntax.RLE, tmp_path / "packed.dcm")
    assert caught.value.why == why


def test_every_transfer_syntax_of_the_set_is_among_them() -> None:
    accepted = {pixels.transfer_syntax(path) for name, path in pixels.files().items() if name not in REFUSED}
    assert {UID(each).name for each in accepted} == {
        UID(each).name
        for each in (
            *(syntax.EXPLICIT, syntax.IMPLICIT, syntax.BIG_ENDIAN, syntax.DEFLATED, syntax.RLE),
            *(syntax.JPEG_LS, syntax.JPEG_LS_NEAR, syntax.JPEG_2000_LOSSLESS, syntax.JPEG_2000),
            *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"),
        )
    }


def test_the_rest_of_the_header_stays(tmp_path: Path) -> None:
    path = pixels.files()["MR-SIEMENS-DICOM-WithOverlays.dcm"]
    given(path, syntax.JPEG_LS, tmp_path / "packed.dcm")
    before, after = dcmread(path), dcmread(tmp_path / "packed.dcm")
    for dataset in (before, after):
        del dataset.PixelData
    assert before == after


def test_two_decoders_are_asked_where_there_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object) -> NDArray[np.generic]:
        frame = real(*arguments)  # type: ignore[arg-type]  # as it was called
        assert frame is not None
        return frame ^ 1

    real = codec.decode_again
    monkeypatch.setattr(codec, "decode_again", wrong)
    for name in ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"):
        with pytest.raises(NotTranscodableError) as caught:
            given(pixels.files()[name], syntax.JPEG_LS if name == "MR_small.dcm" else syntax.EXPLICIT, tmp_path / name)
        assert caught.value.why == "different"


def test_gives_the_same_bytes_each_time() -> None:
    path = pixels.files()["emri_small.dcm"]
    results = []
    for _ in range(2):
        with path.open("rb") as source:
            result = io.BytesIO()
            transcode(source, result, syntax.JPEG_2000, ratio=10)
            results.append(result.getvalue())
    assert results[0] == results[1]
