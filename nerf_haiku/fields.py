"""Fields: what density and colour the scene has at a point.

A field is `init(key, points, viewdirs)` and `apply(params, points, viewdirs)`
for points `[..., 3]` in scene units and unit viewing directions that
broadcast against them. It gives the density `[...]` before its activation,
and the colour `[..., 3]` in [0, 1].
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import encodings, hash_grid

Encoding = Callable[[chex.Array], chex.Array]
# (params, points, viewdirs) -> (density before its activation, rgb).
Apply = Callable[..., tuple[chex.Array, chex.Array]]
# A loop that a compiler will not unroll.
_REMAT_PIECES = 4

_HASH_INIT = hk.initializers.RandomUniform(-1e-4, 1e-4)  # Müller et al., 4.
# As in the original: uniform within sqrt(6 / (fan_in + fan_out)).
_GLOROT_UNIFORM = hk.initializers.VarianceScaling(1.0, 'fan_avg', 'uniform')


@jax.custom_vjp
def project(w: chex.Array, x: chex.Array) -> chex.Array:
  """The product `w.T @ x` of weights `[I, O]` and features `[I, N]`.

  Points are columns, and the three products of a training step (this one and
  its two gradients) are made of matrices as they lie in memory: with points
  as rows, or a weight transposed on the fly, a CPU takes up to twice as long.
  """
  # Made before the product; else it is folded into a slower one.
  return jax.lax.optimization_barrier(w.T) @ x


def _project_forward(w, x):
  return project(w, x), (w, x)


def _project_backward(kept, g):
  w, x = kept
  return x @ g.T, w @ g


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def relu(x: chex.Array) -> chex.Array:
  """The larger of x and 0; its gradient asks the result, so x need not stay.

  Half of what a training step keeps of each layer is saved.
  """
  return jnp.maximum(x, 0.0)


def _relu_forward(x):
  y = relu(x)
  return y, y


def _relu_backward(y, g):
  return (jnp.where(y > 0, g, 0.0),)


relu.defvjp(_relu_forward, _relu_backward)


class Linear(hk.Module):
  """A linear layer of several inputs, as if they were concatenated.

  The inputs broadcast against each other, so that what a whole ray shares is
  multiplied once per ray; nothing is copied to be joined.
  """

  def __init__(self, width: int, name: str):
    super().__init__(name=name)
    self._width = width

  def __call__(self, *inputs: chex.Array) -> chex.Array:
    """Maps `[F_i, ...]` each to their joint `[width, ...]`.

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
      y = project(part, x.reshape(len(x), -1))
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
    dtype: Any = jnp.float32,
    name: str = 'mlp',
  ):
    """Makes the module.

    Args:
      encode_position: maps `[..., 3]` points to features.
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
    self, points: chex.Array, viewdirs: chex.Array
  ) -> tuple[chex.Array, chex.Array]:
    """Maps points to raw densities `[...]` and colours `[..., 3]`."""
    chex.assert_axis_dimension(points, -1, 3)
    chex.assert_axis_dimension(viewdirs, -1, 3)
    chex.assert_equal_rank([points, viewdirs])
    position = self._columns(self._encode_position(points))
    features = [position]
    for i in range(self._net_depth):
      hidden = Linear(self._net_width, name=f'layer_{i}')(*features)
      hidden = relu(hidden)
      features = [position, hidden] if i in self._skips else [hidden]
    density = Linear(1, name='density')(*features)[0]
    if self._use_viewdirs:
      bottleneck = Linear(self._net_width, name='bottleneck')(*features)
      direction = self._columns(self._encode_direction(viewdirs))
      view = Linear(self._net_width // 2, name='view')(bottleneck, direction)
      features = [relu(view)]
    rgb = Linear(3, name='rgb')(*features).astype(jnp.float32)
    rgb = jnp.moveaxis(jax.nn.sigmoid(rgb), 0, -1)
    return density.astype(jnp.float32), rgb

  def _columns(self, features: chex.Array) -> chex.Array:
    """Turns encoded `[..., F]` into the layers' `[F, ...]`."""
    return jnp.moveaxis(features, -1, 0).astype(self._dtype)


class Hash(hk.Module):
  """A hash grid and two small networks (Müller et al., 2022)."""

  def __init__(
    self,
    *,
    box: np.ndarray,
    num_levels: int,
    num_features: int,
    table_size: int,
    coarsest: int,
    finest: int,
    density_width: int,
    num_geometry: int,
    colour_width: int,
    colour_depth: int,
    use_viewdirs: bool,
    dtype: Any = jnp.float32,
    name: str = 'hash',
  ):
    """Makes the module.

    Args:
      box: `[2, 3]` lower and upper corner of what the grid spans, in the units
        of the points; points outside have the features of its faces.
      num_levels: of the grid.
      num_features: of each level.
      table_size: largest number of rows of a level, a power of 2.
      coarsest: cells along each side at the first level.
      finest: cells along each side at the last.
      density_width: units of the layer before the density.
      num_geometry: features that go on to the colour.
      colour_width: units of the layers before the colour.
      colour_depth: how many of them.
      use_viewdirs: whether colour depends on the viewing direction.
      dtype: of the networks' features; parameters, grid and results are
        float32.
      name: of the module.
    """
    super().__init__(name=name)
    if table_size & (table_size - 1):
      raise ValueError(f'table_size must be a power of 2, got {table_size}.')
    self._box = np.asarray(box, np.float32)
    self._levels = hash_grid.grid_levels(
      num_levels=num_levels,
      coarsest=coarsest,
      finest=finest,
      table_size=table_size,
    )
    self._num_features = num_features
    self._density_width = density_width
    self._num_geometry = num_geometry
    self._colour_width = colour_width
    self._colour_depth = colour_depth
    self._use_viewdirs = use_viewdirs
    self._dtype = dtype

  def __call__(
    self, points: chex.Array, viewdirs: chex.Array
  ) -> tuple[chex.Array, chex.Array]:
    """Maps points to raw densities `[...]` and colours `[..., 3]`."""
    chex.assert_axis_dimension(points, -1, 3)
    chex.assert_axis_dimension(viewdirs, -1, 3)
    chex.assert_equal_rank([points, viewdirs])
    hidden = relu(
      Linear(self._density_width, name='layer_0')(self._encode(points))
    )
    density = Linear(1, name='density')(hidden)[0]
    features = [Linear(self._num_geometry, name='bottleneck')(hidden)]
    if self._use_viewdirs:
      direction = encodings.spherical_harmonics(viewdirs)
      features.append(jnp.moveaxis(direction, -1, 0).astype(self._dtype))
    for i in range(self._colour_depth):
      features = [relu(Linear(self._colour_width, name=f'view_{i}')(*features))]
    rgb = Linear(3, name='rgb')(*features).astype(jnp.float32)
    rgb = jnp.moveaxis(jax.nn.sigmoid(rgb), 0, -1)
    return density.astype(jnp.float32), rgb

  def _encode(self, points: chex.Array) -> chex.Array:
    """Features `[L * F, ...]` of points `[..., 3]`."""
    lower, upper = self._box
    flat = (points.reshape(-1, 3) - lower[None]) / (upper - lower)[None]
    inside = jnp.clip(flat.T, 0.0, 1.0)
    tables = [
      hk.get_parameter(
        f'feature_{i}', (self._levels.num_rows(),), jnp.float32, init=_HASH_INIT
      )
      for i in range(self._num_features)
    ]
    features = hash_grid.hash_grid(tables, inside, self._levels)
    features = features.astype(self._dtype)
    return features.reshape(-1, *points.shape[:-1])


def make_mlp(*, remat: bool = False, **settings: Any) -> hk.Transformed:
  """The paper's network as pure functions.

  Args:
    remat: whether gradients compute the layers again rather than keep them,
      see `rematerialise`.
    **settings: those of `Mlp`.
  """
  return _transform(Mlp, remat, settings)


def make_hash(*, remat: bool = False, **settings: Any) -> hk.Transformed:
  """A hash grid's field as pure functions.

  Args:
    remat: as for `make_mlp`.
    **settings: those of `Hash`.
  """
  return _transform(Hash, remat, settings)


def _transform(
  module: Callable[..., Any], remat: bool, settings: dict[str, Any]
) -> hk.Transformed:
  def field(points, viewdirs):
    return module(**settings)(points, viewdirs)

  transformed: Any = hk.without_apply_rng(hk.transform(field))
  if remat:
    return transformed._replace(apply=rematerialise(transformed.apply))
  return transformed


def rematerialise(apply: Apply) -> Apply:
  """A field whose gradient keeps its inputs only, and computes it again.

  It is done in pieces of some rays: a gradient then holds the layers of one
  piece at a time. The loop over them is also what makes it true: without it
  the CPU's compiler shares the first computation with the second, and keeps
  all layers.
  """
  again = jax.checkpoint(apply, prevent_cse=False)

  def in_pieces(params, points, viewdirs):
    rays = points.shape[0]
    size = -(-rays // _REMAT_PIECES)
    pieces = -(-rays // size)
    # Rays that fill up the last piece are cut off again.
    index = jnp.arange(pieces * size).reshape(pieces, size) % rays
    outputs = jax.lax.map(
      lambda i: again(params, points[i], viewdirs[i]), index
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rays], outputs)

  return in_pieces
