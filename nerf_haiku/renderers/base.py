"""The interface of renderers: rays are sampled, then rendered.

Sampling is random and has no gradient; rendering is a differentiable function
of the parameters, the rays and their samples. Losses and diagnostics are
computed from what `render` returns, where they are used.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, Self, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp

from nerf_haiku import cameras, cones, contraction, occupancy_grid, volume

# The parameters of each network of a renderer, by its name.
Params = Mapping[str, hk.Params]
# What a renderer keeps between steps beside the parameters, the same on all
# devices: an occupancy grid, or nothing.
RendererState = occupancy_grid.Grid | tuple[()]


class Variables(NamedTuple):
  """All that a view is rendered from."""

  params: Params
  state: RendererState


class RaySamples(Protocol):
  """The samples of `R` rays, a NamedTuple of arrays that lead with `[R]`."""

  @property
  def num_samples(self) -> jax.Array:
    """`[R]` int32, the samples of each ray."""

  def keep(self, mask: jax.Array) -> Self:
    """Counts no samples on rays whose mask `[R]` is false.

    Such rays cost nothing where a renderer has a budget. What is rendered along
    them is not defined: a loss must give them no weight.
    """


Samples = TypeVar('Samples', bound=RaySamples)


class Rendering(NamedTuple):
  """What one network renders along `R` rays, and how it came about."""

  outputs: volume.RayOutputs
  history: volume.History
  # Of what placed these samples and rendered nothing, see `volume.interlevel`.
  proposals: tuple[volume.RayHistory, ...] = ()


class EvalRendering(NamedTuple):
  """What one network renders along `R` rays without randomness."""

  outputs: volume.RayOutputs
  boundary_weight: jax.Array  # [R, 2], see `volume.boundary_weight`.
  # [R] standard deviation of the importance samples' t; None without them.
  fine_t_std: jax.Array | None = None


class Renderer(Protocol[Samples]):
  """A way to render rays with one or two fields, as pure functions."""

  @property
  def max_samples(self) -> int | None:
    """Most samples of one call of `render`; None: any number of rays."""

  @property
  def update_every(self) -> int:
    """Steps between two updates of the state; 0: it stays as it is."""

  def init(self, key: jax.Array) -> Variables:
    """Returns random parameters, and the state before the first step."""

  def sample_rays(
    self, variables: Variables, rays: cameras.Rays, keys: jax.Array
  ) -> Samples:
    """Samples `R` rays, at random where training is to be.

    Args:
      variables: parameters and state; no gradient is taken of them here.
      rays: `R` rays. One with `far` at `near` has no length, and renders as
        background.
      keys: `[R]`, one per ray.
    """

  def render(
    self, params: Params, rays: cameras.Rays, samples: Samples
  ) -> tuple[Rendering, ...]:
    """Renders `R` rays from their samples; differentiable in `params`.

    Args:
      params: of the networks.
      rays: `R` rays, those that were sampled.
      samples: of these rays, at most `max_samples` in all. To leave rays out,
        see `RaySamples.keep`.

    Returns:
      A rendering per network: the last is the result, one before guides it.

    Raises:
      ValueError: if there are more than `max_samples`. Inside of a compiled
        function, where that is not known, the rays past it become NaN.
    """

  def render_eval(
    self, variables: Variables, rays: cameras.Rays
  ) -> tuple[EvalRendering, ...]:
    """Renders any number of rays; nothing is random, and rays may end early."""

  def update_state(
    self, variables: Variables, key: jax.Array, step: jax.Array
  ) -> RendererState:
    """Returns the state after `step` updates, from current parameters.

    It is called when `step` is a multiple of `update_every`.
    """


def init_params(fields: Mapping[str, hk.Transformed], key: jax.Array) -> Params:
  """Returns random parameters of fields, by their names."""
  keys = jax.random.split(key, len(fields))
  point = jnp.zeros((1, 3))
  return {
    name: field.init(key, point, point)
    for key, (name, field) in zip(keys, fields.items(), strict=True)
  }


def query(
  field: hk.Transformed,
  params: hk.Params,
  rays: cameras.Rays,
  t: jax.Array,
  noise: jax.Array | float,
  *,
  activation: Callable[[jax.Array], jax.Array],
  contracted: bool,
  gradient_radius: float,
  edges: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Queries a field at the same number of positions on each of `R` rays.

  Args:
    field: maps points and viewing directions to raw densities and colors.
    params: of the field.
    rays: `R` rays.
    t: `[R, S]` positions.
    noise: `[R, S]` added to raw densities, or 0.
    activation: maps raw densities to densities per scene unit, or where space
      is contracted, to those that `contraction.density_factor` scales.
    contracted: whether the field is of unbounded space that is contracted.
    gradient_radius: see `volume.scale_gradients`; 0: gradients are not scaled.
    edges: `[R, S + 1]` of the pieces of the rays' cones that are queried in
      place of `t`, see `cones`; None: points on rays are.

  Returns:
    Densities `[R, S]` per scene unit, and colors `[R, S, 3]`.
  """
  spread: tuple[jax.Array, ...] = ()
  if edges is not None:
    t, variance = cones.gaussians(rays, edges[:, :-1], edges[:, 1:])
    spread = (variance,)
  points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
  density, rgb = field.apply(params, points, rays.viewdirs[:, None], *spread)
  if gradient_radius:
    length = jnp.linalg.norm(rays.directions, axis=-1, keepdims=True)
    density, rgb = volume.scale_gradients(
      density, rgb, t * length, radius=gradient_radius
    )
  density = activation(density + noise)
  if contracted:
    density *= contraction.density_factor(points)
  return density, rgb


def within_budget(num_samples: jax.Array, max_samples: int | None) -> jax.Array:
  """Returns which of `[R]` rays, from the first on, fit a budget together.

  Args:
    num_samples: `[R]` int32, samples of each ray, 0 or more.
    max_samples: the budget, up to 2**30; None: all rays fit.

  Returns:
    `[R]` bool: first all that fit, then all others.
  """
  if max_samples is None:
    return jnp.ones(num_samples.shape, dtype=jnp.bool_)
  # A sum of uint32 wraps in the end, but one int32 cannot carry it from within
  # the budget to past the wrap, so the first excess is always seen.
  exceeds = jnp.cumsum(num_samples.astype(jnp.uint32)) > max_samples
  num_fitting = jnp.where(
    jnp.any(exceeds), jnp.argmax(exceeds), len(num_samples)
  )
  return jnp.arange(len(num_samples)) < num_fitting
