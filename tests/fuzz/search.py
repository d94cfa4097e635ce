"""The search of atheris (libFuzzer) for bytes that take paths not seen yet. Started by `tests.fuzz`."""

import sys

import atheris

# Counters go into the code under test while it is imported, so this has to come before anything imports it.
with atheris.instrument_imports(include=["libs.dimse"]):
    from tests.fuzz.case import run


def one(data: bytes) -> None:
    """Try one case."""
    run(data)


atheris.Setup(sys.argv, one)
atheris.Fuzz()
