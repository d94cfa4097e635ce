"""How a handler says what should become of an event that it could not process."""


class Retry(Exception):  # noqa: N818 - named for what should be done, as handlers read: `raise Retry(...)`
    """Not now: the event comes back by the delay ladder, and after the last rung becomes a dead letter.

    The text is kept with the event and logged: it says what was wrong and holds no values from a dataset.
    """

    safe_to_log = True


class Refuse(Exception):  # noqa: N818 - named for what should be done, as handlers read: `raise Refuse(...)`
    """Never: the event becomes a dead letter at once.

    The text is kept with the event and logged: it says what was wrong and holds no values from a dataset.
    """

    safe_to_log = True
