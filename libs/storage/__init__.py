"""Where things are kept: a service's tables, and the objects that events refer to."""
