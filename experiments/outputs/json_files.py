"""JSON that a run writes and reads."""

import json
import math
import pathlib
from typing import Any

from nerf_haiku.io import files


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes JSON whole or not at all; an infinite PSNR becomes null."""

  def valid(x):
    if isinstance(x, dict):
      return {key: valid(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
      return [valid(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x

  text = json.dumps(valid(content), indent=2, allow_nan=False)
  files.write(path, text.encode())


def to_json_types(content: dict[str, Any]) -> dict[str, Any]:
  """Settings as JSON gives them back."""
  return json.loads(json.dumps(content))


def read_json(
  path: pathlib.Path,
  *fields: str,
  option: str = '--model_dir',
  cure: str = 'Choose another folder.',
) -> dict[str, Any]:
  """Reads what a run wrote; an error names a flag, and what helps.

  Raises:
    ValueError: if the file is not one that a run wrote, with such fields.
  """
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError) as error:
    content = error
  if not isinstance(content, dict) or not all(x in content for x in fields):
    raise ValueError(
      f'{option}: {path} is none that a run wrote, or it is damaged. {cure}'
    )
  return content
