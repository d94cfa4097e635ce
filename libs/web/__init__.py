"""Permissions, tokens, problem details, health and the listeners of every service's HTTP interface."""
