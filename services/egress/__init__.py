"""Deliveries: each instance of a study gets to its destination, is accounted for, and is never forgotten."""
