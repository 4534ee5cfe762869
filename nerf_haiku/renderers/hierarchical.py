"""From rays to what is seen along them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from nerf_haiku import cameras, sampling, volume

# The parameters of each network of a renderer, by its name.
Params = dict[str, hk.Params]
# One rendering per network: the last is the result, those before guide it.
Renderings = tuple[volume.Rendering, ...]


# What a renderer keeps of the scene between steps, beside the parameters:
# arrays, the same on all devices.
Memory = Any


class Learnt(NamedTuple):
  """All that is known of a scene: what a view is rendered from."""

  params: Params
  memory: Memory = ()


class Plan(NamedTuple):
  """How `R` rays are going to be rendered in a step of training."""

  details: Any  # the renderer's own, arrays that lead with `[R]`.
  num_samples: chex.Array  # [R] int32, what each ray costs.


def _plan_nothing(
  params: Params, memory: Memory, keys: chex.PRNGKey, rays: cameras.Rays
) -> Plan:
  """The plan of a renderer whose rays all cost the same."""
  del params, memory
  return Plan(keys, jnp.ones(rays.near.shape[0], jnp.int32))


class Renderer(NamedTuple):
  """A way to render rays with fields, as pure functions."""

  # key -> params.
  init: Callable[[chex.PRNGKey], Params]
  # params, details of a plan, rays -> renderings; of the first rays, as far
  # as their samples fit the budget (see `fitting`), the others are empty.
  train: Callable[[Params, Any, cameras.Rays], Renderings]
  # params, rays, memory -> renderings, with nothing random.
  render: Callable[..., Renderings]
  # params, memory, keys [R], rays -> where samples lie, and all that is
  # random; the keys alone, if nothing else is to be planned.
  plan: Callable[[Params, Memory, chex.PRNGKey, cameras.Rays], Plan] = (
    _plan_nothing
  )
  # -> what is remembered before the first step.
  remember: Callable[[], Memory] = tuple
  # memory, params, key, step -> memory, looked over when it is time to.
  refresh: Callable[[Memory, Params, chex.PRNGKey, chex.Array], Memory] = (
    lambda memory, params, key, step: memory
  )
  # samples that `train` takes at a time; None: of any number of rays.
  budget: int | None = None


def fitting(num_samples: chex.Array, budget: int | None) -> chex.Array:
  """Which of `[R]` rays, from the first on, fit a budget together."""
  if budget is None:
    return jnp.ones(num_samples.shape, dtype=jnp.bool_)
  return jnp.cumsum(num_samples) <= budget


class Draws(NamedTuple):
  """All that may be random in a hierarchical rendering of `R` rays."""

  t: chex.Array  # [R, S] positions of the coarse samples.
  u: chex.Array  # [R, N] where the coarse weights' inverse CDF is asked.
  coarse_noise: chex.Array  # [R, S] added to densities before activation.
  fine_noise: chex.Array  # [R, S + N] the same for the fine network.


def make_hierarchical(
  coarse: hk.Transformed,
  fine: hk.Transformed | None,
  *,
  num_samples: int,
  num_importance: int,
  perturb: bool,
  lindisp: bool,
  raw_noise_std: float,
  density_activation: str,
  infinite_end: bool,
  white_background: bool,
) -> Renderer:
  """The paper's renderer: coarse samples, then fine ones where they matter.

  Args:
    coarse: the field asked at `num_samples` evenly spread positions.
    fine: the field asked at these and `num_importance` more (section 5.2), or
      None where `num_importance` is 0.
    num_samples: `S`, at least 3 where there is a fine network.
    num_importance: `N`.
    perturb: whether positions are random in training.
    lindisp: whether positions are spread evenly in disparity, not depth.
    raw_noise_std: deviation of the noise on densities in training.
    density_activation: a name of `volume.DENSITY_ACTIVATIONS`.
    infinite_end: whether the last sample's interval has no end (the
      original's choice) or ends where the ray does.
    white_background: whether light that nothing absorbs is white, not black.

  Returns:
    The renderer; its params are `{'coarse': ...}`, and `'fine'` if there is.
  """
  activation = volume.DENSITY_ACTIVATIONS[density_activation]
  fields = (
    {'coarse': coarse} if fine is None else {'coarse': coarse, 'fine': fine}
  )

  def init(key: chex.PRNGKey) -> Params:
    keys = jax.random.split(key, len(fields))
    point = jnp.zeros((1, 3))
    return {
      name: field.init(key, point, point)
      for key, (name, field) in zip(keys, fields.items(), strict=True)
    }

  def plan(
    params: Params, memory: Memory, keys: chex.PRNGKey, rays: cameras.Rays
  ) -> Plan:
    samples = num_samples * len(fields) + num_importance
    plan = _plan_nothing(params, memory, keys, rays)
    return plan._replace(num_samples=samples * plan.num_samples)

  def see(name, params, rays, t, noise):
    points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    density, rgb = fields[name].apply(
      params[name], points, rays.viewdirs[:, None]
    )
    end = rays.far
    if infinite_end:  # But for rays of no length, which see nothing.
      end = jnp.where(rays.far > rays.near, volume.INFINITE, end)
    seen = volume.composite(
      rgb,
      activation(density + noise),
      t,
      rays.directions,
      end=end,
      white_background=white_background,
    )
    at_ends = volume.boundary_weight(seen.weights, t, rays.near, rays.far)
    width = jnp.diff(jnp.concatenate([t, rays.far], axis=-1), axis=-1)
    apart = volume.distortion(
      seen.weights,
      t,
      width,
      rays.near,
      rays.far,
      sum_before=lambda x: jnp.cumsum(x, axis=-1) - x,
    )
    return seen._replace(
      at_ends=jnp.sum(at_ends, axis=1), distortion=jnp.sum(apart, axis=1)
    )

  def render(params: Params, rays: cameras.Rays, draws: Draws) -> Renderings:
    first = see('coarse', params, rays, draws.t, draws.coarse_noise)
    if fine is None:
      return (first,)
    added = jax.lax.stop_gradient(refine(first, draws.u))
    t = jnp.sort(jnp.concatenate([draws.t, added], axis=-1), axis=-1)
    second = see('fine', params, rays, t, draws.fine_noise)
    return first, second._replace(spread=jnp.std(added, axis=-1))

  def spread(rays: cameras.Rays) -> chex.Array:
    return sampling.even(
      rays.near, rays.far, num_samples=num_samples, lindisp=lindisp
    )

  def settled(
    params: Params, rays: cameras.Rays, memory: Memory = ()
  ) -> Renderings:
    del memory
    return render(params, rays, still(spread(rays), num_importance))

  def train(
    params: Params, keys: chex.PRNGKey, rays: cameras.Rays
  ) -> Renderings:
    draws = draw(
      keys,
      spread(rays),
      num_importance,
      perturb=perturb,
      raw_noise_std=raw_noise_std,
    )
    return render(params, rays, draws)

  return Renderer(init, train, settled, plan)


def still(t: chex.Array, num_importance: int) -> Draws:
  """Draws in which nothing is random, for coarse positions `[R, S]`."""
  rays, samples = t.shape
  u = jnp.linspace(0.0, 1.0, num_importance, dtype=t.dtype)
  return Draws(
    t,
    jnp.broadcast_to(u, (rays, num_importance)),
    jnp.zeros_like(t),
    jnp.zeros((rays, samples + num_importance), t.dtype),
  )


def draw(
  keys: chex.PRNGKey,
  t: chex.Array,
  num_importance: int,
  *,
  perturb: bool,
  raw_noise_std: float,
) -> Draws:
  """Random draws around even coarse positions.

  Args:
    keys: `[R]`, one per ray; used up.
    t: `[R, S]` even positions.
    num_importance: `N`.
    perturb: whether positions are random.
    raw_noise_std: deviation of the noise on densities; 0 for none.
  """
  rays, samples = t.shape
  chex.assert_shape(keys, (rays,))
  draws = still(t, num_importance)
  to_t, to_u, to_coarse, to_fine = jnp.moveaxis(
    jax.vmap(lambda key: jax.random.split(key, 4))(keys), 1, 0
  )
  if perturb:
    draws = draws._replace(
      t=sampling.stratified(to_t, t), u=sampling.uniforms(to_u, num_importance)
    )
  if raw_noise_std:
    coarse = sampling.normals(to_coarse, samples)
    fine = sampling.normals(to_fine, samples + num_importance)
    draws = draws._replace(
      coarse_noise=raw_noise_std * coarse, fine_noise=raw_noise_std * fine
    )
  return draws


def refine(coarse: volume.Rendering, u: chex.Array) -> chex.Array:
  """Positions where a coarse rendering has its weight (section 5.2).

  Args:
    coarse: rendering of `R` rays from `S` samples, at least 3.
    u: `[R, N]` in [0, 1], see `sampling.invert_cdf`.

  Returns:
    `[R, N]` positions. The bins lie between the midpoints of the samples, and
    each has its sample's weight; the outermost samples have none.
  """
  edges = sampling.midpoints(coarse.t)
  return sampling.invert_cdf(u, edges, coarse.weights[:, 1:-1])
