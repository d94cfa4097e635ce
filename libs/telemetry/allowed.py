"""What may stand in a log line or a span: the names that are known, and values of a harmless shape.

Whatever has another name is dropped, so that a value passed by mistake cannot get out. None of these names is for
anything that a field of `contracts` marks as personal; UIDs are pseudonyms and are needed to follow a study.
"""

import re
from datetime import datetime
from enum import Enum
from typing import Any

#: Longest text that is let through; what is longer is not something that we wrote.
LONGEST = 400

#: Components of names in DICOM (PS3.5 section 6.2, PN) and HL7 v2, input repeated by a validator, control characters.
_SUSPECT = re.compile(r"[\^\x00-\x1f\x7f]|input_value=")

# Kept as words in a row: as a list each would take a line of its own.
LOG_KEYS = frozenset(
    """
    event level time logger service trace_id span_id dropped error cause where
    tenant site node destination rule trigger priority transform partner queue type topic version previous revision
    study_uid series_uid sop_instance_uid sop_class_uid transfer_syntax_uid uid subject
    association address host port method route status reason advice code permission role check request_id
    calling_aet called_aet event_id message_id delivery_id delivery item source sequence owner lease
    attempt attempts attempts_left count expected instances items deliveries studies files bytes size free limit
    seconds delay age backlog lag since until at signal pid process profile instance region loop task
    key object_key bucket database sha256 hash exchange routing_key consumer pool kind step state outcome
    duplicate quarantined retried replayed refused skipped
    """.split()  # noqa: SIM905
)

SPAN_KEYS = frozenset(f"kivuko.{name}" for name in LOG_KEYS) | frozenset(
    """
    dicom.status dicom.sop_class_uid dicom.transfer_syntax_uid dicom.calling_aet dicom.called_aet
    dicom.study_instance_uid dicom.sop_instance_uid dicom.message_id
    messaging.system messaging.operation messaging.operation.name messaging.operation.type messaging.message.id
    messaging.message_id messaging.message.conversation_id messaging.conversation_id messaging.destination.name
    messaging.destination_publish.name messaging.batch.message_count messaging.message.payload_size_bytes
    messaging.message_payload_size_bytes messaging.rabbitmq.destination.routing_key
    messaging.rabbitmq.message.delivery_tag
    http.request.method http.response.status_code http.route url.scheme url.template
    server.address server.port network.peer.address network.peer.port
    db.system db.system.name error.type exception.type
    """.split()  # noqa: SIM905
)

#: Names of spans, which are written in the code: a few words, or a verb and a route or a queue.
_NAME = re.compile(r"(?=.{1,250}$)[A-Za-z][\w./{}-]*( [\w./{}-]+){0,4}", re.ASCII)


def clean(value: Any) -> Any:
    """Give a value of a harmless shape: a scalar, or a list of scalars; for anything else its type's name."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value if len(value) <= LONGEST and _SUSPECT.search(value) is None else f"[{len(value)} withheld]"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return clean(value.value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(each) for each in value]
    return f"[{type(value).__name__}]"


def clean_name(name: str) -> str:
    """Give the name of a span, or `span` for one that nobody wrote in the code."""
    return name if _NAME.fullmatch(name) else "span"
