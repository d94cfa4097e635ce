"""Reading a network definition with line numbers, validation, conditions, calendars, difference of two definitions."""
