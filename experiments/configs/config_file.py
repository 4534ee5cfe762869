"""Loads the file that `--config` names; its errors become one line."""

import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import traceback

import ml_collections

from experiments.configs import reference, saved
from nerf_haiku import errors
from nerf_haiku.io import messages

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_OURS = tuple(
  f'{_ROOT / folder}{os.sep}' for folder in ('experiments', 'nerf_haiku')
)
# Config files that are code of ours, whatever the user's file is.
_READERS = (reference.__file__, saved.__file__)
_MAX_LENGTH = 500  # Characters of an error of a config file.


def split(config: str) -> tuple[str, str | None]:
  """Returns file and argument of a config, given as `file` or `file:argument`.

  Names may contain colons too.
  """
  file, colon, argument = config.partition('.py:')
  if colon:
    return f'{file}.py', argument
  if os.path.isfile(config):
    return config, None
  file, colon, argument = config.partition(':')
  return file, argument if colon else None


def load(config: str) -> ml_collections.ConfigDict:
  """Returns what `get_config` of a file returns; its fields are locked.

  Args:
    config: the file, or `file:argument` if `get_config` has an argument.

  Raises:
    UserError: names the line of the file that has an error. An error in code
      of ours that the file calls is raised as it is.
  """
  file, argument = split(config)
  try:
    loader = importlib.machinery.SourceFileLoader('config_file', file)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # Dataclasses look themselves up there.
    loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      raise errors.UserError(f'--config: {file} defines no get_config().')
    arguments = () if argument is None else (argument,)
    loaded = module.get_config(*arguments)
  except errors.UserError:
    raise
  except Exception as error:
    if _is_ours(error, file):
      raise
    raise errors.UserError(f'--config: {_describe(error, file)}') from error
  if not isinstance(loaded, ml_collections.ConfigDict):
    raise errors.UserError(
      f'--config: {file}: get_config() returned {messages.shorten(loaded)}; '
      'must return a ConfigDict, such as that of experiments.configs.default '
      'with changes.'
    )
  loaded.lock()
  return loaded


def _is_ours(error: Exception, file: str) -> bool:
  """Returns whether an error was raised by code of ours, not by the file."""
  *_, last = traceback.extract_tb(error.__traceback__)
  if last.filename == file:
    return file in _READERS
  return last.filename.startswith(_OURS) and last.filename != __file__


def _describe(error: Exception, file: str) -> str:
  """Returns file, line and text of an error, in one line."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == file
  ]
  line, inner = (lines[-1] if lines else None), error
  while inner.args and isinstance(inner.args[0], Exception):
    inner = inner.args[0]  # ml_collections wraps errors in errors.
  text = str(inner.args[0] if isinstance(inner, KeyError) else inner)
  if isinstance(error, SyntaxError):  # Perhaps of a file that it imports.
    file, line, text = error.filename or file, error.lineno, error.msg
  place = file if line is None else f'{file}, line {line}'
  text = ' '.join(text.split())[:_MAX_LENGTH]
  return f'{place}: {type(error).__name__}: {text}'
