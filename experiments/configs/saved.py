"""The config of an existing run, read from its `config.json`.

Use it as `--config=experiments/configs/saved.py:runs/lego/config.json`.
"""

import ml_collections

from experiments.configs import default, renamed_fields
from nerf_haiku import errors
from nerf_haiku.io import safe_reading


def get_config(path: str) -> ml_collections.ConfigDict:
  """Returns the config of a run; fields that it lacks have their defaults.

  Raises:
    UserError: if the file was not written by a run, or is corrupt.
  """
  config = default.get_config()
  try:
    fields = safe_reading.read_json(safe_reading.expand_user(path))['config']
    renamed_fields.check_not_both(fields)
    for name, value in fields.items():
      *sections, field = name.split('.')
      section = config
      for part in sections:
        section = section[part]
      section[field] = tuple(value) if isinstance(value, list) else value
  except (errors.UserError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f'{path} was not written by a run, or is corrupt: {error}'
    ) from error
  return config
