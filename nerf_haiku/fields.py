"""Fields: networks that map a point and a viewing direction to the radiance.

A field is a pair `init(key, points, viewdirs)` and `apply(params, points,
viewdirs)` for points `[..., 3]` in scene units and unit viewing directions
that broadcast against them. It returns the density `[...]` before its
activation, and the colour `[..., 3]` in [0, 1].

With a fourth argument, the variance `[..., 3]` of Gaussians around the points
(`cones`), details that are smaller than these fade.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import encodings, hash_grid, ops

Encoding = Callable[..., jax.Array]
# A dtype, or its name.
DType = jax.typing.DTypeLike
# (params, points, viewdirs, variance) -> (density before its activation, rgb).
Apply = Callable[..., tuple[jax.Array, jax.Array]]
# Enough that a compiler does not unroll the loop.
_NUM_REMAT_CHUNKS = 4

_HASH_INIT = hk.initializers.RandomUniform(-1e-4, 1e-4)  # Müller et al., 4.
# As in the reference implementation: uniform within
# sqrt(6 / (fan_in + fan_out)).
_GLOROT_UNIFORM = hk.initializers.VarianceScaling(1.0, 'fan_avg', 'uniform')


class Linear(hk.Module):
  """A linear layer of several inputs, as if they were concatenated.

  The inputs broadcast against each other: features that a whole ray shares are
  multiplied once per ray, and nothing is copied to concatenate them.
  """

  def __init__(self, width: int, name: str):
    super().__init__(name=name)
    self._width = width

  def __call__(self, *inputs: jax.Array) -> jax.Array:
    """Maps inputs `[F_i, ...]` to `[width, ...]`.

    The product has the inputs' dtype; the parameters stay float32.
    """
    sizes = [x.shape[0] for x in inputs]
    dtype = inputs[0].dtype
    shape = (sum(sizes), self._width)
    w = hk.get_parameter('w', shape, jnp.float32, init=_GLOROT_UNIFORM)
    b = hk.get_parameter('b', shape[1:], jnp.float32, init=jnp.zeros)
    w, b = w.astype(dtype), b.astype(dtype)
    out = b.reshape(b.shape + (1,) * (inputs[0].ndim - 1))
    # Split, not sliced: XLA 0.10.2 crashes on the sum of slices' gradients.
    parts = jnp.split(w, np.cumsum(sizes)[:-1])
    for x, part in zip(inputs, parts, strict=True):
      y = ops.project(part, x.reshape(len(x), -1))
      out = out + y.reshape(self._width, *x.shape[1:])
    return out


class Mlp(hk.Module):
  """The network of the paper (figure 7)."""

  def __init__(
    self,
    *,
    encode_position: Encoding,
    encode_direction: Encoding,
    net_depth: int,
    net_width: int,
    skips: Sequence[int],
    use_viewdirs: bool,
    dtype: DType = jnp.float32,
    name: str = 'mlp',
  ):
    """Makes the module.

    Args:
      encode_position: maps `[..., 3]` points, and by name their `variance` if
        there is one, to features.
      encode_direction: maps `[..., 3]` unit directions to features.
      net_depth: layers of the trunk.
      net_width: their width; the view branch has half of it.
      skips: layers after which the encoded position is joined again.
      use_viewdirs: whether colour depends on the viewing direction.
      dtype: of the features; parameters, encodings and results are float32.
      name: of the module.
    """
    super().__init__(name=name)
    if any(not 0 <= i < net_depth for i in skips):
      raise ValueError(f'skips must be in [0, {net_depth}), got {skips}.')
    self._encode_position = encode_position
    self._encode_direction = encode_direction
    self._net_depth = net_depth
    self._net_width = net_width
    self._skips = frozenset(skips)
    self._use_viewdirs = use_viewdirs
    self._dtype = dtype

  def __call__(
    self,
    points: jax.Array,
    viewdirs: jax.Array,
    variance: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps points to raw densities `[...]` and colours `[..., 3]`."""
    _assert_inputs(points, viewdirs)
    spread = {} if variance is None else {'variance': variance}
    position = _as_columns(self._encode_position(points, **spread), self._dtype)
    features = [position]
    for i in range(self._net_depth):
      hidden = Linear(self._net_width, name=f'layer_{i}')(*features)
      hidden = ops.relu(hidden)
      features = [position, hidden] if i in self._skips else [hidden]
    density = Linear(1, name='density')(*features)[0]
    if self._use_viewdirs:
      bottleneck = Linear(self._net_width, name='bottleneck')(*features)
      direction = _as_columns(self._encode_direction(viewdirs), self._dtype)
      view = Linear(self._net_width // 2, name='view')(bottleneck, direction)
      features = [ops.relu(view)]
    return density.astype(jnp.float32), _rgb_head(features)


class HashGrid(hk.Module):
  """A hash grid and two small networks (Müller et al., 2022, section 4)."""

  def __init__(
    self,
    *,
    box: np.ndarray,
    max_resolution: int,
    num_levels: int = 8,
    features_per_level: int = 2,
    hashmap_size: int = 2**17,
    base_resolution: int = 16,
    density_width: int = 64,
    geo_feat_dim: int = 15,
    color_width: int = 64,
    color_depth: int = 2,
    use_viewdirs: bool = True,
    has_color: bool = True,
    dtype: DType = jnp.float32,
    name: str = 'hash',
  ):
    """Makes the module.

    Args:
      box: `[2, 3]` lower and upper corner of what the grid spans, in the units
        of the points; points outside have the features of its faces.
      max_resolution: cells along each side at the last level.
      num_levels: levels of the grid.
      features_per_level: features of each level.
      hashmap_size: largest number of rows of a level, a power of 2.
      base_resolution: cells along each side at the first level.
      density_width: units of the layer before the density.
      geo_feat_dim: features that the colour network gets of the density one.
      color_width: units of the layers before the colour.
      color_depth: number of these layers.
      use_viewdirs: whether colour depends on the viewing direction.
      has_color: whether there is a colour network; without, all is black.
      dtype: of the networks' features; parameters, grid and results are
        float32.
      name: of the module.

    Raises:
      ValueError: if `hashmap_size` is no power of 2.
    """
    super().__init__(name=name)
    if hashmap_size & (hashmap_size - 1):
      raise ValueError(
        f'hashmap_size must be a power of 2, got {hashmap_size}.'
      )
    self._box = np.asarray(box, np.float32)
    self._levels = hash_grid.grid_levels(
      num_levels=num_levels,
      base_resolution=base_resolution,
      max_resolution=max_resolution,
      hashmap_size=hashmap_size,
    )
    self._features_per_level = features_per_level
    self._density_width = density_width
    self._geo_feat_dim = geo_feat_dim
    self._color_width = color_width
    self._color_depth = color_depth
    self._use_viewdirs = use_viewdirs
    self._has_color = has_color
    self._dtype = dtype

  def __call__(
    self,
    points: jax.Array,
    viewdirs: jax.Array,
    variance: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps points to raw densities `[...]` and colours `[..., 3]`."""
    _assert_inputs(points, viewdirs)
    hidden = Linear(self._density_width, name='layer_0')(
      self._encode(points, variance)
    )
    hidden = ops.relu(hidden)
    density = Linear(1, name='density')(hidden)[0]
    if not self._has_color:
      return density.astype(jnp.float32), jnp.zeros(points.shape)
    features = [Linear(self._geo_feat_dim, name='bottleneck')(hidden)]
    if self._use_viewdirs:
      direction = encodings.spherical_harmonics(viewdirs)
      features.append(_as_columns(direction, self._dtype))
    for i in range(self._color_depth):
      view = Linear(self._color_width, name=f'view_{i}')(*features)
      features = [ops.relu(view)]
    return density.astype(jnp.float32), _rgb_head(features)

  def _encode(self, points: jax.Array, variance: jax.Array | None) -> jax.Array:
    """Maps points `[..., 3]` to features `[L * F, ...]`."""
    lower, upper = self._box
    flat = (points.reshape(-1, 3) - lower[None]) / (upper - lower)[None]
    inside = jnp.clip(flat.T, 0.0, 1.0)
    tables = [
      hk.get_parameter(
        f'feature_{i}', (self._levels.num_rows(),), jnp.float32, init=_HASH_INIT
      )
      for i in range(self._features_per_level)
    ]
    features = hash_grid.interpolate(tables, inside, self._levels)
    if variance is not None:
      # Of coordinates in [0, 1], and its mean over the axes.
      sides = (upper - lower)[None]
      spread = jnp.mean(variance.reshape(-1, 3) / sides**2, axis=-1)
      features *= hash_grid.level_weights(spread, self._levels, len(tables))
    features = features.astype(self._dtype)
    return features.reshape(-1, *points.shape[:-1])


def _assert_inputs(points: jax.Array, viewdirs: jax.Array) -> None:
  chex.assert_axis_dimension(points, -1, 3)
  chex.assert_axis_dimension(viewdirs, -1, 3)
  chex.assert_equal_rank([points, viewdirs])


def _as_columns(features: jax.Array, dtype: DType) -> jax.Array:
  """Turns encoded `[..., F]` into the layers' `[F, ...]`."""
  return jnp.moveaxis(features, -1, 0).astype(dtype)


def _rgb_head(features: Sequence[jax.Array]) -> jax.Array:
  """Maps features `[F, ...]` to colours `[..., 3]` in [0, 1]."""
  rgb = Linear(3, name='rgb')(*features).astype(jnp.float32)
  return jnp.moveaxis(jax.nn.sigmoid(rgb), 0, -1)


def make_mlp(*, remat: bool = False, **settings: Any) -> hk.Transformed:
  """Makes the paper's network as pure functions.

  Args:
    remat: whether gradients recompute the layers instead of keeping them, see
      `rematerialize`.
    **settings: arguments of `Mlp`.
  """
  return _transform(Mlp, remat, settings)


def make_hash_grid(*, remat: bool = False, **settings: Any) -> hk.Transformed:
  """Makes a hash grid with its networks as pure functions.

  Args:
    remat: as for `make_mlp`.
    **settings: arguments of `HashGrid`.
  """
  return _transform(HashGrid, remat, settings)


def _transform(
  module: Callable[..., Any], remat: bool, settings: dict[str, Any]
) -> hk.Transformed:
  def field(
    points: jax.Array, viewdirs: jax.Array, variance: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    return module(**settings)(points, viewdirs, variance)

  transformed: hk.Transformed = hk.without_apply_rng(hk.transform(field))
  if remat:
    return transformed._replace(apply=rematerialize(transformed.apply))
  return transformed


def rematerialize(apply: Apply) -> Apply:
  """Returns a field whose gradient keeps its inputs only and recomputes it.

  A loop over chunks of rays holds the layers of one chunk at a time. It is
  also what makes recomputation happen: without it the CPU's compiler shares
  the first computation with the second, and keeps all layers.
  """
  recomputed = jax.checkpoint(apply, prevent_cse=False)

  def apply_in_chunks(
    params: hk.Params,
    points: jax.Array,
    viewdirs: jax.Array,
    variance: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    rays = points.shape[0]
    size = -(-rays // _NUM_REMAT_CHUNKS)
    chunks = -(-rays // size)
    # Rays that fill up the last chunk are cut off again.
    index = jnp.arange(chunks * size).reshape(chunks, size) % rays
    inputs = (points, viewdirs, variance)
    density, rgb = jax.lax.map(
      lambda i: recomputed(params, *jax.tree.map(lambda x: x[i], inputs)), index
    )
    return (
      density.reshape(-1, *density.shape[2:])[:rays],
      rgb.reshape(-1, *rgb.shape[2:])[:rays],
    )

  return apply_in_chunks
