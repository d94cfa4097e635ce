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
ASIDE = metric.counter(
    "kivuko_rules_aside_instances_total", "Instances that a rule put aside or discarded.", ["rule", "outcome"]
)
UNMATCHED = metric.counter("kivuko_rules_unmatched_total", "Versions of studies that no rule says anything of.")
UNMATCHED_STUDIES = metric.gauge("kivuko_rules_unmatched_studies", "Studies that no rule says anything of, now.")
CAME_ROUND = metric.counter(
    "kivuko_rules_came_round_instances_total", "Instances that came again from another node than first.", ["node"]
)
TIMERS = metric.counter("kivuko_rules_timers_total", "Looks of rules that the clock triggered.", ["outcome"])
