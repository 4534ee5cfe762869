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

Encoding = Callable[[chex.Array], chex.Array]
# (params, points, viewdirs) -> (density before its activation, rgb).
Apply = Callable[..., tuple[chex.Array, chex.Array]]
# A loop that a compiler will not unroll.
_REMAT_PIECES = 4

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


def make_mlp(*, remat: bool = False, **settings: Any) -> hk.Transformed:
  """The paper's network as pure functions.

  Args:
    remat: whether gradients compute the layers again rather than keep them,
      see `rematerialise`.
    **settings: those of `Mlp`.
  """

  def field(points, viewdirs):
    return Mlp(**settings)(points, viewdirs)

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
