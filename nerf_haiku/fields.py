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

Encoding = Callable[[chex.Array], chex.Array]

# As in the original: uniform within sqrt(6 / (fan_in + fan_out)).
_GLOROT_UNIFORM = hk.initializers.VarianceScaling(1.0, 'fan_avg', 'uniform')


class Linear(hk.Module):
  """A linear layer of several inputs, as if they were concatenated.

  The inputs broadcast against each other, so that what a whole ray shares is
  multiplied once per ray; nothing is copied to be joined.
  """

  def __init__(self, width: int, name: str):
    super().__init__(name=name)
    self._width = width

  def __call__(self, *inputs: chex.Array) -> chex.Array:
    """Maps `[..., F_i]` each to their joint `[..., width]`."""
    sizes = [x.shape[-1] for x in inputs]
    dtype = inputs[0].dtype
    w = hk.get_parameter(
      'w', (sum(sizes), self._width), dtype, init=_GLOROT_UNIFORM
    )
    b = hk.get_parameter('b', (self._width,), dtype, init=jnp.zeros)
    begin, out = 0, b.reshape((1,) * (inputs[0].ndim - 1) + b.shape)
    for x, size in zip(inputs, sizes, strict=True):
      # As one matrix product: over several axes the gradient is a slow one.
      y = jnp.dot(x.reshape(-1, size), w[begin : begin + size])
      out = out + y.reshape(*x.shape[:-1], self._width)
      begin += size
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
    position = self._encode_position(points)
    features = [position]
    for i in range(self._net_depth):
      hidden = Linear(self._net_width, name=f'layer_{i}')(*features)
      hidden = jax.nn.relu(hidden)
      features = [position, hidden] if i in self._skips else [hidden]
    density = Linear(1, name='density')(*features)[..., 0]
    if self._use_viewdirs:
      bottleneck = Linear(self._net_width, name='bottleneck')(*features)
      direction = self._encode_direction(viewdirs)
      view = Linear(self._net_width // 2, name='view')(bottleneck, direction)
      features = [jax.nn.relu(view)]
    rgb = jax.nn.sigmoid(Linear(3, name='rgb')(*features))
    return density, rgb


def make_mlp(**settings: Any) -> hk.Transformed:
  """The paper's network as pure functions; `settings` are those of `Mlp`."""

  def field(points, viewdirs):
    return Mlp(**settings)(points, viewdirs)

  return hk.without_apply_rng(hk.transform(field))
