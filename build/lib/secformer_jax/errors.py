"""The one exception type for mistakes that the user can mend."""


class UserError(ValueError):
    """Bad input: the message says in one line what was wrong, what was expected and what to do."""
