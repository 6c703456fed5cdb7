"""What all errors that a user can mend have in common."""


class UserError(Exception):
    """A user, a disk or a cluster did something that cannot be worked with; the message says what to do.

    The commands show such an error as one line, and every other with its trace.
    """
