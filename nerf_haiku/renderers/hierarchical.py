"""The paper's renderer: coarse samples, then fine ones (section 5.2)."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Self

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from nerf_haiku import backgrounds, cameras, sampling, volume
from nerf_haiku.renderers import base


class HierarchicalSamples(NamedTuple):
  """All that may be random in a hierarchical rendering of `R` rays."""

  num_samples: jax.Array  # [R] int32, of both networks.
  t: jax.Array  # [R, S] positions of the coarse samples.
  u: jax.Array  # [R, N] where the coarse weights' CDF is inverted.
  coarse_noise: jax.Array  # [R, S] added to densities before activation.
  fine_noise: jax.Array  # [R, S + N] the same for the fine network.

  def keep(self, mask: jax.Array) -> Self:
    """See `base.RaySamples`."""
    return self._replace(num_samples=jnp.where(mask, self.num_samples, 0))


@dataclasses.dataclass(frozen=True)
class HierarchicalRenderer:
  """Renders with a coarse network, and a fine one where there is one.

  Attributes:
    coarse: the field queried at `num_coarse` evenly spaced positions.
    fine: the field queried at these and `num_fine` more (section 5.2), or
      None where `num_fine` is 0.
    num_coarse: `S`, at least 3 where there is a fine network.
    num_fine: `N`.
    perturb: whether positions are random in training.
    lindisp: whether positions are evenly spaced in disparity, not in depth.
    contracted: whether the fields are of unbounded space that is contracted;
      positions are then evenly spaced in the s of `sampling.Spacing`, and
      `lindisp` has no effect.
    raw_noise_std: standard deviation of the noise on densities in training.
    activation: maps raw densities to densities per scene unit, or where space
      is contracted, to those that `contraction.density_factor` scales.
    infinite_end: see `volume.composite`.
    background: see `volume.composite`.
    gradient_radius: see `volume.scale_gradients`; 0: gradients are not scaled.
    cones: whether fields are queried for pieces of cones, see `cones`; the rays
      need a radius then.
  """

  coarse: hk.Transformed
  fine: hk.Transformed | None
  num_coarse: int
  num_fine: int
  perturb: bool
  lindisp: bool
  contracted: bool
  raw_noise_std: float
  activation: Callable[[jax.Array], jax.Array]
  infinite_end: bool
  background: backgrounds.Color
  gradient_radius: float
  cones: bool = False

  @property
  def max_samples(self) -> None:
    """None: a call renders any number of rays."""
    return None

  @property
  def update_every(self) -> int:
    """0: there is no state."""
    return 0

  def init(self, key: jax.Array) -> base.Variables:
    """See `base.Renderer`; parameters are `coarse`, and `fine` if there is."""
    fields = {'coarse': self.coarse}
    if self.fine is not None:
      fields['fine'] = self.fine
    return base.Variables(params=base.init_params(fields, key), state=())

  def sample_rays(
    self, variables: base.Variables, rays: cameras.Rays, keys: jax.Array
  ) -> HierarchicalSamples:
    """See `base.Renderer`."""
    del variables
    samples = add_noise(
      keys,
      self._even_samples(rays),
      perturb=self.perturb,
      raw_noise_std=self.raw_noise_std,
    )
    return self._to_t(rays, samples)

  def render(
    self, params: base.Params, rays: cameras.Rays, samples: HierarchicalSamples
  ) -> tuple[base.Rendering, ...]:
    """See `base.Renderer`: the coarse rendering first."""
    return tuple(
      base.Rendering(outputs=outputs, history=history)
      for outputs, history in self._render(params, rays, samples)
    )

  def render_eval(
    self, variables: base.Variables, rays: cameras.Rays
  ) -> tuple[base.EvalRendering, ...]:
    """See `base.Renderer`."""
    samples = self._to_t(rays, self._even_samples(rays))
    return tuple(
      base.EvalRendering(
        outputs=outputs,
        boundary_weight=volume.boundary_weight(history),
        fine_t_std=(
          None if history.fine_t is None else jnp.std(history.fine_t, axis=-1)
        ),
      )
      for outputs, history in self._render(variables.params, rays, samples)
    )

  def update_state(
    self, variables: base.Variables, key: jax.Array, step: jax.Array
  ) -> base.RendererState:
    """See `base.Renderer`: there is no state."""
    del key, step
    return variables.state

  def _spacing(self, rays: cameras.Rays) -> sampling.Spacing | None:
    return sampling.contracted_spacing(rays) if self.contracted else None

  def _even_samples(self, rays: cameras.Rays) -> HierarchicalSamples:
    """Returns even positions, those of contracted space in s."""
    spacing, bounds = self._spacing(rays), (rays.near, rays.far)
    if spacing is not None:
      bounds = spacing.from_t(rays.near), spacing.from_t(rays.far)
    t = sampling.even(
      *bounds,
      num_samples=self.num_coarse,
      lindisp=self.lindisp and spacing is None,
    )
    return without_noise(t, self.num_fine)

  def _to_t(
    self, rays: cameras.Rays, samples: HierarchicalSamples
  ) -> HierarchicalSamples:
    """Converts the positions of `_even_samples` to t."""
    spacing = self._spacing(rays)
    if spacing is None:
      return samples
    return samples._replace(
      t=jnp.clip(spacing.to_t(samples.t), rays.near, rays.far)
    )

  def _render(
    self, params: base.Params, rays: cameras.Rays, samples: HierarchicalSamples
  ) -> tuple[tuple[volume.RayOutputs, volume.RayHistory], ...]:
    coarse = self._query_and_composite(
      self.coarse, params['coarse'], rays, samples.t, samples.coarse_noise
    )
    if self.fine is None:
      return (coarse,)
    fine_t = jax.lax.stop_gradient(sample_fine(coarse[1], samples.u))
    t = jnp.sort(jnp.concatenate([samples.t, fine_t], axis=-1), axis=-1)
    outputs, history = self._query_and_composite(
      self.fine, params['fine'], rays, t, samples.fine_noise
    )
    return coarse, (outputs, history._replace(fine_t=fine_t))

  def _query_and_composite(
    self,
    field: hk.Transformed,
    params: hk.Params,
    rays: cameras.Rays,
    t: jax.Array,
    noise: jax.Array,
  ) -> tuple[volume.RayOutputs, volume.RayHistory]:
    edges = None
    if self.cones:
      edges = jnp.concatenate([t, jnp.asarray(rays.far)], axis=-1)
    density, rgb = base.query(
      field,
      params,
      rays,
      t,
      noise,
      activation=self.activation,
      contracted=self.contracted,
      gradient_radius=self.gradient_radius,
      edges=edges,
    )
    return volume.composite(
      rgb,
      density,
      t,
      rays.directions,
      near=rays.near,
      far=rays.far,
      background=self.background,
      infinite_end=self.infinite_end,
      spacing=self._spacing(rays),
    )


def make_hierarchical(
  coarse: hk.Transformed,
  fine: hk.Transformed | None,
  *,
  num_samples: int = 64,
  num_importance: int = 128,
  perturb: bool = True,
  lindisp: bool = False,
  contracted: bool = False,
  raw_noise_std: float = 0.0,
  density_activation: str = 'relu',
  infinite_end: bool = True,
  background: backgrounds.Color = backgrounds.BLACK,
  gradient_radius: float = 0.0,
  cones: bool = False,
) -> HierarchicalRenderer:
  """Makes the paper's renderer from settings.

  Args:
    coarse: the field of the first pass.
    fine: the field of the second pass, or None where `num_importance` is 0.
    num_samples: coarse samples of a ray, at least 3 where there is `fine`.
    num_importance: fine samples of a ray.
    perturb: whether positions are random in training.
    lindisp: whether positions are evenly spaced in disparity, not in depth.
    contracted: see `HierarchicalRenderer`.
    raw_noise_std: standard deviation of the noise on densities in training.
    density_activation: a name of `volume.DENSITY_ACTIVATIONS`.
    infinite_end: see `volume.composite`.
    background: see `volume.composite`.
    gradient_radius: see `HierarchicalRenderer`.
    cones: see `HierarchicalRenderer`.

  Returns:
    The renderer, see `HierarchicalRenderer`.
  """
  return HierarchicalRenderer(
    coarse=coarse,
    fine=fine,
    num_coarse=num_samples,
    num_fine=num_importance,
    perturb=perturb,
    lindisp=lindisp,
    contracted=contracted,
    raw_noise_std=raw_noise_std,
    activation=volume.DENSITY_ACTIVATIONS[density_activation],
    infinite_end=infinite_end,
    background=background,
    gradient_radius=gradient_radius,
    cones=cones,
  )


def without_noise(t: jax.Array, num_fine: int) -> HierarchicalSamples:
  """Returns samples in which nothing is random.

  Args:
    t: `[R, S]` even positions.
    num_fine: `N`, 0 where there is one network only.
  """
  rays, samples = t.shape
  u = jnp.linspace(0.0, 1.0, num_fine, dtype=t.dtype)
  queries = 2 * samples + num_fine if num_fine else samples
  return HierarchicalSamples(
    num_samples=jnp.full(rays, queries, jnp.int32),
    t=t,
    u=jnp.broadcast_to(u, (rays, num_fine)),
    coarse_noise=jnp.zeros_like(t),
    fine_noise=jnp.zeros((rays, samples + num_fine), t.dtype),
  )


def add_noise(
  keys: jax.Array,
  samples: HierarchicalSamples,
  *,
  perturb: bool,
  raw_noise_std: float,
) -> HierarchicalSamples:
  """Makes even samples random.

  Args:
    keys: `[R]`, one per ray.
    samples: as from `without_noise`.
    perturb: whether positions are random (equation 2, and section 5.2).
    raw_noise_std: standard deviation of the noise on densities; 0: none.
  """
  chex.assert_shape(keys, (len(samples.t),))
  t_keys, u_keys, coarse_keys, fine_keys = jnp.moveaxis(
    jax.vmap(lambda key: jax.random.split(key, 4))(keys), 1, 0
  )
  if perturb:
    samples = samples._replace(
      t=sampling.stratified(t_keys, samples.t),
      u=sampling.uniforms(u_keys, samples.u.shape[1]),
    )
  if raw_noise_std:
    coarse = sampling.normals(coarse_keys, samples.coarse_noise.shape[1])
    fine = sampling.normals(fine_keys, samples.fine_noise.shape[1])
    samples = samples._replace(
      coarse_noise=raw_noise_std * coarse, fine_noise=raw_noise_std * fine
    )
  return samples


def sample_fine(coarse: volume.RayHistory, u: jax.Array) -> jax.Array:
  """Samples positions where a coarse rendering has its weight (section 5.2).

  Args:
    coarse: `R` rays with `S` samples, at least 3.
    u: `[R, N]` in [0, 1], see `sampling.invert_cdf`.

  Returns:
    `[R, N]` positions. The bins lie between the midpoints of the samples, and
    each has its sample's weight; the outermost samples have none. With a
    spacing the density is constant in s within a bin: in t, most samples of a
    far bin would be at its end.
  """
  spacing, weights = coarse.spacing, coarse.weights[:, 1:-1]
  if spacing is None:
    return sampling.invert_cdf(u, sampling.midpoints(coarse.t), weights)
  edges = sampling.midpoints(spacing.from_t(coarse.t))
  return spacing.to_t(sampling.invert_cdf(u, edges, weights))
