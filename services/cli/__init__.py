"""The command line, and the composition of the embedded profile."""
