"""Errors that a user can mend: each names a file or field, and the cure."""


class DataError(ValueError):
  """A file or folder that cannot be used: names it, and says the cure."""
