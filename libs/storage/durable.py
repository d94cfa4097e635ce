"""Making files and directory entries survive a power loss."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Put the entries of a folder on stable storage."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, for this user only, and put each new entry on stable storage.

    A folder that is there keeps its mode, and only its own entry is synced.
    """
    folder = folder.absolute()
    missing = [folder]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_folder(each.parent)
