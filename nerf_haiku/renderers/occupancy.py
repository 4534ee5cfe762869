"""The occupancy renderer: samples only where space is not empty."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Self

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import (
  backgrounds,
  cameras,
  cones,
  contraction,
  occupancy_grid,
  ops,
  ray_marching,
  sampling,
  volume,
)
from nerf_haiku.renderers import base

# An update after the first steps measures some of these interleaved parts of
# the grid's cells.
_NUM_PARTS, _PARTS_PER_UPDATE = 16, 4
# Queries of density alone take this many times `max_samples` at a time.
_DENSITY_FACTOR = 2
# Samples of a ray that a round of evaluation takes, at least: those behind
# what ends the ray are queried in vain.
_MIN_SHARE = 4
# A ray ends where its transmittance is less.
_MIN_TRANSMITTANCE = 1e-4
_MAX_OPTICAL_DEPTH = -np.log(_MIN_TRANSMITTANCE)


class Settings(NamedTuple):
  """Settings of the march and of the grid."""

  # [2, 3] the modelled volume, in the rays' units; `contraction.BOX` where
  # unbounded space is contracted.
  box: np.ndarray
  # Distance of positions on a ray, in the rays' units; in contracted space in
  # the s of `sampling.Spacing`.
  step_size: float
  resolution: int = 64  # cells of the grid along each side of the box.
  max_samples: int = 2**15  # of one query of the field.
  alpha_threshold: float = 0.01  # opacity of a step through an occupied cell.
  ema_decay: float = 0.8  # of a cell's density at each measurement, in (0, 1).
  update_every: int = 16  # steps between updates of the grid.
  warmup_steps: int = 256  # first steps, in which updates measure all cells.
  contracted: bool = False  # whether unbounded space is contracted.
  # Steps of evaluation for each of training: there positions are not random,
  # and what lies between them is missed.
  render_substeps: int = 1

  def of_evaluation(self) -> 'Settings':
    """Returns settings whose steps are those of evaluation."""
    step_size = self.step_size / self.render_substeps
    settings = self._replace(step_size=step_size, render_substeps=1)
    max_samples = max(self.max_samples, settings.num_positions())
    return settings._replace(max_samples=max_samples)

  def num_positions(self) -> int:
    """Returns the number of positions of the longest ray through the box."""
    longest = float(np.linalg.norm(self.box[1] - self.box[0]))
    if self.contracted:
      longest = 2 * contraction.RADIUS  # Of s, on any ray.
    return int(np.ceil(longest / self.step_size)) + 1


class MarchedSamples(NamedTuple):
  """The samples of `R` rays in occupied cells, as far as light reaches."""

  num_samples: jax.Array  # [R] int32, the first ones of `marched`.
  marched: ray_marching.MarchedRays
  keys: jax.Array  # [R] for the noise.

  def keep(self, mask: jax.Array) -> Self:
    """See `base.RaySamples`."""
    return self._replace(num_samples=jnp.where(mask, self.num_samples, 0))


class _Queried(NamedTuple):
  """What the field has at `B` packed samples, and their intervals."""

  optical_depth: jax.Array  # [B] density times length.
  rgb: jax.Array  # [B, 3]
  t: jax.Array  # [B]
  width: jax.Array  # [B] of the intervals, in t, to the ray's end at most.
  spacing: sampling.Spacing | None  # [B] see `ray_marching.Intervals`.
  near: jax.Array  # [B] where their rays begin.
  far: jax.Array  # [B] where they end.


class _Accumulators(NamedTuple):
  """The integrals along `R` rays up to their next sample."""

  num_taken: jax.Array  # [R] int32, samples so far.
  transmittance: jax.Array  # [R]
  rgb: jax.Array  # [R, 3]
  opacity: jax.Array  # [R]
  depth: jax.Array  # [R]
  boundary_weight: jax.Array  # [R, 2]


@dataclasses.dataclass(frozen=True)
class OccupancyRenderer:
  """Marches rays in even steps through a grid, and queries occupied cells.

  The method of Müller et al., 2022, appendix E; in training a random shift of
  each ray moves its positions. The parameters are those of one network,
  `field`; the state is an `occupancy_grid.Grid`.

  Attributes:
    field: the field that is queried.
    settings: of the march and of the grid.
    activation: maps raw densities to densities per scene unit, or where space
      is contracted, to those that `contraction.density_factor` scales.
    perturb: whether the shift is random in training; else it is half a step,
      as it is in evaluation.
    raw_noise_std: standard deviation of the noise on densities in training.
    infinite_end: whether the interval of a ray's last position has no end.
    background: see `volume.composite`.
    gradient_radius: see `volume.scale_gradients`; 0: gradients are not scaled.
    cones: whether the field is queried for pieces of cones, see `cones`; the
      rays need a radius then. The grid knows points alone.

  Raises:
    ValueError: if the samples of one ray may exceed `settings.max_samples`.
  """

  field: hk.Transformed
  settings: Settings
  activation: Callable[[jax.Array], jax.Array]
  perturb: bool
  raw_noise_std: float
  infinite_end: bool
  background: backgrounds.Color
  gradient_radius: float
  cones: bool = False

  def __post_init__(self) -> None:
    positions = self.settings.num_positions()
    if positions > self.settings.max_samples:
      raise ValueError(
        f'max_samples must be at least {positions}, the positions of the '
        f'longest ray through the box; got {self.settings.max_samples}.'
      )

  @property
  def max_samples(self) -> int:
    """Most samples of one call of `render`."""
    return self.settings.max_samples

  @property
  def update_every(self) -> int:
    """Steps between two updates of the grid."""
    return self.settings.update_every

  def init(self, key: jax.Array) -> base.Variables:
    """See `base.Renderer`."""
    point = jnp.zeros((1, 3))
    return base.Variables(
      params={'field': self.field.init(key, point, point)},
      state=occupancy_grid.init_grid(self.settings.resolution),
    )

  def sample_rays(
    self, variables: base.Variables, rays: cameras.Rays, keys: jax.Array
  ) -> MarchedSamples:
    """See `base.Renderer`.

    Samples that no light reaches are left out: density alone is queried for
    that, at a fraction of what a gradient costs.
    """
    rays = self._clip(rays)
    shift = jnp.full(rays.near.shape[:1], 0.5)
    if self.perturb:
      shift = sampling.uniforms(keys, 1)[:, 0]
    marched = self._march(variables.state, rays, shift)
    visible = self._count_visible(variables.params, rays, marched, keys)
    return MarchedSamples(num_samples=visible, marched=marched, keys=keys)

  def render(
    self, params: base.Params, rays: cameras.Rays, samples: MarchedSamples
  ) -> tuple[base.Rendering, ...]:
    """See `base.Renderer`."""
    rays = self._clip(rays)
    count = samples.num_samples
    valid = base.within_budget(count, self.max_samples)
    _check_budget(count, self.max_samples)
    count = jnp.where(valid, count, 0)
    longest = len(count) * self.settings.num_positions()
    packed = ray_marching.pack_samples(
      samples.marched,
      jnp.zeros_like(count),
      count,
      max_samples=min(self.max_samples, longest),
    )
    noise = self._noise(samples.keys, packed)
    sums, history = self._composite(
      params, rays, samples.marched, packed, noise
    )
    # Rays past the budget are invalid, never silently empty.
    rgb = jnp.where(valid[:, None], sums.rgb, jnp.nan)
    outputs = self._outputs(rgb, sums.opacity, sums.depth)
    return (base.Rendering(outputs=outputs, history=history),)

  def render_eval(
    self, variables: base.Variables, rays: cameras.Rays
  ) -> tuple[base.EvalRendering, ...]:
    """See `base.Renderer`.

    It marches in rounds. Each takes the next few samples of the first rays that
    have not ended, as many as are queried at a time: where a ray ends, the
    next begins. The fewer rays are left, the more samples of each are taken.
    """
    if self.settings.render_substeps > 1:
      settings = self.settings.of_evaluation()
      finer = dataclasses.replace(self, settings=settings)
      return finer.render_eval(variables, rays)
    rays = self._clip(rays)
    marched = self._march(variables.state, rays, jnp.full(len(rays.near), 0.5))
    count = ray_marching.count_samples(marched)

    def is_live(sums: _Accumulators) -> jax.Array:
      return (sums.num_taken < count) & (
        sums.transmittance > _MIN_TRANSMITTANCE
      )

    def advance(sums: _Accumulators) -> _Accumulators:
      return self._advance(
        sums, is_live(sums), count, variables.params, rays, marched
      )

    sums = jax.lax.while_loop(
      lambda sums: jnp.any(is_live(sums)), advance, _init_sums(len(count))
    )
    outputs = self._outputs(sums.rgb, sums.opacity, sums.depth)
    return (
      base.EvalRendering(outputs=outputs, boundary_weight=sums.boundary_weight),
    )

  def update_state(
    self, variables: base.Variables, key: jax.Array, step: jax.Array
  ) -> base.RendererState:
    """See `base.Renderer`: measures the density in some cells of the grid."""
    settings = self.settings
    grid = variables.state
    if not isinstance(grid, occupancy_grid.Grid):
      raise TypeError(f'The state must be an occupancy grid, got {grid}.')
    turn = step // settings.update_every
    parts = jnp.where(
      step <= settings.warmup_steps, _NUM_PARTS, _PARTS_PER_UPDATE
    )
    grid = jax.lax.fori_loop(
      0,
      parts,
      lambda i, grid: self._measure(
        grid,
        variables.params,
        jax.random.fold_in(key, turn),
        (turn * _PARTS_PER_UPDATE + i) % _NUM_PARTS,
      ),
      grid,
    )
    return occupancy_grid.update_occupied(
      grid, min_density=settings.alpha_threshold / settings.step_size
    )

  def _measure(
    self,
    grid: occupancy_grid.Grid,
    params: base.Params,
    key: jax.Array,
    part: jax.Array,
  ) -> occupancy_grid.Grid:
    """Measures the density at a random point in each cell of a part."""
    settings = self.settings
    num_cells = settings.resolution**3
    index = part + _NUM_PARTS * jnp.arange(-(-num_cells // _NUM_PARTS))
    index %= num_cells
    offset = jax.random.uniform(jax.random.fold_in(key, part), (len(index), 3))
    points = occupancy_grid.cell_points(
      index, offset, settings.box, settings.resolution
    )
    if settings.contracted:
      points = contraction.expand(points)
    density, _ = self.field.apply(
      params['field'], points, jnp.zeros_like(points)
    )
    return occupancy_grid.update_density(
      grid, index, self.activation(density), decay=settings.ema_decay
    )

  def _clip(self, rays: cameras.Rays) -> cameras.Rays:
    if self.settings.contracted:
      return rays
    return cameras.clip(rays, self.settings.box)

  def _march(
    self, state: base.RendererState, rays: cameras.Rays, shift: jax.Array
  ) -> ray_marching.MarchedRays:
    if not isinstance(state, occupancy_grid.Grid):
      raise TypeError(f'The state must be an occupancy grid, got {state}.')
    return ray_marching.march(
      state.occupied,
      rays,
      shift,
      box=self.settings.box,
      step=self.settings.step_size,
      num_positions=self.settings.num_positions(),
      contracted=self.settings.contracted,
    )

  def _count_visible(
    self,
    params: base.Params,
    rays: cameras.Rays,
    marched: ray_marching.MarchedRays,
    keys: jax.Array,
  ) -> jax.Array:
    """Counts the first samples `[R]` of each ray that light reaches."""
    count = ray_marching.count_samples(marched)
    longest = self.settings.num_positions()
    budget = min(_DENSITY_FACTOR * self.max_samples, len(count) * longest)

    def query(
      carry: tuple[jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
      begin, visible = carry
      remaining = count * (jnp.arange(len(count)) >= begin)
      fits = base.within_budget(remaining, budget)
      packed = ray_marching.pack_samples(
        marched, jnp.zeros_like(remaining), remaining * fits, max_samples=budget
      )
      noise = self._noise(keys, packed)
      optical_depth = self._query(
        params, rays, marched, packed, noise
      ).optical_depth
      before = ops.exclusive_sum(optical_depth, packed.rank, longest)
      is_visible = packed.used & (before < _MAX_OPTICAL_DEPTH)
      visible += jax.ops.segment_sum(
        is_visible.astype(jnp.int32),
        packed.ray,
        len(count),
        indices_are_sorted=True,
      )
      return jnp.sum(fits), visible

    begin = jnp.zeros((), jnp.int32)
    _, visible = ops.repeat(
      query, lambda carry: carry[0] < len(count), (begin, jnp.zeros_like(count))
    )
    return visible

  def _noise(
    self, keys: jax.Array, packed: ray_marching.PackedSamples
  ) -> jax.Array | float:
    if not self.raw_noise_std:
      return 0.0

    def draw(key: jax.Array, position: jax.Array) -> jax.Array:
      return jax.random.normal(jax.random.fold_in(key, position))

    noise: jax.Array = jax.vmap(draw)(keys[packed.ray], packed.position)
    return self.raw_noise_std * noise

  def _query(
    self,
    params: base.Params,
    rays: cameras.Rays,
    marched: ray_marching.MarchedRays,
    packed: ray_marching.PackedSamples,
    noise: jax.Array | float,
  ) -> _Queried:
    """Queries the field at packed samples."""
    ray = jax.tree.map(lambda x: x[packed.ray], rays)
    intervals = ray_marching.intervals(
      ray,
      packed.position + marched.shift[packed.ray],
      step=self.settings.step_size,
      contracted=self.settings.contracted,
    )
    t = intervals.t[:, None]
    spread: tuple[jax.Array, ...] = ()
    if self.cones:
      piece = cones.gaussians(ray, t, t + intervals.width[:, None])
      t, spread = piece.t, (piece.variance[:, 0],)
    points = ray.origins + t * ray.directions
    density, rgb = self.field.apply(
      params['field'], points, ray.viewdirs, *spread
    )
    speed = jnp.linalg.norm(ray.directions, axis=-1)
    if self.gradient_radius:
      density, rgb = volume.scale_gradients(
        density, rgb, intervals.t * speed, radius=self.gradient_radius
      )
    length = intervals.width
    if self.infinite_end:
      length = jnp.where(intervals.is_last, volume.INFINITE, length)
    # From t to scene units, as in `volume.composite`.
    length *= speed
    if self.settings.contracted:
      length *= contraction.density_factor(points)
    optical_depth = self.activation(density + noise) * length
    return _Queried(
      optical_depth=jnp.where(packed.used, optical_depth, 0.0),
      rgb=rgb,
      t=intervals.t,
      width=intervals.width,
      spacing=intervals.spacing,
      near=ray.near[:, 0],
      far=ray.far[:, 0],
    )

  def _composite(
    self,
    params: base.Params,
    rays: cameras.Rays,
    marched: ray_marching.MarchedRays,
    packed: ray_marching.PackedSamples,
    noise: jax.Array | float,
  ) -> tuple[volume.PackedSums, volume.PackedHistory]:
    queried = self._query(params, rays, marched, packed, noise)
    return volume.composite_packed(
      queried.rgb,
      queried.optical_depth,
      queried.t,
      width=queried.width,
      spacing=queried.spacing,
      near=queried.near,
      far=queried.far,
      ray=packed.ray,
      rank=packed.rank,
      num_rays=len(marched.shift),
      max_per_ray=self.settings.num_positions(),
    )

  def _advance(
    self,
    sums: _Accumulators,
    is_live: jax.Array,
    count: jax.Array,
    params: base.Params,
    rays: cameras.Rays,
    marched: ray_marching.MarchedRays,
  ) -> _Accumulators:
    """Adds the next samples of the first live rays, an equal share to each."""
    max_samples = min(
      self.max_samples, len(count) * self.settings.num_positions()
    )
    share = max_samples // jnp.maximum(jnp.sum(is_live), 1)
    share = jnp.maximum(share, _MIN_SHARE)
    wanted = jnp.where(is_live, jnp.minimum(count - sums.num_taken, share), 0)
    taken = wanted * base.within_budget(wanted, max_samples)
    packed = ray_marching.pack_samples(
      marched, sums.num_taken, taken, max_samples=max_samples
    )
    added, history = self._composite(params, rays, marched, packed, 0.0)
    before = sums.transmittance
    boundary_weight = volume.boundary_weight(history)
    return _Accumulators(
      num_taken=sums.num_taken + taken,
      transmittance=before * added.transmittance,
      rgb=sums.rgb + before[:, None] * added.rgb,
      opacity=sums.opacity + before * added.opacity,
      depth=sums.depth + before * added.depth,
      boundary_weight=sums.boundary_weight + before[:, None] * boundary_weight,
    )

  def _outputs(
    self, rgb: jax.Array, opacity: jax.Array, depth: jax.Array
  ) -> volume.RayOutputs:
    return volume.RayOutputs(
      rgb=volume.on_constant_background(rgb, opacity, self.background),
      depth=depth,
      disparity=volume.disparity(depth, opacity),
      opacity=opacity,
    )


def _check_budget(count: jax.Array, max_samples: int) -> None:
  """Refuses more samples than the budget, where their number is known."""
  if isinstance(count, jax.core.Tracer):
    return
  total = int(np.sum(np.asarray(count), dtype=np.int64))
  if total > max_samples:
    raise ValueError(
      f'render takes at most max_samples={max_samples} samples, got {total}; '
      'leave rays out by RaySamples.keep, see base.within_budget.'
    )


def _init_sums(num_rays: int) -> _Accumulators:
  zeros = jnp.zeros(num_rays)
  return _Accumulators(
    num_taken=jnp.zeros(num_rays, jnp.int32),
    transmittance=zeros + 1.0,
    rgb=jnp.zeros((num_rays, 3)),
    opacity=zeros,
    depth=zeros,
    boundary_weight=jnp.zeros((num_rays, 2)),
  )


def make_occupancy(
  field: hk.Transformed,
  settings: Settings,
  *,
  perturb: bool = True,
  raw_noise_std: float = 0.0,
  density_activation: str = 'exp',
  infinite_end: bool = False,
  background: backgrounds.Color = backgrounds.BLACK,
  gradient_radius: float = 0.0,
  cones: bool = False,
) -> OccupancyRenderer:
  """Makes a renderer that skips empty space from settings.

  Args:
    field: the field that is queried.
    settings: of the march and of the grid.
    perturb: whether positions are random in training.
    raw_noise_std: standard deviation of the noise on densities in training.
    density_activation: a name of `volume.DENSITY_ACTIVATIONS`.
    infinite_end: whether the interval of a ray's last position has no end.
    background: see `volume.composite`.
    gradient_radius: see `OccupancyRenderer`.
    cones: see `OccupancyRenderer`.

  Returns:
    The renderer, see `OccupancyRenderer`.

  Raises:
    ValueError: if the samples of one ray may exceed `settings.max_samples`.
  """
  return OccupancyRenderer(
    field=field,
    settings=settings,
    activation=volume.DENSITY_ACTIVATIONS[density_activation],
    perturb=perturb,
    raw_noise_std=raw_noise_std,
    infinite_end=infinite_end,
    background=background,
    gradient_radius=gradient_radius,
    cones=cones,
  )
