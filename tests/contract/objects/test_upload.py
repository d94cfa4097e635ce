"""Objects that are stored while they are still growing."""

import random
from itertools import pairwise

import pytest
from minio import Minio

from libs.storage.bucket import Bucket
from libs.storage.objects import ObjectStore, StoreUnavailableError, open_store

pytestmark = pytest.mark.contract


def unfinished(url: str) -> list[str]:
    """List the keys of the uploads in parts that are not finished."""
    bucket = Bucket.from_url(url)
    client = Minio(bucket.host, bucket.key, bucket.secret, secure=bucket.secure, region=bucket.region)
    return [each.object_name or "" for each in client._list_multipart_uploads(bucket.name).uploads]


@pytest.mark.parametrize("last", [1, 100_000])
def test_parts_may_come_in_any_order_and_again(store: ObjectStore, last: int) -> None:
    upload = store.begin("t/a")
    if upload is None:
        return  # a folder takes files over
    whole = random.Random(last).randbytes(2 * upload.part + last)
    edges = [0, upload.part, 2 * upload.part, len(whole)]
    parts = [whole[start:end] for start, end in pairwise(edges)]
    upload.put(2, bytes(upload.part))
    upload.put(2, parts[1])
    upload.put(3, parts[2])
    upload.put(1, parts[0])
    assert store.stat("t/a") is None
    upload.finish()
    with store.open("t/a") as file:
        assert file.read() == whole


def test_what_is_discarded_leaves_nothing_and_can_not_be_finished(store: ObjectStore, store_url: str) -> None:
    upload, other = store.begin("t/a"), store.begin("t/a.b")
    store.put("t/a.c", b"another")
    if upload is not None:
        upload.put(1, bytes(upload.part))
        assert sorted(unfinished(store_url)) == ["t/a", "t/a.b"]
    again = open_store(store_url)
    again.discard("t/a")
    again.discard("t/a")
    assert list(store.list("")) == ["t/a.c"]
    if upload is not None and other is not None:
        # What another one may still be about to finish is not touched.
        assert unfinished(store_url) == ["t/a.b"]
        with pytest.raises(StoreUnavailableError):
            upload.finish()
        other.put(1, b"1")
        other.finish()
    store.put("t/a", b"1")
    store.discard("t/a")
    assert store.stat("t/a") is None
    again.close()
