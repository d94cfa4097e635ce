"""Service levels: what was signed, what was measured, what is owed."""
