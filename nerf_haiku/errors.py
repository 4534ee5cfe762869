"""Errors that a user can fix: the programs print them as one line."""


class UserError(ValueError):
  """A setting or file that cannot be used: names it, and says the cure.

  A `ValueError` that is not one is a programmer's mistake: it keeps its
  traceback.
  """


class DataError(UserError):
  """A file or folder of a data set, or of a run, that cannot be used."""


class WriteError(OSError):
  """A file that cannot be written: no space, no permission, no encoder."""
