"""The figures that ingest measures."""

from libs.telemetry import metric

ASSOCIATIONS = metric.counter("kivuko_ingest_associations_total", "Associations by how they ended.", ["outcome"])
OPEN = metric.gauge("kivuko_ingest_associations_open", "Associations that are open.")
INSTANCES = metric.counter("kivuko_ingest_instances_total", "C-STORE requests by the status answered.", ["status"])
INDEXED = metric.counter("kivuko_ingest_indexed_total", "Instances by what became of them.", ["outcome"])
RETURNED = metric.counter(
    "kivuko_ingest_returned_instances_total",
    "Instances that were there already, of studies that came from another node first.",
    ["node"],
)
BYTES = metric.counter("kivuko_ingest_bytes_total", "Bytes of datasets that were answered with success.")
RESPONSE = metric.histogram(
    "kivuko_ingest_response_seconds",
    "From the whole request received to its response.",
    buckets=metric.INGEST_RESPONSE,
)
SPOOL_DEPTH = metric.gauge("kivuko_ingest_spool_entries", "Entries of the spool that are not indexed.")
SPOOL_AGE = metric.gauge("kivuko_ingest_spool_age_seconds", "How long the oldest of them has waited.")
FAILURES = metric.counter("kivuko_ingest_failures_total", "Failures that are tried again.", ["kind"])
STUDIES = metric.counter("kivuko_ingest_studies_total", "Versions of studies.", ["event"])
HANDSHAKES = metric.counter("kivuko_ingest_tls_failures_total", "TLS handshakes that failed.", ["reason"])
TLS_DAYS = metric.gauge(
    "kivuko_ingest_tls_days_left", "Days until the first file of a kind for DICOM TLS is out of date.", ["kind"]
)
DOUBTS = metric.counter(
    "kivuko_ingest_studies_doubtful_total", "Versions of studies that were declared against a sign.", ["kind"]
)
CONFLICTS = metric.counter(
    "kivuko_ingest_conflicts_total", "Arrivals of other content under a known UID, by what was done.", ["outcome"]
)
FLAGS = metric.counter("kivuko_ingest_flags_total", "Flags raised on studies for people to look at.", ["kind"])
REPORTS = metric.counter(
    "kivuko_ingest_commitment_reports_total", "Reports of storage commitment by the status answered.", ["status"]
)
REPORTED = metric.counter(
    "kivuko_ingest_commitment_instances_total", "Instances in those that were taken, by what was said.", ["outcome"]
)
RESOLVED = metric.counter("kivuko_ingest_resolved_total", "Quarantined objects that people decided on.", ["outcome"])
EXPIRED = metric.counter("kivuko_ingest_studies_expired_total", "Copies of studies that retention has removed.")
EXPIRED_BYTES = metric.counter("kivuko_ingest_expired_bytes_total", "Bytes of the instances of these.")
ROOM_FREE = metric.gauge("kivuko_ingest_room_free_bytes", "Bytes free on the disk of spool or objects.", ["kind"])
ROOM_STATE = metric.gauge("kivuko_ingest_room_state", "0 ample, 1 low, 2 full.", ["kind"])
ROOM_HOURS = metric.gauge(
    "kivuko_ingest_room_hours_left", "Hours until it is full at the rate of the last ones; infinite if none.", ["kind"]
)
