"""The one exception that ends in a sentence for the user."""


class UserError(Exception):
    """Something the user can mend: what was wrong, where, and what to do, in one sentence.

    The command line prints the sentence and exits with code 2; a notebook shows it as the error's text.
    """


def first_line(error: Exception) -> str:
    """What a library's error says, for use within a sentence: its first line, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
