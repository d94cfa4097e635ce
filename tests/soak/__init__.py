"""Hours in minutes: kills and outages, many of them: `make soak`."""
