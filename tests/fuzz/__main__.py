"""Throws cases at the upper layer: `make fuzz CASES=100000`.

Mutated streams from a seed first, then, where atheris is installed (Linux), a tenth as many that its slower search for
new paths comes up with. A case that fails is written to `build/fuzz`; once it is fixed, it belongs into
`tests/corpus/dimse`. The number of cases of all runs so far is kept in `build/fuzz/cases`.
"""

import argparse
import importlib.util
import random
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

from tests.fuzz.case import run
from tests.fuzz.mutation import case

_FOLDER = Path("build/fuzz")
_CORPUS = Path("tests/corpus/dimse")
#: How many mutations are tried in the time that the search takes for one case, or so.
_SLOWER = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("cases", type=int, nargs="?", default=100_000, help="how many mutations")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations; another one each time if left out")
    arguments = parser.parse_args()
    _FOLDER.mkdir(parents=True, exist_ok=True)
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    print(f"{arguments.cases} mutations, seed {seed}")
    if not _mutate(arguments.cases, seed):
        return 1
    _count(arguments.cases)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (it has wheels for Linux only): mutations only")
        return 0
    return _search(max(1, arguments.cases // _SLOWER))


def _mutate(cases: int, seed: int) -> bool:
    source = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(_CORPUS.iterdir())]
    files, threads = _open_files(), threading.active_count()
    for _ in range(cases):
        data = case(source, corpus)
        try:
            run(data)
        except Exception:
            _FOLDER.joinpath(f"{sha256(data).hexdigest()[:16]}.bin").write_bytes(data)
            print(f"failed: {data.hex()}")
            raise
    leaked = _open_files() != files or threading.active_count() != threads
    if leaked:
        print(f"leaked: {files} files before, {_open_files()} after; threads {threads}, {threading.active_count()}")
    return not leaked


def _search(cases: int) -> int:
    found = _FOLDER / "found"
    found.mkdir(exist_ok=True)
    # Cases of 25 s are hangs: the slowest known takes some milliseconds.
    command = [
        sys.executable, "-m", "tests.fuzz.search", f"-runs={cases}", "-timeout=25", "-rss_limit_mb=1024",
        "-max_len=4096", "-print_final_stats=1", f"-artifact_prefix={_FOLDER}/", str(found), str(_CORPUS),
    ]  # fmt: skip
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        _count(cases)
    return status


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def _count(cases: int) -> None:
    counted = _FOLDER / "cases"
    total = (int(counted.read_text()) if counted.exists() else 0) + cases
    counted.write_text(f"{total}\n")
    print(f"{cases} cases went well, {total} in all runs")


sys.exit(main())
