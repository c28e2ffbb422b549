"""Errors whose message is written for the user; the command line prints them as one line.

Each message names the thing in the user's terms, says what was expected, and what to change.
"""

import functools


class MmjaxError(Exception):
    """Base of all errors that a user can act on. The command line exits with `exit_code`."""

    exit_code = 1


class InputError(MmjaxError):
    """What the user gave (a flag, a path, a prompt, a picture) cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration has an unknown key, a wrong type, a missing value or values that contradict."""


class DataError(MmjaxError):
    """A record of a data set cannot be used. `kind` is the name under which it is counted."""

    def __init__(self, message: str, *, kind: str):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):
        return functools.partial(type(self), kind=self.kind), self.args


class CheckpointError(MmjaxError):
    """A checkpoint cannot be written or read."""


class TrainingError(MmjaxError):
    """A run cannot go on: repeated non-finite steps, a stuck device, too many bad records."""
