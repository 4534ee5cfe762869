"""Data that does something when it is unpickled."""

import os


class Payload:
  """Makes a folder when it is unpickled."""

  def __init__(self, folder):
    self._folder = folder

  def __reduce__(self):
    return os.mkdir, (str(self._folder),)
