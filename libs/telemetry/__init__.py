"""Traces, metrics and logs, none of which ever holds personal data."""
