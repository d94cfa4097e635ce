"""Events between services: broker by URL, outbox, inbox, retry by delay ladder, dead letters."""
