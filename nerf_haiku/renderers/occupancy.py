"""The occupancy renderer: samples only where space is not empty."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import cameras, occupancy_grid, ray_marching, sampling, volume
from nerf_haiku.renderers import hierarchical

# Parts that the cells of a grid are looked over in, interleaved, and how many
# of them in one look after the first steps.
_PARTS, _PARTS_OF_A_LOOK = 16, 4
# So many times the budget, where density alone is asked for.
_DENSITY_BUDGET = 2
# A ray ends where so little light is left.
_SPENT = 1e-4
_OPAQUE = -np.log(_SPENT)  # The optical depth that lets no more through.


class Settings(NamedTuple):
  """How an occupancy renderer marches and remembers."""

  box: np.ndarray  # [2, 3] what is modelled, in the rays' units.
  resolution: int  # cells of the grid along each side of the box.
  step: float  # distance of positions on a ray, in the rays' units.
  budget: int  # samples that are asked of the field at a time.
  threshold: float  # least opacity of one step in an occupied cell.
  decay: float  # of what is remembered of a cell, each time it is looked at.
  every: int  # steps between two looks at cells.
  warmup: int  # first steps, in which a look is at all cells.

  def num_positions(self) -> int:
    """Positions of the longest ray through the box."""
    diagonal = float(np.linalg.norm(self.box[1] - self.box[0]))
    return int(np.ceil(diagonal / self.step)) + 1


class Details(NamedTuple):
  """What is planned of `R` rays."""

  marched: ray_marching.MarchedRays
  number: chex.Array  # [R] int32, samples.
  keys: chex.PRNGKey  # [R] for the noise.


class _Places(NamedTuple):
  """Where `B` samples lie on their rays, in t."""

  t: chex.Array  # [B]
  width: chex.Array  # [B] of their intervals, to the ray's end at most.
  near: chex.Array  # [B] where their rays begin.
  far: chex.Array  # [B] where they end.


class _Sums(NamedTuple):
  """What `R` rays have gathered so far."""

  taken: chex.Array  # [R] int32, samples.
  light: chex.Array  # [R] that is left: transmittance.
  rgb: chex.Array  # [R, 3]
  opacity: chex.Array  # [R]
  depth: chex.Array  # [R]
  at_ends: chex.Array  # [R, 2]


@dataclasses.dataclass(frozen=True)
class _Marcher:
  """The functions of an occupancy renderer, see `renderers.Renderer`."""

  field: hk.Transformed
  settings: Settings
  activation: Callable[[chex.Array], chex.Array]  # of densities.
  perturb: bool
  raw_noise_std: float
  infinite_end: bool
  white_background: bool

  def init(self, key: chex.PRNGKey) -> hierarchical.Params:
    point = jnp.zeros((1, 3))
    return {'field': self.field.init(key, point, point)}

  def _clip(self, rays):
    return cameras.clip(rays, self.settings.box)

  def _march(self, grid, rays, shift):
    return ray_marching.march(
      grid.occupied,
      rays,
      shift,
      box=self.settings.box,
      step=self.settings.step,
      num_positions=self.settings.num_positions(),
    )

  def plan(
    self,
    params: hierarchical.Params,
    grid: occupancy_grid.Grid,
    keys: chex.PRNGKey,
    rays: cameras.Rays,
  ) -> hierarchical.Plan:
    rays = self._clip(rays)
    shift = jnp.full(rays.near.shape[:1], 0.5)
    if self.perturb:
      shift = sampling.uniforms(keys, 1)[:, 0]
    marched = self._march(grid, rays, shift)
    number = self._lit(params, rays, marched, keys)
    return hierarchical.Plan(Details(marched, number, keys), number)

  def _lit(self, params, rays, marched, keys):
    """How many samples of each ray any light reaches: the first ones.

    Asks for density alone, which costs a fraction of a gradient.
    """
    number = ray_marching.count_samples(marched)
    longest = self.settings.num_positions()
    budget = min(_DENSITY_BUDGET * self.settings.budget, len(number) * longest)

    def ask(carry):
      begin, found = carry
      left = number * (jnp.arange(len(number)) >= begin)
      fits = hierarchical.fitting(left, budget)
      samples = ray_marching.pack_samples(
        marched, jnp.zeros_like(left), left * fits, budget=budget
      )
      added = self._noise(keys, samples)
      optical_depth, *_ = self._see(params, rays, marched, samples, added)
      before = volume.exclusive_sum(optical_depth, samples.rank, longest)
      alive = samples.used & (before < _OPAQUE)
      found += jax.ops.segment_sum(
        alive.astype(jnp.int32),
        samples.ray,
        len(number),
        indices_are_sorted=True,
      )
      return jnp.sum(fits), found

    _, found = jax.lax.while_loop(
      lambda carry: carry[0] < len(number), ask, (0, jnp.zeros_like(number))
    )
    return found

  def _noise(self, keys, samples):
    if not self.raw_noise_std:
      return 0.0
    one = jax.vmap(lambda key, i: jax.random.normal(jax.random.fold_in(key, i)))
    return self.raw_noise_std * one(keys[samples.ray], samples.position)

  def _see(self, params, rays, marched, samples, added):
    """Asks the field: optical depths and what is composited with them."""
    along = jax.tree.map(lambda x: x[samples.ray], rays)
    step = ray_marching.step_sizes(along, self.settings.step)[:, 0]
    shift = marched.shift[samples.ray]
    t = along.near[:, 0] + (samples.position + shift) * step
    points = along.origins + t[:, None] * along.directions
    density, rgb = self.field.apply(params['field'], points, along.viewdirs)
    near, far = along.near[:, 0], along.far[:, 0]
    width = length = jnp.minimum(step, far - t)
    if self.infinite_end:
      length = jnp.where(t + step < far, length, volume.INFINITE)
    # Back from t to scene units, as in `volume.composite`.
    length *= jnp.linalg.norm(along.directions, axis=-1)
    optical_depth = self.activation(density + added) * length
    optical_depth = jnp.where(samples.used, optical_depth, 0.0)
    return optical_depth, rgb, _Places(t, width, near, far)

  def _gather(self, params, rays, marched, samples, added):
    optical_depth, rgb, at = self._see(params, rays, marched, samples, added)
    longest = self.settings.num_positions()
    packed = volume.composite_packed(
      rgb,
      optical_depth,
      at.t,
      ray=samples.ray,
      rank=samples.rank,
      num_rays=len(marched.shift),
      longest=longest,
    )
    at_ends = volume.boundary_weight(packed.weights, at.t, at.near, at.far)
    apart = volume.distortion(
      packed.weights,
      *at,
      sum_before=lambda x: volume.exclusive_sum(x, samples.rank, longest),
    )
    at_ends, apart = (  # Apart, so that what nobody asks for is left out.
      jax.ops.segment_sum(
        x, samples.ray, len(marched.shift), indices_are_sorted=True
      )
      for x in (at_ends, apart)
    )
    return packed, at_ends, apart

  def _finish(self, rgb, opacity, depth, at_ends, distortion):
    if self.white_background:
      rgb = rgb + (1.0 - opacity[:, None])
    nothing = jnp.zeros((len(depth), 0), depth.dtype)  # Samples are not kept.
    return (
      volume.Rendering(
        rgb,
        depth,
        volume.disparity(depth, opacity),
        opacity,
        nothing,
        nothing,
        jnp.zeros_like(depth),
        at_ends,
        distortion,
      ),
    )

  def train(
    self, params: hierarchical.Params, details: Details, rays: cameras.Rays
  ) -> hierarchical.Renderings:
    rays = self._clip(rays)
    fits = hierarchical.fitting(details.number, self.settings.budget)
    number = jnp.where(fits, details.number, 0)
    most = len(number) * self.settings.num_positions()
    samples = ray_marching.pack_samples(
      details.marched,
      jnp.zeros_like(number),
      number,
      budget=min(self.settings.budget, most),
    )
    added = self._noise(details.keys, samples)
    packed, *more = self._gather(params, rays, details.marched, samples, added)
    return self._finish(packed.rgb, packed.opacity, packed.depth, *more)

  def render(
    self,
    params: hierarchical.Params,
    rays: cameras.Rays,
    grid: occupancy_grid.Grid,
  ) -> hierarchical.Renderings:
    """Marches in rounds; each takes the next samples of the rays that go on.

    The fewer they are, the more samples each of them has in a round.
    """
    rays = self._clip(rays)
    num_rays = len(rays.near)
    budget = max(self.settings.budget, num_rays)
    marched = self._march(grid, rays, jnp.full(num_rays, 0.5))
    number = ray_marching.count_samples(marched)

    def live(sums):
      return (sums.taken < number) & (sums.light > _SPENT)

    def advance(sums):
      going = live(sums)
      quota = budget // jnp.maximum(jnp.sum(going), 1)
      next_ = jnp.minimum(number - sums.taken, quota)
      next_ = jnp.where(going, next_, 0)
      samples = ray_marching.pack_samples(
        marched, sums.taken, next_, budget=budget
      )
      packed, at_ends, _ = self._gather(params, rays, marched, samples, 0.0)
      light = sums.light
      return _Sums(
        sums.taken + next_,
        light * packed.transmittance,
        sums.rgb + light[:, None] * packed.rgb,
        sums.opacity + light * packed.opacity,
        sums.depth + light * packed.depth,
        sums.at_ends + light[:, None] * at_ends,
      )

    zero = jnp.zeros(num_rays)
    none = _Sums(
      jnp.zeros(num_rays, jnp.int32),
      zero + 1.0,
      jnp.zeros((num_rays, 3)),
      zero,
      zero,
      jnp.zeros((num_rays, 2)),
    )
    sums = jax.lax.while_loop(lambda x: jnp.any(live(x)), advance, none)
    # Over rounds the distances between samples are not summed up.
    return self._finish(sums.rgb, sums.opacity, sums.depth, sums.at_ends, zero)

  def refresh(
    self,
    grid: occupancy_grid.Grid,
    params: hierarchical.Params,
    key: chex.PRNGKey,
    step: chex.Array,
  ) -> occupancy_grid.Grid:
    settings = self.settings
    size = settings.resolution**3
    turn = step // settings.every

    def look(i, grid):
      part = (turn * _PARTS_OF_A_LOOK + i) % _PARTS
      index = (part + _PARTS * jnp.arange(-(-size // _PARTS))) % size
      offset = jax.random.uniform(
        jax.random.fold_in(jax.random.fold_in(key, turn), part), (len(index), 3)
      )
      points = occupancy_grid.cell_points(
        index, offset, settings.box, settings.resolution
      )
      density, _ = self.field.apply(
        params['field'], points, jnp.zeros_like(points)
      )
      return occupancy_grid.update_density(
        grid, index, self.activation(density), decay=settings.decay
      )

    def renew(grid):
      parts = jnp.where(step <= settings.warmup, _PARTS, _PARTS_OF_A_LOOK)
      grid = jax.lax.fori_loop(0, parts, look, grid)
      return occupancy_grid.update_occupied(
        grid, least=settings.threshold / settings.step
      )

    due = (step % settings.every == 0) & (step > 0)
    return jax.lax.cond(due, renew, lambda grid: grid, grid)


def make_occupancy(
  field: hk.Transformed,
  settings: Settings,
  *,
  perturb: bool,
  raw_noise_std: float,
  density_activation: str,
  infinite_end: bool,
  white_background: bool,
) -> hierarchical.Renderer:
  """A renderer that learns where space is empty, and asks the field elsewhere.

  Rays are marched in even steps through a grid of cells (section E of Müller
  et al., 2022); in training a random shift of each ray moves its positions.

  Args:
    field: what is asked.
    settings: of the march and the grid.
    perturb: whether the shift is random in training; else it is half a step,
      as in rendering.
    raw_noise_std: deviation of the noise on densities in training.
    density_activation: a name of `volume.DENSITY_ACTIVATIONS`.
    infinite_end: whether the interval of a ray's last position has no end.
    white_background: whether light that nothing absorbs is white, not black.

  Returns:
    The renderer; its params are `{'field': ...}`, its memory is a grid.
  """
  marcher = _Marcher(
    field,
    settings,
    volume.DENSITY_ACTIVATIONS[density_activation],
    perturb,
    raw_noise_std,
    infinite_end,
    white_background,
  )
  return hierarchical.Renderer(
    marcher.init,
    marcher.train,
    marcher.render,
    marcher.plan,
    lambda: occupancy_grid.init_grid(settings.resolution),
    marcher.refresh,
    settings.budget,
  )
