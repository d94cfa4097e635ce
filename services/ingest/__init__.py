"""Takes studies in: admits, spools, indexes in batches, and says when a study is complete."""
