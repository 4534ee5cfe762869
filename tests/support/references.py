"""Numbers of the reference implementation, see `reference/README.md`."""

import pathlib

import numpy as np

from tests.support import shared

_HERE = pathlib.Path(__file__).parent / 'reference'


def load(name: str) -> dict[str, np.ndarray]:
  """The arrays of a file; those that hold image data lie in `../shared`."""
  path = _HERE / f'{name}.npz'
  if not path.exists():
    path = shared.folder('reference') / f'{name}.npz'
  with np.load(path, allow_pickle=False) as arrays:
    return dict(arrays)
