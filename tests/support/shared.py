"""The real data and reference numbers, which stand beside the checkout."""

import os
import pathlib
import unittest

_ROOT = pathlib.Path(__file__).resolve().parents[3] / 'shared'
_REQUIRED = 'NERF_HAIKU_REQUIRE_SHARED'


def folder(name: str) -> pathlib.Path:
  """The folder `name` of the shared files, `data` or `reference`.

  Raises:
    unittest.SkipTest: it is not there; the test that calls is skipped.
    FileNotFoundError: instead, where NERF_HAIKU_REQUIRE_SHARED is 1.
  """
  path = _ROOT / name
  if path.is_dir():
    return path
  if os.environ.get(_REQUIRED) == '1':
    raise FileNotFoundError(f'{path} is not there, and {_REQUIRED} is 1.')
  raise unittest.SkipTest(f'needs the real data: {path} is not there.')
