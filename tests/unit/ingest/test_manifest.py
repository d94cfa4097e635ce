import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.instances import StoredInstance
from contracts.manifest import Manifest, set_hash
from services.ingest.assembly import study_attributes
from services.ingest.manifest import Draft, contents, difference

pytestmark = pytest.mark.unit
versions = st.dictionaries(st.integers(1, 9).map(lambda n: f"1.2.{n}"), st.sampled_from(["a" * 64, "b" * 64]))


def instance(uid: str, digest: str, **attributes: Any) -> StoredInstance:
    return StoredInstance.model_validate(
        {
            "sop_instance_uid": uid,
            "sop_class_uid": "1.3",
            "series_instance_uid": "1.4",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "content_hash": digest,
            "object_key": f"k/{uid}",
            "size": 1,
            "received_at": "2026-01-01T00:00:00Z",
            "attributes": attributes,
        }
    )


def written(version: dict[str, str], before: dict[str, str]) -> tuple[bytes, Draft]:
    with Draft("default", "1.9", 2) as draft:
        for uid, digest in sorted(version.items()):
            # Lines and quotes in a value are no lines of the file.
            draft.add([instance(uid, digest, StudyDescription='Head\n{"sop_instance_uid":"Ä"', Modality="CT")])
        draft.close(before)
        return draft.file().read(), draft


@given(versions, versions)
def test_a_manifest_is_one_of_its_contract(version: dict[str, str], before: dict[str, str]) -> None:
    data, draft = written(version, before)
    manifest = Manifest.model_validate_json(data)
    assert {each.sop_instance_uid: each.content_hash for each in manifest.instances} == version
    assert manifest.content_hash == set_hash(version.items()) == draft.content_hash
    assert manifest.attributes == study_attributes(manifest.instances)
    assert set(manifest.added) == version.keys() - before.keys()
    assert set(manifest.replaced) == {uid for uid in version if before.get(uid, version[uid]) != version[uid]}
    assert (draft.count, draft.size, draft.digest) == (len(version), len(data), hashlib.sha256(data).hexdigest())


@given(versions)
def test_what_a_manifest_names_is_read_back(version: dict[str, str]) -> None:
    data, _ = written(version, {})
    assert contents(io.BytesIO(data)) == version
    # As another program, or the release before, may write it.
    assert contents(io.BytesIO(json.dumps(json.loads(data)).encode())) == version


@given(versions, versions)
def test_a_difference_leads_from_one_version_to_the_next(before: dict[str, str], now: dict[str, str]) -> None:
    found = difference(now, before)
    changed = {uid: now[uid] for uid in (*found.added, *found.replaced)}
    assert {uid: digest for uid, digest in (before | changed).items() if uid in now} == now
    assert len(found) == len(changed)


def test_what_is_no_manifest_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        contents(io.BytesIO(b"no manifest"))
