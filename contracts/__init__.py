"""The shared language of Kivuko: events, the one table of topics, and the network definition."""
