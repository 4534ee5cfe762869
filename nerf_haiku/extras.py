"""Libraries that are needed for some tasks only."""

import importlib
from typing import Any

from nerf_haiku import errors


def load(name: str, extra: str | None = None) -> Any:
  """Imports a library when it is needed.

  Args:
    name: of its module.
    extra: the extra of this package that installs it; None: it is required.

  Raises:
    UserError: if it is not installed; it says how to install it.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if extra is None or not name.startswith(str(error.name)):
      raise
    raise errors.UserError(
      f'{error.name} is not installed: pip install -e ".[{extra}]".'
    ) from error
