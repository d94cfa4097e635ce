"""Bytes that nobody would send, thrown at the upper layer: `make fuzz`."""
