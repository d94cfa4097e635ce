"""Keeps the network definition and the tokens: checks, versions, snapshot, access list."""
