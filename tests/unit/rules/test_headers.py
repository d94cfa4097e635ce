"""What conditions read of whole headers: inside sequences, and private elements."""

from pathlib import Path
from typing import Any

import pytest

from contracts.fact import Attributes
from libs.dicom.excerpt import pick
from tests.unit.rules.scene import definition, instance, items, make_scene, put_headers, rule, stored

pytestmark = pytest.mark.unit
HEADER: dict[str, Any] = {
    "00080060": {"vr": "CS", "keyword": "Modality", "Value": ["MR"]},
    "00080008": {"vr": "CS", "keyword": "ImageType", "Value": ["ORIGINAL", "PRIMARY"]},
    "00400275": {
        "vr": "SQ",
        "keyword": "RequestAttributesSequence",
        "Value": [
            {"00401001": {"vr": "SH", "keyword": "RequestedProcedureID", "Value": ["P1"]}},
            {"00401001": {"vr": "SH", "keyword": "RequestedProcedureID", "Value": ["P2"]}},
            {},
        ],
    },
    "00290010": {"vr": "LO", "Value": ["OTHER"]},
    "00290011": {"vr": "LO", "Value": ["SIEMENS CSA HEADER "]},
    "00291010": {"vr": "LO", "Value": ["wrong block"]},
    "00291110": {"vr": "LO", "Value": ["right block"]},
}
PRIVATE = "(0029,xx10) SIEMENS CSA HEADER"
PATH = "RequestAttributesSequence.RequestedProcedureID"


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["Modality", "PatientID"], {"Modality": "MR"}),
        (["ImageType"], {"ImageType": ["ORIGINAL", "PRIMARY"]}),
        ([PATH], {PATH: ["P1", "P2"]}),
        (["RequestAttributesSequence.CodeMeaning", "Modality.CodeMeaning"], {}),
        ([PRIVATE], {PRIVATE: "right block"}),
        (["(0029,xx10) NOBODY", "(0031,xx10) OTHER", "(0029,xx11) OTHER"], {}),
    ],
)
def test_what_is_picked(keys: list[str], found: Attributes) -> None:
    assert pick(HEADER, keys) == found


async def test_rules_read_inside_sequences_and_private_elements(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    one = instance(1)
    put_headers(scene.objects, "headers/1.json.gz", {one.sop_instance_uid: HEADER})
    await scene.apply(
        definition(
            rule("p2", "pacs", when='"P2" in instance.RequestAttributesSequence.RequestedProcedureID'),
            rule("private", "telerad", when='instance.private("SIEMENS CSA HEADER", "0029,10") == "right block"'),
        )
    )
    await scene.take(stored(one))
    assert items(await scene.requested()) == {("pacs", one.sop_instance_uid), ("telerad", one.sop_instance_uid)}
    await scene.database.close()
