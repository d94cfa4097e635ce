"""Orders in, worklist answers out, and what the modalities report of their steps."""
