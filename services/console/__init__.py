"""The view of the whole network for people."""
