"""What the folder has asked of the kernel by the time that it returns."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

STORE = """
import os
import sys
from pathlib import Path
from libs.storage.folder import FolderStore
store = FolderStore(Path(sys.argv[1]))
(Path(sys.argv[1]) / "spool").write_bytes(b"2")
os.write(1, b"put\\n")
store.put("new/folder/a", b"1", if_absent=sys.argv[2] == "absent")
os.write(1, b"adopt\\n")
store.adopt("new/folder/b", Path(sys.argv[1]) / "spool", if_absent=sys.argv[2] == "absent")
os.write(1, b"again\\n")
store.put("new/folder/a", b"1", if_absent=True)
os.write(1, b"keep\\n")
spool = Path(sys.argv[1]) / "more"
spool.write_bytes(b"3")
store.keep({"new/one/a": spool, "new/one/b": spool, "new/two/c": spool})
os.write(1, b"done\\n")
"""


@pytest.mark.parametrize("mode", ["absent", "replace"])
def test_file_and_entries_are_synced_before_it_returns(tmp_path: Path, mode: str) -> None:
    root = tmp_path.resolve() / "objects"
    traced = tmp_path / "trace"
    wanted = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,mkdir,mkdirat,write"
    command = ["strace", "-f", "-y", "-e", wanted, "-o", str(traced), sys.executable, "-c", STORE, str(root), mode]
    subprocess.run(command, check=True, capture_output=True)
    text = traced.read_text()
    put, adopt, again, keep = (
        text[text.index(f'"{start}\\n"') : text.index(f'"{end}\\n"')]
        for start, end in (("put", "adopt"), ("adopt", "again"), ("again", "keep"), ("keep", "done"))
    )
    placed = "link(" if mode == "absent" else "rename("
    # The content, then each new folder's entry in its parent, then the object's own entry.
    assert_order(
        put,
        f"<{root}/.tmp/",
        "fsync(",
        f"<{root}/.tmp/",
        f"<{root}>)",
        f"<{root}/new>)",
        placed,
        f"<{root}/new/folder>)",
    )
    assert_order(adopt, placed, f"<{root}/new/folder>)")
    # Another writer was first, and may not have synced its entry yet.
    assert_order(again, "link(", "EEXIST", f"<{root}/new/folder>)")
    # Every object is in its folder before the folder is synced, once.
    for folder, names in (("one", "ab"), ("two", "c")):
        assert keep.count(f"<{root}/new/{folder}>)") == 1
        for name in names:
            assert_order(keep, f"<{root}/new>)", f'{root}/new/{folder}/{name}")', f"<{root}/new/{folder}>)")


def assert_order(text: str, *parts: str) -> None:
    at = 0
    for part in parts:
        found = text.find(part, at)
        assert found >= 0, (part, text)
        at = found + len(part)
