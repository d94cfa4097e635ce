"""Measures what the README and the service levels promise: `make bench`, `make bench ONLY=idle`."""
