"""Topic matching of AMQP 0-9-1 (section 3.1.3.3), as RabbitMQ does it."""


def _words(text: str) -> list[str]:
    # RabbitMQ takes an empty key as no word at all, not as one empty word.
    return text.split(".") if text else []


def matches(pattern: str, key: str) -> bool:
    """Tell whether a binding pattern takes a routing key.

    Parameters
    ----------
    pattern
        Words separated by dots; `*` stands for exactly one word, `#` for any number of words, none included.
    key
        Words separated by dots.
    """
    words = _words(key)
    # taken[i]: the part of the pattern read so far takes exactly the first i words.
    taken = [True] + [False] * len(words)
    for part in _words(pattern):
        if part == "#":
            reached = False
            for i, here in enumerate(taken):
                reached = reached or here
                taken[i] = reached
        else:
            taken = [False, *(before and part in ("*", word) for before, word in zip(taken, words, strict=False))]
    return taken[-1]
