"""Our method as nerfbaselines calls it, in its environment.

Each object starts a process in ours (`worker.py`, by the Python that
NERF_HAIKU_PYTHON names) and sends it what it is asked, see `messages`.
"""

import contextlib
import os
import pathlib
import subprocess

import messages
import numpy as np

_WORKER = pathlib.Path(__file__).with_name('worker.py')
_MODELS = ('pinhole', 'opencv', 'opencv_fisheye')
_OUTPUTS = ('color', 'depth', 'accumulation')


class Method:
  """See the protocol `nerfbaselines.Method`."""

  def __init__(
    self, *, checkpoint=None, train_dataset=None, config_overrides=None
  ):
    python = os.environ.get('NERF_HAIKU_PYTHON')
    if not python:
      raise RuntimeError(
        'NERF_HAIKU_PYTHON must name the Python of the environment that '
        'nerf_haiku is installed in, see install.sh.'
      )
    self._process = subprocess.Popen(
      [python, str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    values = {
      'checkpoint': None if checkpoint is None else os.path.abspath(checkpoint),
      'config_overrides': config_overrides or {},
      'has_dataset': train_dataset is not None,
    }
    arrays = {}
    if train_dataset is not None:
      values['metadata'] = _plain(train_dataset['metadata'])
      values['names'] = [
        os.path.relpath(path, train_dataset['image_paths_root'])
        for path in train_dataset['image_paths']
      ]
      arrays = _camera_arrays(train_dataset['cameras'])
      for i, image in enumerate(train_dataset['images']):
        arrays[f'image_{i:05}'] = np.asarray(image)
      for i, mask in enumerate(train_dataset.get('masks') or ()):
        arrays[f'mask_{i:05}'] = np.asarray(mask)
    self._call('open', values, arrays)

  @classmethod
  def get_method_info(cls):
    return {
      'method_id': 'nerf-haiku',
      'required_features': frozenset(('color',)),
      'supported_camera_models': frozenset(_MODELS),
      'supported_outputs': _OUTPUTS,
      'can_resume_training': True,
    }

  def get_info(self):
    info, _ = self._call('info')
    return {**self.get_method_info(), **info}

  def get_train_embedding(self, index):
    return None

  def optimize_embedding(self, dataset, *, embedding=None):
    raise NotImplementedError('The method has no embeddings of images.')

  def train_iteration(self, step):
    scalars, _ = self._call('train_iteration', {'step': int(step)})
    return scalars

  def render(self, camera, *, options=None):
    camera = camera.item()
    arrays = _camera_arrays(camera)
    _, images = self._call(
      'render', {}, {k: v[None] for k, v in arrays.items()}
    )
    wanted = (options or {}).get('outputs') or _OUTPUTS
    return {name: images[name] for name in images if name in wanted}

  def save(self, path):
    self._call('save', {'path': os.path.abspath(path)})

  def close(self):
    """Ends the process."""
    if self._process.poll() is None:
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.close()
      self._process.wait()

  def __del__(self):
    if hasattr(self, '_process'):
      self.close()
      self._process.stdout.close()

  def _call(self, name, values=None, arrays=None):
    try:
      messages.write(
        self._process.stdin, {'call': name, **(values or {})}, arrays
      )
      answer, arrays = messages.read(self._process.stdout)
    except (EOFError, BrokenPipeError) as error:
      raise RuntimeError(
        f'nerf_haiku ended with {self._process.wait()}: its error is above.'
      ) from error
    if 'error' in answer:
      raise RuntimeError(answer['error'])
    return answer, arrays


def _camera_arrays(cameras):
  arrays = {
    name: np.asarray(getattr(cameras, name))
    for name in (
      'poses',
      'intrinsics',
      'camera_models',
      'distortion_parameters',
      'image_sizes',
    )
  }
  if cameras.nears_fars is not None:
    arrays['nears_fars'] = np.asarray(cameras.nears_fars)
  return arrays


def _plain(metadata):
  """Returns the values of metadata that JSON can hold."""
  kept = {}
  for key, value in metadata.items():
    if isinstance(value, np.ndarray | np.generic):
      value = value.tolist()
    if isinstance(value, (str, int, float, list, tuple, type(None))):
      kept[key] = value
  return kept
