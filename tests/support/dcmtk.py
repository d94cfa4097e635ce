"""DICOM peers that nobody here wrote: the programs of dcmtk."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom.filereader import read_file_meta_info

from tests.support.port import free_port
from tests.support.process import Program, answers, program

#: Without it dcmtk waits 40 ms for the peer's acknowledgement at each message.
ENVIRONMENT = {"TCP_NODELAY": "1"}


class StoreScp:
    """dcmtk's storescp: accepts every SOP class and transfer syntax, and writes datasets as it received them."""

    def __init__(
        self, folder: Path, *, aet: str = "STORESCP", flags: Sequence[str] = (), port: int | None = None
    ) -> None:
        self.folder = folder / "received"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port is None else port
        self.aet = aet
        command = [
            program("storescp", "dcmtk"), "-v", "--fork", "-dhl", "-aet", aet, "-od", str(self.folder),
            "+B", "+xa", "-pm", *flags, str(self.port),
        ]  # fmt: skip
        self._server = Program(command, folder, name="storescp", env=ENVIRONMENT)
        self.log = self._server.log

    def start(self) -> None:
        """Start it; return when it listens."""
        self._server.start(lambda: answers(self.port))

    def stop(self) -> None:
        """Kill it with the associations that it has: the node is down."""
        self._server.kill()

    def files(self) -> list[Path]:
        """List what it received, one Part 10 file an instance, sorted by name (modality and SOP Instance UID)."""
        return sorted(each for each in self.folder.iterdir() if each.is_file())


def storescu(
    port: int, paths: Sequence[Path], *, called: str = "KIVUKO", calling: str = "STORESCU", flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Send files with dcmtk's storescu, each in its own transfer syntax, over one association.

    storescu parses and writes each dataset again, so what it sends can differ in bytes (not in elements) from its file:
    to compare bytes, send the same files straight to a `StoreScp` as well.

    Returns
    -------
    subprocess.CompletedProcess
        Exit status and output, whether it succeeded or not; the caller decides what it expects.
    """
    with TemporaryDirectory(prefix="storescu-") as folder:
        configuration = Path(folder, "storescu.cfg")
        configuration.write_text(_proposal(paths))
        command = [
            program("storescu", "dcmtk"), "-v", "-xf", str(configuration), "Files", "-aec", called, "-aet", calling,
            *flags, "127.0.0.1", str(port), *(str(path) for path in paths),
        ]  # fmt: skip
        return _run(command)


def _proposal(paths: Sequence[Path]) -> str:
    """Propose one context for each pair of SOP class and transfer syntax, because the profiles of dcmtk lack many."""
    metas = [read_file_meta_info(path) for path in paths]
    pairs = sorted({(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)) for meta in metas})
    syntaxes = sorted({syntax for _, syntax in pairs})
    return "\n".join(
        [
            "[[TransferSyntaxes]]",
            *(f"[{_label(syntax)}]\nTransferSyntax1 = {syntax}" for syntax in syntaxes),
            "[[PresentationContexts]]\n[Contexts]",
            *(f"PresentationContext{n} = {sop}\\{_label(syntax)}" for n, (sop, syntax) in enumerate(pairs, 1)),
            "[[Profiles]]\n[Files]\nPresentationContexts = Contexts\n",
        ]
    )


def _label(transfer_syntax: str) -> str:
    return "TS" + transfer_syntax.replace(".", "x")


def echoscu(port: int, *, called: str = "KIVUKO", calling: str = "ECHOSCU") -> subprocess.CompletedProcess[str]:
    """Send a C-ECHO with dcmtk's echoscu."""
    return _run([program("echoscu", "dcmtk"), "-v", "-aec", called, "-aet", calling, "127.0.0.1", str(port)])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
