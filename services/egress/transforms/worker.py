"""A transform worker: a process of its own that takes one job after the other from its standard input.

`python -m services.egress.transforms.worker MEMORY` has so many bytes of memory at most (setrlimit), writes no core
file, and ends when its standard input does. What a hostile file does to it, it does to nobody else.
"""

import logging
import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from pydicom import config

from libs.dicom.transcode import NotTranscodableError
from services.egress.transforms import instance
from services.egress.transforms.changes import changes
from services.egress.transforms.engine import Scratch, keys_of, run
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.job import Change, Done, Job, answered, read_job, refused


def main(arguments: list[str]) -> None:
    """Do jobs until there are no more."""
    memory = int(arguments[0])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Standard output is for answers alone, and nothing else may say what is in a dataset.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    quiet()
    answers.write(b'{"ready": true}\n')
    for line in sys.stdin.buffer:
        answers.write(answer(read_job(line)))


def quiet() -> None:
    """Have pydicom take values as they are, and say nothing of them."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE


def answer(job: Job) -> bytes:
    """Do a job; what goes wrong is told in plain words, never with what a library said of a value."""
    try:
        return answered(do(job))
    except (UntransformableError, NotTranscodableError) as error:
        return refused("unfit", str(error))
    except MemoryError:
        return refused("unfit", "it needs more memory than a transform may have (KIVUKO_EGRESS_TRANSFORM_MEMORY)")
    except OSError as error:
        return refused("room", os.strerror(error.errno) if error.errno else type(error).__name__)
    except Exception as error:  # noqa: BLE001 - whatever a damaged dataset does to the libraries, people are told
        return refused("unfit", f"its dataset can't be changed ({type(error).__name__}): it may be damaged")


def do(job: Job) -> Done:
    """Transform a file. Raises as `services.egress.transforms.engine.run`."""
    folder = Path(job.result).parent
    with open(job.source, "rb") as source, open(job.result, "x+b") as result:  # noqa: PTH123 (paths as they came)
        keys = keys_of(job.secrets, job.tenant)
        transformed = run(source, result, job.steps, keys, job.at, scratch_in(folder))
        told: tuple[Change, ...] = ()
        if job.explain:
            source.seek(0)
            result.seek(0)
            told = _explained(source, result, scratch_in(folder))
    return Done(transformed, told)


def scratch_in(folder: Path) -> Scratch:
    """Give what makes files in a folder that are gone when they are closed."""
    return cast("Callable[[], BinaryIO]", lambda: tempfile.TemporaryFile(dir=folder))


def _explained(source: BinaryIO, result: BinaryIO, scratch: Scratch) -> tuple[Change, ...]:
    with scratch() as one, scratch() as two:
        before, after = instance.read(source, one), instance.read(result, two)
        found = list(changes(before.header, after.header)) + list(changes(before.tail, after.tail))
        if before.transfer_syntax_uid != after.transfer_syntax_uid:
            found.insert(
                0, Change("(0002,0010)", "TransferSyntaxUID", before.transfer_syntax_uid, after.transfer_syntax_uid)
            )
        return tuple(found)


if __name__ == "__main__":
    main(sys.argv[1:])
