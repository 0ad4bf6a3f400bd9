"""The one error that a user can mend: it becomes a single line and exit code 2."""


class UserError(Exception):
    """Bad input. The message names the field, the value and the accepted range."""


class BudgetError(UserError):
    """A request that the plan does not cover. Raised before any teacher is asked."""
