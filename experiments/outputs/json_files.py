"""The JSON files that a run writes and reads."""

import json
import math
import pathlib
from typing import Any

from nerf_haiku import errors
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
  """Returns values as JSON gives them back, e.g. tuples as lists."""
  return json.loads(json.dumps(content))


def read_json(
  path: pathlib.Path,
  *fields: str,
  option: str = '--model_dir',
  cure: str = 'Choose another folder.',
) -> dict[str, Any]:
  """Reads a JSON file that a run wrote.

  Args:
    path: the file.
    *fields: that it must have.
    option: the flag that an error names.
    cure: what an error advises.

  Raises:
    UserError: if the file was not written by a run, or is corrupt.
  """
  try:
    content = json.loads(path.read_text('utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    content = error
  if not isinstance(content, dict) or not all(x in content for x in fields):
    raise errors.UserError(
      f'{option}: {path} was not written by a run, or is corrupt. {cure}'
    )
  return content
