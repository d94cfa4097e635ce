"""Why an instance can't be transformed."""


class UntransformableError(Exception):
    """The instance can't be changed as the definition demands: people must look, and it is never sent as it is.

    The text is a sentence in plain words without values from the dataset.
    """

    safe_to_log = True
