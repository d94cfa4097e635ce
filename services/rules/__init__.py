"""Decides where studies go, and records why."""
