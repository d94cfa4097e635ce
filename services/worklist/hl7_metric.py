"""The figures that the HL7 port measures."""

from typing import Final

from libs.telemetry import metric

#: Kinds of messages that are told apart: what senders write must not make labels.
KINDS: Final = frozenset(
    {
        *("ORM^O01", "OMG^O19", "OMI^O23", "SIU^S12", "SIU^S13", "SIU^S14", "SIU^S15"),
        *("ADT^A01", "ADT^A04", "ADT^A05", "ADT^A08", "ADT^A28", "ADT^A31", "ADT^A40", "ADT^A47"),
    }
)
CONNECTIONS = metric.gauge("kivuko_hl7_connections_open", "Connections that are open.")
REFUSED = metric.counter("kivuko_hl7_connections_refused_total", "Connections that were not taken.", ["reason"])
MESSAGES = metric.counter("kivuko_hl7_messages_total", "Messages by kind and answer.", ["kind", "outcome"])
WARNINGS = metric.counter("kivuko_hl7_warnings_total", "Messages of which something was cut or lost.", ["node"])
ODDITIES = metric.counter("kivuko_hl7_framing_total", "What came besides whole frames.", ["kind"])
FAILURES = metric.counter("kivuko_hl7_failures_total", "Messages that a defect kept from being taken.")
SECONDS = metric.histogram(
    "kivuko_hl7_response_seconds",
    "From a whole message to its answer.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
