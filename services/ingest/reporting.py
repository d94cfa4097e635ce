"""One N-EVENT-REPORT request of storage commitment, as its dataset passes. Runs in a receiver. PS3.4 section J.3.3."""

from dataclasses import astuple
from typing import Any

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.command import Command
from libs.dimse.commitment import UnreadableReportError
from services.ingest.channel import Channel


class Reporting:
    """A report on its way to the supervisor; for one thread.

    Parameters
    ----------
    channel
        To the supervisor, who keeps it and says what is answered.
    association
        On which it comes.
    transfer_syntax
        Of its presentation context.
    request
        What is answered.
    """

    def __init__(self, channel: Channel, association: str, transfer_syntax: str, request: Command) -> None:
        self._channel = channel
        self._association = association
        self._syntax = transfer_syntax
        self._request = request
        self._data = bytearray()
        self._length = 0

    def write(self, fragment: memoryview) -> None:
        """Take more of it; what is too long is let pass."""
        self._length += len(fragment)
        if self._length > commitment.LONGEST_REPORT:
            self._data.clear()
        else:
            self._data += fragment

    def finish(self) -> Command:
        """Have it kept, and answer: success only once it is on stable storage."""
        answer = self._channel.ask({"kind": "report", "association": self._association, **self._said()})
        return commands.response(self._request, answer["status"])

    def abandon(self) -> None:
        """Forget it: whoever breaks off comes again."""
        self._data.clear()

    def _said(self) -> dict[str, Any]:
        refused = commitment.objection(self._request)
        if refused is not None:
            return {"objection": [refused, "its command is not that of a report of storage commitment"]}
        if self._length > commitment.LONGEST_REPORT:
            why = f"the report is longer than {commitment.LONGEST_REPORT} bytes"
            return {"objection": [commands.RESOURCE_LIMITATION, why]}
        try:
            report = commitment.decode_report(bytes(self._data), self._syntax)
        except UnreadableReportError as error:
            return {"objection": [commands.INVALID_ARGUMENT_VALUE, str(error)]}
        return {
            "objection": None,
            "transaction_uid": report.transaction_uid,
            "committed": [astuple(each) for each in report.committed],
            "failed": [astuple(each) for each in report.failed],
        }
