"""The speed of the machine, and what benchmarks share."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.builders import model
from nerf_haiku import camera_paths, cameras, scenes

# Layers that density needs: the trunk, and its own.
_DENSITY = (*(f'/layer_{i}' for i in range(99)), '/density')
_SIZES = (1024, 2048, 4096)
# Horizontal angle of view of the Blender scenes' cameras, radians.
_LEGO_ANGLE = 0.6911


class Products:
  """The rate of square float32 matrix products, the limit of a dense network.

  The rate of a machine drifts, so it is sampled in turn with the measurements
  that are compared with it.
  """

  def __init__(self) -> None:
    self._product = jax.jit(lambda x: x @ x)
    self._factors = [jnp.ones((n, n), jnp.float32) for n in _SIZES]
    self._rates: dict[int, list[float]] = {n: [] for n in _SIZES}
    for x in self._factors:  # Compiles.
      self._multiply(x)

  def sample(self) -> None:
    """Measures the rate of each size once more."""
    for n, x in zip(_SIZES, self._factors, strict=True):
      seconds = timed(functools.partial(self._multiply, x))
      self._rates[n].append(2 * n**3 / seconds)

  def _multiply(self, x: jax.Array) -> None:
    jax.block_until_ready(self._product(x))

  def rate(self) -> float:
    """Returns the highest median over the sizes, FLOP/s."""
    return max(statistics.median(x) for x in self._rates.values())


def timed(fn: Callable[[], Any]) -> float:
  """Returns the seconds that a call takes."""
  start = time.perf_counter()
  fn()
  return time.perf_counter() - start


def format_range(values: Sequence[float], digits: int = 2) -> str:
  """Returns the median with the minimum and the maximum."""
  low, middle, high = min(values), statistics.median(values), max(values)
  return f'{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
  """Prints a table in Markdown."""
  widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
  for row in (head, ['-' * w for w in widths], *rows):
    cells = [x.ljust(w) for x, w in zip(row, widths, strict=True)]
    print(f'| {" | ".join(cells)} |')


def flops_per_ray(
  config: ml_collections.ConfigDict, *, training: bool
) -> float:
  """Returns the floating point operations of a ray's matrix products.

  Two are counted for each weight and sample; in training four more for the
  gradients of weights and inputs, but only two if the input is an encoding,
  whose gradient is not needed. The viewing direction is multiplied once per
  ray. Recomputation is not counted, nor are the coarse network's colors when a
  view is rendered.
  """
  params = jax.eval_shape(
    model.make_renderer(config, make_scene(4)).init, jax.random.key(0)
  ).params
  position, direction = (
    _width(config, n) for n in (config.emb.multires, config.emb.multires_views)
  )
  samples = {
    'coarse': config.num_samples,
    'fine': config.num_samples + config.num_importance,
  }
  total, last = 0.0, list(params)[-1]
  for network, layers in params.items():
    width = layers['mlp/layer_0']['w'].shape[1]
    for name, layer in layers.items():
      if network != last and not training and not name.endswith(_DENSITY):
        continue
      inputs, outputs = layer['w'].shape
      encoded, shared = 0, 0
      if name.endswith('/view'):
        shared = direction
      elif name.endswith('/layer_0') or inputs > width:
        encoded = position
      inner = inputs - encoded - shared
      per_sample = outputs * (
        (6 * inner + 4 * encoded) if training else 2 * (inner + encoded)
      )
      per_ray = outputs * shared * (4 if training else 2)
      total += per_sample * samples[network] + per_ray
  return total


def _width(config: ml_collections.ConfigDict, num_octaves: int) -> int:
  """Returns the number of features of an encoding of three coordinates."""
  if not config.emb.use_embed:
    return 3
  functions = len(config.emb.periodic_fns) * num_octaves
  return 3 * (functions + config.emb.include_input)


def make_scene(size: int) -> scenes.Scene:
  """Returns a scene with cameras like those of Blender's lego; it is black."""
  focal = 0.5 * size / np.tan(0.5 * _LEGO_ANGLE)
  views = cameras.pinhole(
    camera_paths.circle(4), np.full((4, 2), size), np.full(4, focal)
  )
  pixels = np.zeros((4 * size * size, 3), np.uint8)
  split = scenes.Split(scenes.Images(pixels, np.full((4, 2), size)), views)
  return scenes.Scene(
    train=split,
    val=split,
    test=split,
    near=2.0,
    far=6.0,
    box=None,
    path=views,
    notices=(),
  )
