"""The proposal renderer: small networks place the samples of a large one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import haiku as hk
import jax
import jax.numpy as jnp

from nerf_haiku import backgrounds, cameras, sampling, volume
from nerf_haiku.renderers import base

# Weight that is spread evenly over the intervals of a proposal, so that the
# field is queried, if rarely, where the proposal has none.
_EVEN_WEIGHT = 0.1


class ProposalSamples(NamedTuple):
  """All that may be random in a rendering of `R` rays."""

  num_samples: jax.Array  # [R] int32, queries of all fields.
  # `[R, S + 1]` of each round, increasing in [0, 1]: where the edges of its
  # `S` intervals are, in the CDF of the weights of the round before. The first
  # round's are in the ray itself.
  u: tuple[jax.Array, ...]
  noise: jax.Array  # [R, S] added to the last round's densities.

  def keep(self, mask: jax.Array) -> Self:
    """See `base.RaySamples`."""
    return self._replace(num_samples=jnp.where(mask, self.num_samples, 0))


@dataclasses.dataclass(frozen=True)
class ProposalRenderer:
  """Renders one field in intervals that proposal networks choose.

  The method of mip-NeRF 360, section 3: each proposal has a density, and the
  next round's intervals have equal shares of its weights. The proposals do not
  render colors; `volume.interlevel` trains them.

  Attributes:
    field: the field that is rendered.
    proposals: a field of each round before; only their densities are queried.
    num_samples: intervals of each round, the last is that of `field`.
    contracted: whether the fields are of contracted unbounded space; the first
      round is then even in the s of `sampling.Spacing`, else in t.
    activation: maps raw densities to densities per scene unit.
    perturb: whether positions are random in training.
    raw_noise_std: standard deviation of the noise on densities in training.
    infinite_end: see `volume.composite`.
    background: see `volume.composite`.
    gradient_radius: see `volume.scale_gradients`; 0: gradients are not scaled.
    cones: whether fields are queried for pieces of cones, see `cones`; the rays
      need a radius then.
  """

  field: hk.Transformed
  proposals: tuple[hk.Transformed, ...]
  num_samples: tuple[int, ...]
  contracted: bool
  activation: Callable[[jax.Array], jax.Array]
  perturb: bool
  raw_noise_std: float
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
    """See `base.Renderer`; the parameters are `proposal_0`, ..., `field`."""
    fields = {f'proposal_{i}': x for i, x in enumerate(self.proposals)}
    fields['field'] = self.field
    return base.Variables(params=base.init_params(fields, key), state=())

  def sample_rays(
    self, variables: base.Variables, rays: cameras.Rays, keys: jax.Array
  ) -> ProposalSamples:
    """See `base.Renderer`."""
    del variables
    samples = self._even_samples(rays)
    num_keys = len(samples.u) + 1
    *u_keys, noise_keys = jnp.moveaxis(
      jax.vmap(lambda key: jax.random.split(key, num_keys))(keys), 1, 0
    )
    if self.perturb:
      samples = samples._replace(u=tuple(map(_perturb, u_keys, samples.u)))
    if self.raw_noise_std:
      noise = sampling.normals(noise_keys, self.num_samples[-1])
      samples = samples._replace(noise=self.raw_noise_std * noise)
    return samples

  def render(
    self, params: base.Params, rays: cameras.Rays, samples: ProposalSamples
  ) -> tuple[base.Rendering, ...]:
    """See `base.Renderer`; the rendering has the proposals' histories."""
    return (self._render(params, rays, samples),)

  def render_eval(
    self, variables: base.Variables, rays: cameras.Rays
  ) -> tuple[base.EvalRendering, ...]:
    """See `base.Renderer`."""
    rendering = self._render(variables.params, rays, self._even_samples(rays))
    return (
      base.EvalRendering(
        outputs=rendering.outputs,
        boundary_weight=volume.boundary_weight(rendering.history),
      ),
    )

  def update_state(
    self, variables: base.Variables, key: jax.Array, step: jax.Array
  ) -> base.RendererState:
    """See `base.Renderer`: there is no state."""
    del key, step
    return variables.state

  def _even_samples(self, rays: cameras.Rays) -> ProposalSamples:
    num_rays = len(rays.origins)
    even = (jnp.linspace(0.0, 1.0, num + 1) for num in self.num_samples)
    return ProposalSamples(
      num_samples=jnp.full(num_rays, sum(self.num_samples), jnp.int32),
      u=tuple(jnp.broadcast_to(u, (num_rays, len(u))) for u in even),
      noise=jnp.zeros((num_rays, self.num_samples[-1])),
    )

  def _render(
    self, params: base.Params, rays: cameras.Rays, samples: ProposalSamples
  ) -> base.Rendering:
    spacing = sampling.contracted_spacing(rays) if self.contracted else None
    near, far = jnp.asarray(rays.near), jnp.asarray(rays.far)
    if spacing is not None:
      near, far = spacing.from_t(near), spacing.from_t(far)
    edges = near + samples.u[0] * (far - near)
    proposals = []
    for i, (field, u) in enumerate(
      zip(self.proposals, samples.u[1:], strict=True)
    ):
      _, proposal = self._query_and_composite(
        field, params[f'proposal_{i}'], rays, edges, spacing
      )
      proposals.append(proposal)
      edges = next_edges(u, edges, proposal.weights)
    outputs, history = self._query_and_composite(
      self.field, params['field'], rays, edges, spacing, samples.noise
    )
    return base.Rendering(outputs, history, tuple(proposals))

  def _query_and_composite(
    self,
    field: hk.Transformed,
    params: hk.Params,
    rays: cameras.Rays,
    edges: jax.Array,
    spacing: sampling.Spacing | None,
    noise: jax.Array | float = 0.0,
  ) -> tuple[volume.RayOutputs, volume.RayHistory]:
    """Queries a field in the middle of intervals.

    Their edges `[R, S + 1]`, and so the middle, are in s with a spacing.
    """
    middle = sampling.midpoints(edges)
    if spacing is not None:
      edges, middle = (
        jnp.clip(spacing.to_t(s), rays.near, rays.far) for s in (edges, middle)
      )
    density, rgb = base.query(
      field,
      params,
      rays,
      middle,
      noise,
      activation=self.activation,
      contracted=self.contracted,
      gradient_radius=self.gradient_radius,
      edges=edges if self.cones else None,
    )
    outputs, history = volume.composite(
      rgb,
      density,
      edges[:, :-1],
      rays.directions,
      near=rays.near,
      far=rays.far,
      background=self.background,
      infinite_end=self.infinite_end,
      spacing=spacing,
    )
    # An interval's weight is in its middle, not where it begins.
    depth = jnp.sum(history.weights * middle, axis=-1)
    disparity = volume.disparity(depth, outputs.opacity)
    return outputs._replace(depth=depth, disparity=disparity), history


def next_edges(u: jax.Array, edges: jax.Array, weights: jax.Array) -> jax.Array:
  """Returns the edges of intervals that have about equal shares of weights.

  Args:
    u: `[R, N + 1]` increasing from 0 to 1.
    edges: `[R, S + 1]`, not decreasing.
    weights: `[R, S]` of the intervals between them, at most 1 together.

  Returns:
    `[R, N + 1]` edges with the same ends; they have no gradient.
  """
  weights = weights + _EVEN_WEIGHT / weights.shape[1]
  return jax.lax.stop_gradient(sampling.invert_cdf(u, edges, weights))


def _perturb(keys: jax.Array, u: jax.Array) -> jax.Array:
  """Moves edges `[R, S + 1]` at random within their strata, but not the ends.

  Intervals then cover the whole ray, as those of a histogram must.
  """
  inner = sampling.stratified(keys, u)[:, 1:-1]
  return jnp.concatenate([u[:, :1], inner, u[:, -1:]], axis=-1)


def make_proposal(
  field: hk.Transformed,
  proposals: Sequence[hk.Transformed],
  *,
  num_samples: Sequence[int] = (64, 32),
  contracted: bool = False,
  perturb: bool = True,
  raw_noise_std: float = 0.0,
  density_activation: str = 'exp',
  infinite_end: bool = False,
  background: backgrounds.Color = backgrounds.BLACK,
  gradient_radius: float = 0.0,
  cones: bool = False,
) -> ProposalRenderer:
  """Makes a proposal renderer from settings, see `ProposalRenderer`."""
  return ProposalRenderer(
    field=field,
    proposals=tuple(proposals),
    num_samples=tuple(num_samples),
    contracted=contracted,
    activation=volume.DENSITY_ACTIVATIONS[density_activation],
    perturb=perturb,
    raw_noise_std=raw_noise_std,
    infinite_end=infinite_end,
    background=background,
    gradient_radius=gradient_radius,
    cones=cones,
  )
