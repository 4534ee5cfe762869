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
    """Maps `[F_i, ...]` each to their joint `[width, ...]`."""
    sizes = [x.shape[0] for x in inputs]
    dtype = inputs[0].dtype
    w = hk.get_parameter(
      'w', (sum(sizes), self._width), dtype, init=_GLOROT_UNIFORM
    )
    b = hk.get_parameter('b', (self._width,), dtype, init=jnp.zeros)
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

  def __call__(
    self, points: chex.Array, viewdirs: chex.Array
  ) -> tuple[chex.Array, chex.Array]:
    """Maps points to raw densities `[...]` and colours `[..., 3]`."""
    chex.assert_axis_dimension(points, -1, 3)
    chex.assert_axis_dimension(viewdirs, -1, 3)
    chex.assert_equal_rank([points, viewdirs])
    position = jnp.moveaxis(self._encode_position(points), -1, 0)
    features = [position]
    for i in range(self._net_depth):
      hidden = Linear(self._net_width, name=f'layer_{i}')(*features)
      hidden = relu(hidden)
      features = [position, hidden] if i in self._skips else [hidden]
    density = Linear(1, name='density')(*features)[0]
    if self._use_viewdirs:
      bottleneck = Linear(self._net_width, name='bottleneck')(*features)
      direction = jnp.moveaxis(self._encode_direction(viewdirs), -1, 0)
      view = Linear(self._net_width // 2, name='view')(bottleneck, direction)
      features = [relu(view)]
    rgb = jax.nn.sigmoid(Linear(3, name='rgb')(*features))
    return density, jnp.moveaxis(rgb, 0, -1)


def make_mlp(**settings: Any) -> hk.Transformed:
  """The paper's network as pure functions; `settings` are those of `Mlp`."""

  def field(points, viewdirs):
    return Mlp(**settings)(points, viewdirs)

  return hk.without_apply_rng(hk.transform(field))
