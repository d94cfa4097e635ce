"""De-identified, no file of the whole set of pydicom and pydicom-data holds an identifier that it held before."""

import logging
import os
import warnings
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from pydicom import config, dcmread
from pydicom.data.data_manager import external_data_sources
from pydicom.errors import InvalidDicomError

from contracts.definition import Transform
from services.egress.transforms.engine import Step, keys_of, run
from services.egress.transforms.errors import UntransformableError
from tests.unit.egress.transforms.scanning import identifiers, left_in

pytestmark = pytest.mark.unit

AT = datetime(2026, 11, 20, tzinfo=UTC)
KEYS = keys_of({"study": b"0123456789abcdef0123456789abcdef"}, "default")
#: Larger files have nothing that others have not, but pixels.
LARGEST = 3_000_000


@pytest.fixture(autouse=True)
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.settings, "_reading_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "_writing_validation_mode", config.IGNORE)


def whole_set() -> list[Path]:
    """List every Part 10 file of both packages."""
    folders = [Path(pydicom.data.__file__).parent, Path(external_data_sources()["pydicom-data"].data_path)]
    paths = [Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names]
    small = (path for path in paths if path.stat().st_size <= LARGEST)
    return sorted((path for path in small if path.read_bytes()[128:132] == b"DICM"), key=lambda path: path.name)


def deidentified(content: bytes, options: list[str], **more: Any) -> bytes:
    transform = Transform.model_validate(
        {"deidentify": {"profile": "basic", "options": options, "project": "study"}, **more}
    )
    result = BytesIO()
    run(BytesIO(content), result, [Step("t", transform)], KEYS, AT, BytesIO)
    return result.getvalue()


@pytest.mark.parametrize("options", [[], ["clean-descriptors", "shift-dates"]])
def test_no_identifier_is_left_anywhere(options: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pydicom")
    done, refused, leaks = 0, {}, {}
    for path in whole_set():
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                before = dcmread(BytesIO(content), stop_before_pixels=True)
                if "StudyInstanceUID" not in before:
                    continue  # no instance: ingest would not take it
                made = deidentified(content, options)
                wanted = identifiers(before)
            except UntransformableError as error:
                refused[path.name] = str(error)
                continue
            except InvalidDicomError:
                continue
        after = dcmread(BytesIO(made))
        pixels = after.get("PixelData", b"")
        header = made.replace(pixels, b"") if len(pixels) > 64 else made
        found = left_in(header[132:], wanted)
        if found:
            leaks[path.name] = found
        assert after.PatientIdentityRemoved == "YES"
        done += 1
    assert leaks == {}
    # These are damaged, and are refused for that.
    assert set(refused) == {"MR_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm", "rtplan_truncated.dcm"}
    assert done > 150
