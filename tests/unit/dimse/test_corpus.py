"""What the fuzzers found, or would be sad to miss, and some thousand mutations of it: `make fuzz` runs many more."""

import random
from pathlib import Path

import pytest

from libs.dimse.provider import Ending
from tests.fuzz.case import run
from tests.fuzz.mutation import case

CORPUS = sorted((Path(__file__).parents[2] / "corpus" / "dimse").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_each_of_the_corpus_ends_as_its_name_says(path: Path) -> None:
    assert run(path.read_bytes()) == path.stem.split("_")[0]


def test_mutations_end_in_every_way_that_bytes_can_bring_about() -> None:
    source = random.Random(3)
    corpus = [path.read_bytes() for path in CORPUS]
    endings = {run(case(source, corpus)) for _ in range(3000)}
    assert endings == set(Ending) - {Ending.FAILED, Ending.STOPPED}
