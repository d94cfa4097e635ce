"""The figures that rules measure."""

from libs.telemetry import metric

DECISIONS = metric.counter(
    "kivuko_rules_decisions_total", "Decisions by whether any rule matched.", ["trigger", "outcome"]
)
MATCHES = metric.counter("kivuko_rules_matches_total", "Decisions in which a rule matched.", ["rule"])
PROBLEMS = metric.counter(
    "kivuko_rules_problems_total", "Decisions in which something could not be decided.", ["trigger"]
)
REQUESTED = metric.counter("kivuko_rules_requested_instances_total", "Instances requested.", ["destination"])
WAITING = metric.gauge(
    "kivuko_rules_waiting_studies", "Studies that can't be decided yet, by what they wait for.", ["reason"]
)
