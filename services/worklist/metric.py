"""The figures that worklist measures."""

from libs.telemetry import metric

ASSOCIATIONS = metric.counter("kivuko_worklist_associations_total", "Associations by how they ended.", ["outcome"])
OPEN = metric.gauge("kivuko_worklist_associations_open", "Associations that are open.")
HANDSHAKES = metric.counter("kivuko_worklist_tls_failures_total", "TLS handshakes that failed.", ["reason"])
FAILURES = metric.counter("kivuko_worklist_failures_total", "Failures that are tried again, or need people.", ["kind"])
QUERIES = metric.counter("kivuko_worklist_queries_total", "C-FIND requests by how they ended.", ["outcome"])
MATCHES = metric.counter("kivuko_worklist_matches_total", "Items that were returned.")
ITEMS = metric.gauge("kivuko_worklist_items", "Items that modalities can be shown.")
QUERY = metric.histogram(
    "kivuko_worklist_query_seconds",
    "From the whole request received to its last response.",
    buckets=metric.WORKLIST_RESPONSE,
)
LOSSES = metric.counter(
    "kivuko_worklist_replaced_characters_total", "Answers in which text was changed to fit a character set."
)
STEPS = metric.counter(
    "kivuko_worklist_steps_total",
    "Requests about performed procedure steps by what became of them.",
    ["kind", "outcome"],
)
FORWARDS = metric.counter(
    "kivuko_worklist_forwarded_total", "Requests that were forwarded, by what became of them.", ["outcome"]
)
WAITING = metric.gauge(
    "kivuko_worklist_forwards_waiting", "Steps that a node has not got, by why: open, or failed.", ["node", "state"]
)
