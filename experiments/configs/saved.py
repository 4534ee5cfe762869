"""The config of a run that was made before, from the file beside it.

It is named as `--config=experiments/configs/saved.py:runs/lego/config.json`.
"""

import ml_collections

from experiments.configs import default
from nerf_haiku.io import safe_reading


def get_config(path: str) -> ml_collections.ConfigDict:
  config = default.get_config()
  try:
    fields = safe_reading.read_json(safe_reading.expand_user(path))['config']
    for name, value in fields.items():
      *sections, field = name.split('.')
      section = config
      for part in sections:
        section = section[part]
      section[field] = tuple(value) if isinstance(value, list) else value
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path} is no config of a run: {error}') from error
  return config
