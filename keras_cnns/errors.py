"""The user's mistake, said in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """What was asked cannot be done; the message says what was received and what is allowed.

    The commands print the message as one line and exit with 2.
    """


def suggest(received: str, allowed: Iterable[str]) -> str:
    """Return the end of a message that names the closest allowed word, or nothing.

    >>> suggest("vgg61", ["vgg16", "nin"])
    '; did you mean "vgg16"?'
    >>> suggest("transformer", ["vgg16", "nin"])
    ''
    """
    close = get_close_matches(received, list(allowed), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
