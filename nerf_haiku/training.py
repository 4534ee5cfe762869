"""The update step: gradients of the rendering loss, on all devices."""

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple

import chex
import haiku as hk
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from nerf_haiku import (
  arrays,
  backgrounds,
  camera_refinement,
  cameras,
  exposure,
  ops,
  sampling,
  scenes,
  volume,
)
from nerf_haiku.renderers import base

AXIS = 'devices'
# Fraction of its rays that a growing batch begins with.
_FIRST_FRACTION = 1 / 16
# Most rays of a batch: `ray_weights` computes with 24 bits.
_MAX_RAYS = 2**24
# The run's key is folded with this for the renderer's state: no step.
_STATE_STREAM = np.uint32(2**32 - 1)
# A ray's key is folded with this for its background: no position on the ray.
_BACKGROUND_STREAM = np.uint32(2**32 - 2)
# A pixel's key is folded with this and smaller ones for its rays, where it has
# several: no position, and not that of `resident`.
_RAY_STREAM = np.uint32(2**32 - 5)
# Decay of the colour statistics from one step to the next: a mean over some
# 50 steps.
_EMA_DECAY = 0.98

# Parameters that belong to training images: no view is rendered from them.
IMAGE_PARAMS = (exposure.NAME, camera_refinement.NAME)

# Scalars of a step by name; `color_stats` is a `ColorStats`.
Scalars = dict[str, Any]
# (camera [R], pixel [R, 2]) -> rays.
CastFn = Callable[[jax.Array, jax.Array], cameras.Rays]
# (parameters of the cameras, camera [R], pixel [R, 2]) -> rays.
RefinedCastFn = Callable[[hk.Params, jax.Array, jax.Array], cameras.Rays]


class ColorStats(NamedTuple):
  """Means over the rays of a batch, of target and predicted colours.

  They tell a collapsed run from a healthy one, see `collapse`.
  """

  target: arrays.Array  # [3]
  target_square: arrays.Array  # [3] of the squares.
  predicted: arrays.Array  # [3]
  predicted_square: arrays.Array  # [3] of the squares.
  mse: arrays.Array  # [] mean squared error.


class TrainState(NamedTuple):
  """All that a run needs to resume; networks and optimizers stay outside."""

  step: jax.Array  # [] int32, updates done.
  params: base.Params
  opt_state: optax.OptState
  # Exponentially decayed sums: each step multiplies them by `_EMA_DECAY`.
  color_stats: ColorStats
  skipped: jax.Array  # [] int32, updates skipped for a non-finite value.
  # [] int32: 0, or 1 + the index among `checked_names` of the first array of
  # an update that held a NaN or infinity: the state then stays as it is.
  nonfinite: jax.Array
  renderer_state: base.RendererState = ()

  def variables(self) -> base.Variables:
    """Returns what views are rendered from."""
    return base.Variables(params=self.params, state=self.renderer_state)


def learning_rate_schedule(
  peak: float,
  *,
  decay_factor: float,
  decay_steps: int,
  warmup_steps: int,
  cosine: bool = False,
) -> optax.Schedule:
  """Makes the schedule `peak * decay_factor ** (step / decay_steps)`.

  Args:
    peak: the rate at step 0 if there is no warm-up.
    decay_factor: 1 for a rate that does not decay.
    decay_steps: steps over which the rate falls by the factor, continuously.
    warmup_steps: the first steps, over which the rate rises linearly to the
      decayed one; 0 for none.
    cosine: whether the rate falls once along half a cosine and stays at the
      factor (Loshchilov and Hutter, *SGDR*, 2017, equation 5).
  """
  if cosine:
    decay = optax.cosine_decay_schedule(peak, decay_steps, decay_factor)
  else:
    decay = optax.exponential_decay(peak, decay_steps, decay_factor)

  def schedule(step: jax.typing.ArrayLike) -> jax.Array:
    warmup = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
    return decay(step) * warmup

  return schedule


def init_state(
  renderer: base.Renderer[Any],
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_params: base.Params | None = None,
) -> TrainState:
  """Returns the state before the first update.

  Args:
    renderer: its parameters are random.
    optimizer: of all parameters.
    key: for the random numbers.
    image_params: parameters of the training images (`exposure.init`), by their
      names; rendering ignores them.
  """
  init = jax.jit(functools.partial(_init_state, renderer, optimizer))
  return init(key, image_params or {})


def _init_state(
  renderer: base.Renderer[Any],
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  image_params: base.Params,
) -> TrainState:
  variables = renderer.init(key)
  params = {**variables.params, **image_params}
  zero = jnp.zeros((), jnp.int32)
  return TrainState(
    step=zero,
    params=params,
    opt_state=optimizer.init(params),
    color_stats=ColorStats(
      # Separate arrays: the update donates each of them.
      target=jnp.zeros(3),
      target_square=jnp.zeros(3),
      predicted=jnp.zeros(3),
      predicted_square=jnp.zeros(3),
      mse=jnp.zeros(()),
    ),
    skipped=zero,
    nonfinite=zero,
    renderer_state=variables.state,
  )


def checked_names(params: base.Params) -> list[str]:
  """Names the arrays that an update checks for NaN and infinity, in order."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  names = [
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves
  ]
  return ['the loss', *(f'the gradient of {name}' for name in names)]


def first_nonfinite(
  loss: jax.Array, squared_norms: list[jax.Array]
) -> jax.Array:
  """Returns 1 + the index of the first array with a NaN or infinity, or 0.

  Args:
    loss: the first array.
    squared_norms: of the gradients of each array of parameters; a gradient
      past 1e19, whose square is infinite in float32, counts as infinite.
  """
  is_bad = ~jnp.isfinite(jnp.stack([loss, *squared_norms]))
  first = jnp.where(jnp.any(is_bad), 1 + jnp.argmax(is_bad), 0)
  return first.astype(jnp.int32)


def psnr(mse: jax.typing.ArrayLike) -> jax.Array:
  """Returns the peak signal-to-noise ratio, dB, of colours in [0, 1]."""
  return -10.0 / jnp.log(10.0) * jnp.log(mse)


def squared_errors(
  predicted: tuple[jax.Array, ...], target: jax.Array, weight: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the loss (equation 6), a weighted sum over rays.

  Args:
    predicted: `[R, 3]` colours of each network, the coarse one first.
    target: `[R, 3]` true colours.
    weight: `[R]` of each ray.

  Returns:
    The sum over rays and networks of the weighted mean squared error of a
    colour, and that of each network: `mse`, and `mse_coarse` where there are
    two.
  """
  errors = [
    jnp.sum(weight * jnp.mean(jnp.square(rgb - target), axis=-1))
    for rgb in predicted
  ]
  names = ('mse_coarse', 'mse')[-len(errors) :]
  loss = functools.reduce(jnp.add, errors)
  return loss, dict(zip(names, errors, strict=True))


def color_stats(
  predicted: jax.Array, target: jax.Array, weight: jax.Array
) -> ColorStats:
  """Returns weighted sums over `R` rays of colours `[R, 3]`."""

  def total(x: jax.Array) -> jax.Array:
    return jnp.sum(weight[:, None] * x, axis=0)

  return ColorStats(
    target=total(target),
    target_square=total(target**2),
    predicted=total(predicted),
    predicted_square=total(predicted**2),
    mse=jnp.mean(total((predicted - target) ** 2)),
  )


def on_background(
  rgb: jax.Array,
  opacity: jax.Array,
  background: jax.Array,
  *,
  constant: backgrounds.Color,
) -> jax.Array:
  """Moves colours `[R, 3]` from the constant background to another `[R, 3]`."""
  # A gray compiles to one number.
  is_gray = len(set(constant)) == 1
  old = float(constant[0]) if is_gray else jnp.asarray(constant)[None]
  return rgb + (1.0 - opacity[:, None]) * (background - old)


class _PixelChunk(NamedTuple, Generic[base.Samples]):
  """`R` pixels of a batch, `n` sampled rays of each, and their true colours."""

  rays: cameras.Rays  # `R * n` rays, those of a pixel one after the other.
  samples: base.Samples  # of these rays.
  target: jax.Array  # [R, 3] colours on the constant background.
  weight: jax.Array  # [R] in the mean over the batch.
  alpha: jax.Array | None  # [R] opacity of the target.
  background: jax.Array | None  # [R, 3] both are compared on it; None: as is.
  camera: jax.Array | None  # [R] int32; None where no parameter belongs to one.
  pixel: jax.Array | None  # [R, 2] int32; None where cameras are not refined.

  def rays_per_pixel(self) -> int:
    """Returns `n`."""
    return len(self.rays.near) // len(self.weight)

  def num_samples(self) -> jax.Array:
    """Returns the samples `[R]` of all rays of each pixel."""
    by_pixel = self.samples.num_samples.reshape(len(self.weight), -1)
    return jnp.sum(by_pixel, axis=1)

  def keep(self, mask: jax.Array) -> '_PixelChunk[base.Samples]':
    """Returns the chunk without samples and weight where a mask is false."""
    of_rays = jnp.repeat(mask, self.rays_per_pixel())
    return self._replace(
      samples=self.samples.keep(of_rays),
      weight=jnp.where(mask, self.weight, 0.0),
    )

  def take(self, index: jax.Array) -> '_PixelChunk[base.Samples]':
    """Returns the pixels of these indices; those past the end weigh nothing."""
    is_there = index < len(self.weight)
    index %= len(self.weight)
    count = self.rays_per_pixel()
    of_rays = (count * index[:, None] + jnp.arange(count)[None]).reshape(-1)
    _, _, *pixels = self  # The first two are of rays.
    taken = _PixelChunk(
      *jax.tree.map(lambda x: x[of_rays], (self.rays, self.samples)),
      *jax.tree.map(lambda x: x[index], pixels),
    )
    return taken.keep(is_there)


class _LossSettings(NamedTuple):
  """The terms of the loss."""

  background: backgrounds.Color  # the constant one.
  distortion_weight: float
  refined_cast_fn: RefinedCastFn | None
  interlevel_weight: float
  rays_per_side: int


def _chunk_loss(
  params: base.Params,
  renderer: base.Renderer[base.Samples],
  chunk: _PixelChunk[base.Samples],
  settings: _LossSettings,
) -> tuple[jax.Array, Scalars]:
  """Computes the loss of a chunk's rays, a weighted sum."""
  rays = _recast(params, chunk, settings)
  renderings = renderer.render(params, rays, chunk.samples)
  target, weight = chunk.target, chunk.weight

  def of_pixels(x: jax.Array) -> jax.Array:
    """Averages what rays have over those of each pixel."""
    count = chunk.rays_per_pixel()
    return x if count == 1 else x.reshape(-1, count, *x.shape[1:]).mean(1)

  predicted = tuple(of_pixels(x.outputs.rgb) for x in renderings)
  opacity = tuple(of_pixels(x.outputs.opacity) for x in renderings)
  if chunk.camera is not None and exposure.NAME in params:
    expose = functools.partial(
      exposure.apply,
      exposure.color_maps(params[exposure.NAME]),
      chunk.camera,
      background=settings.background,
    )
    predicted = tuple(
      expose(rgb, x) for rgb, x in zip(predicted, opacity, strict=True)
    )
  stats = color_stats(predicted[-1], target, weight)
  if chunk.background is not None and chunk.alpha is not None:
    move = functools.partial(
      on_background, background=chunk.background, constant=settings.background
    )
    target = move(target, chunk.alpha)
    predicted = tuple(
      move(rgb, x) for rgb, x in zip(predicted, opacity, strict=True)
    )
  loss, scalars = squared_errors(predicted, target, weight)
  if settings.distortion_weight:
    for rendering in renderings:
      apart = of_pixels(volume.distortion(rendering.history))
      loss += settings.distortion_weight * jnp.sum(weight * apart)
  for rendering in renderings:
    for proposal in rendering.proposals:
      history = rendering.history
      assert isinstance(history, volume.RayHistory)  # As those of proposals.
      excess = of_pixels(volume.interlevel(proposal, history))
      loss += settings.interlevel_weight * jnp.sum(weight * excess)
  samples = jnp.sum(weight * chunk.num_samples()) / chunk.rays_per_pixel()
  return loss, scalars | {
    'loss': loss,
    'color_stats': stats,
    'samples': samples,
  }


def _recast(
  params: base.Params, chunk: _PixelChunk[base.Samples], settings: _LossSettings
) -> cameras.Rays:
  """Returns the chunk's rays, as functions of the cameras' parameters."""
  cast_fn = settings.refined_cast_fn
  if cast_fn is None or chunk.camera is None or chunk.pixel is None:
    return chunk.rays
  camera, pixel = _lattice(chunk.camera, chunk.pixel, settings.rays_per_side)
  rays = cast_fn(params[camera_refinement.NAME], camera, pixel)
  return rays._replace(near=chunk.rays.near, far=chunk.rays.far)


def _lattice(
  camera: jax.Array, pixel: jax.Array, side: int
) -> tuple[jax.Array, jax.Array]:
  """Divides pixels into those of images that are `side` times as large.

  Args:
    camera: `[R]`.
    pixel: `[R, 2]`, row and column.
    side: along each side of a pixel.

  Returns:
    Cameras `[R * side**2]` and pixels `[R * side**2, 2]`.
  """
  if side == 1:
    return camera, pixel
  offset = cameras.pixels(side, side)
  parts = side * pixel[:, None] + offset[None]
  return jnp.repeat(camera, side**2), parts.reshape(-1, 2)


def make_gradient(
  renderer: base.Renderer[base.Samples],
  cast_fn: CastFn,
  *,
  microbatch: int = 0,
  random_background: bool = False,
  background: backgrounds.Color = backgrounds.BLACK,
  distortion_weight: float = 0.0,
  refined_cast_fn: RefinedCastFn | None = None,
  interlevel_weight: float = 1.0,
  rays_per_side: int = 1,
) -> Callable[..., tuple[base.Params, Scalars]]:
  """Builds `gradient(variables, keys, batch)`: the mean over a batch's rays.

  The gradient is accumulated over microbatches of at most `microbatch` rays
  (0: all at once) and of no more samples than the renderer takes at a time, so
  that a microbatch's activations fit the memory, or a CPU's cache. There are
  as many microbatches as the rays need: none is left out.

  Args:
    renderer: renders the rays.
    cast_fn: casts the rays of a batch.
    microbatch: rays whose gradient is taken at a time, 0 for all.
    random_background: whether each ray is compared on a random background;
      batches then have the true `alpha`.
    background: that of the renderer's and the batch's colours.
    distortion_weight: weight of `volume.distortion` in the loss.
    refined_cast_fn: casts them instead, from cameras that parameters correct
      (`camera_refinement`); they are then learned too.
    interlevel_weight: weight of `volume.interlevel` of the renderings'
      proposals in the loss.
    rays_per_side: `n`: the colour of a pixel is the mean of `n * n` rays. The
      functions that cast rays then do so for images `n` times as large.

  Returns:
    A function of `Variables` (with color maps of the training images, see
    `exposure`, or without), `[R]` keys, a batch of `R` rays, and by name the
    rays' weights `weight` `[R]` (without: those of a mean). A ray of weight 0
    has no samples. It returns the gradient and `loss`, `mse`, `mse_coarse`,
    the batch's `color_stats`, `samples` per ray and `pieces`, the number of
    microbatches.
  """
  settings = _LossSettings(
    background,
    distortion_weight,
    refined_cast_fn,
    interlevel_weight,
    rays_per_side,
  )
  grad_fn = jax.grad(_chunk_loss, has_aux=True)

  def gradient(
    variables: base.Variables,
    keys: jax.Array,
    batch: scenes.Batch,
    *,
    weight: jax.Array | None = None,
  ) -> tuple[base.Params, Scalars]:
    camera, pixel = jnp.asarray(batch.camera), jnp.asarray(batch.pixel)
    count = camera.shape[0]
    if weight is None:
      weight = jnp.full(count, 1.0 / count)
    of_rays = _lattice(camera, pixel, rays_per_side)
    if refined_cast_fn is None:
      rays = cast_fn(*of_rays)
    else:
      corrections = variables.params[camera_refinement.NAME]
      rays = refined_cast_fn(corrections, *of_rays)
    has_image_params = any(x in variables.params for x in IMAGE_PARAMS)
    alpha = batch.alpha if random_background else None
    # Of no length, so that rays without weight cost nothing.
    has_weight = jnp.repeat(weight > 0, rays_per_side**2)
    far = jnp.where(has_weight[:, None], rays.far, rays.near)
    rays = rays._replace(far=far)
    whole = _PixelChunk(
      rays=rays,
      samples=renderer.sample_rays(
        variables, rays, _keys_of_rays(keys, rays_per_side**2)
      ),
      target=jnp.asarray(batch.rgb),
      weight=weight,
      alpha=None if alpha is None else jnp.asarray(alpha),
      background=_random_colors(keys) if random_background else None,
      camera=camera if has_image_params else None,
      pixel=None if refined_cast_fn is None else pixel,
    )

    def chunk_gradient(
      chunk: _PixelChunk[base.Samples],
    ) -> tuple[base.Params, Scalars]:
      return grad_fn(variables.params, renderer, chunk, settings)

    at_once = max(microbatch // rays_per_side**2, 1) if microbatch else count
    size = -(-count // -(-count // at_once))
    if renderer.max_samples is None:
      return _accumulate_equal(chunk_gradient, whole, size)
    return _accumulate_by_samples(
      chunk_gradient, whole, size, renderer.max_samples
    )

  return gradient


_ChunkGradient = Callable[
  [_PixelChunk[base.Samples]], tuple[base.Params, Scalars]
]


def _random_colors(keys: jax.Array) -> jax.Array:
  """Draws a background `[R, 3]` for each of `[R]` rays."""

  def fold(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, _BACKGROUND_STREAM)

  return sampling.uniforms(jax.vmap(fold)(keys), 3)


def _keys_of_rays(keys: jax.Array, count: int) -> jax.Array:
  """Returns keys `[R * count]` of the rays of pixels with keys `[R]`."""
  if count == 1:
    return keys
  fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  stream = _RAY_STREAM - np.arange(count, dtype=np.uint32)
  return jax.vmap(lambda key: fold(key, stream))(keys).reshape(-1)


def _accumulate_equal(
  chunk_gradient: _ChunkGradient[base.Samples],
  whole: _PixelChunk[base.Samples],
  size: int,
) -> tuple[base.Params, Scalars]:
  """Sums gradients over equal chunks of `size` rays."""
  num_chunks = -(-len(whole.weight) // size)

  def add(
    total: tuple[base.Params, Scalars], begin: jax.Array
  ) -> tuple[tuple[base.Params, Scalars], None]:
    chunk = whole.take(begin + jnp.arange(size))
    return jax.tree.map(jnp.add, total, chunk_gradient(chunk)), None

  begins = size * jnp.arange(num_chunks)
  zeros = _zeros_like(chunk_gradient, whole.take(jnp.arange(size)))
  (grads, scalars), _ = jax.lax.scan(add, zeros, begins)
  return grads, scalars | {'pieces': jnp.asarray(num_chunks, jnp.int32)}


def _accumulate_by_samples(
  chunk_gradient: _ChunkGradient[base.Samples],
  whole: _PixelChunk[base.Samples],
  size: int,
  max_samples: int,
) -> tuple[base.Params, Scalars]:
  """Sums gradients over chunks of up to `size` rays and `max_samples`."""
  count = len(whole.weight)

  def add(
    carry: tuple[jax.Array, jax.Array, tuple[base.Params, Scalars]],
  ) -> tuple[jax.Array, jax.Array, tuple[base.Params, Scalars]]:
    begin, num_chunks, total = carry
    chunk = whole.take(begin + jnp.arange(size))
    fits = base.within_budget(chunk.num_samples(), max_samples)
    total = jax.tree.map(jnp.add, total, chunk_gradient(chunk.keep(fits)))
    return begin + jnp.sum(fits), num_chunks + 1, total

  zero = jnp.zeros((), jnp.int32)
  zeros = _zeros_like(chunk_gradient, whole.take(jnp.arange(size)))
  _, num_chunks, (grads, scalars) = ops.repeat(
    add, lambda carry: carry[0] < count, (zero, zero, zeros)
  )
  return grads, scalars | {'pieces': num_chunks}


def _zeros_like(
  chunk_gradient: _ChunkGradient[base.Samples], chunk: _PixelChunk[base.Samples]
) -> tuple[base.Params, Scalars]:
  return jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(lambda: chunk_gradient(chunk)),
  )


def active_ray_fraction(step: jax.Array, warmup_steps: int) -> jax.Array:
  """Returns the fraction of a batch's rays that a step trains on.

  It grows linearly over the first `warmup_steps`: an untrained field learns
  as much from few rays, and a ray has many samples until the grid knows empty
  space. It saves work where rays without weight cost nothing, with the
  occupancy renderer.
  """
  if not warmup_steps:
    return jnp.ones(())
  return jnp.clip(step / warmup_steps, _FIRST_FRACTION, 1.0)


def ray_weights(
  index: jax.Array, num_rays: int, fraction: jax.Array
) -> jax.Array:
  """Returns weights that add up to 1 over a fraction of a batch's rays.

  Args:
    index: `[R]` int32, of the rays in the whole batch.
    num_rays: rays of the whole batch, at most 2**24.
    fraction: of the rays that have a weight; they are spread over all indices,
      so that each device has about as many.

  Returns:
    `[R]`, each 0 or the same positive number.

  Raises:
    ValueError: if there are more rays.
  """
  if num_rays > _MAX_RAYS:
    raise ValueError(f'num_rays must be at most {_MAX_RAYS}, got {num_rays}.')
  number = jnp.maximum(jnp.round(fraction * num_rays), 1)
  stride = next(
    x
    for x in range(round(0.618 * num_rays) or 1, num_rays + 2)
    if math.gcd(x, num_rays) == 1
  )
  place = _multiply_modulo(index.astype(jnp.uint32), stride, num_rays)
  return jnp.where(place < number, 1.0 / number, 0.0)


def _multiply_modulo(x: jax.Array, factor: int, modulus: int) -> jax.Array:
  """Returns `x * factor % modulus` of uint32, all of up to 24 bits.

  The factor is taken in three digits of 8 bits, so that nothing wraps.
  """
  modulus_ = np.uint32(modulus)
  total = jnp.zeros_like(x)
  for shift in (16, 8, 0):
    digit = np.uint32(factor >> shift & 0xFF)
    total = (
      total * np.uint32(256) % modulus_ + x * digit % modulus_
    ) % modulus_
  return total


class Feed(NamedTuple):
  """Where the batches of an update come from.

  An update is given `data` of each device beside the state. Either they are
  drawn from: the images of the whole run, say; or they are what a step reads.
  """

  # (data, [R] keys of the rays, key of the step, step) -> a device's batch of
  # `R` rays. Keys depend on the run's key, the step and a ray's index in the
  # whole batch.
  read: Callable[[Any, jax.Array, jax.Array, jax.Array], scenes.Batch]
  # Rays of the whole batch; None: data are per step, as many as `data.camera`.
  num_rays: int | None = None

  def is_per_step(self) -> bool:
    """Returns whether each step has data of its own."""
    return self.num_rays is None


# Data that are batches.
GIVEN = Feed(lambda data, *_: data)


def make_update(
  renderer: base.Renderer[Any],
  optimizer: optax.GradientTransformation,
  cast_fn: CastFn,
  *,
  feed: Feed = GIVEN,
  num_steps: int = 1,
  skip_nonfinite: bool = False,
  batch_warmup_steps: int = 0,
  **settings: Any,
) -> Callable[[TrainState, Any, jax.Array], tuple[TrainState, Scalars]]:
  """Builds the pmapped `update(state, data, key)` for all devices.

  `state` and `data` lead with `[D]`, the devices of this process; `data` are by
  default the process's part `[D, R / D, ...]` of a batch. The state is donated.
  `key` is the run's. What is random about a ray depends on the key, the step
  and the ray's index in the whole batch, and so not on the devices or
  microbatches.

  A call takes `num_steps` steps, and a device takes one after the other without
  waiting for the host. They are those of as many calls of one step each, but
  for rounding: inside of a loop the compiler joins other operations. A call
  has to begin at a multiple of `num_steps`.

  An update whose loss or gradient holds a NaN or infinity is never applied.
  The state says so in `nonfinite`, and this and all later steps leave the rest
  of it as it was before; with `skip_nonfinite` the step is skipped and counted
  in `skipped`.

  Args:
    renderer: renders the rays.
    optimizer: turns gradients into updates.
    cast_fn: casts the rays of a batch.
    feed: makes batches of `data`, by default of one each.
    num_steps: steps of a call.
    skip_nonfinite: whether a NaN or infinity skips its step.
    batch_warmup_steps: steps over which the batch grows, see
      `active_ray_fraction`.
    **settings: see `make_gradient`.

  Returns:
    A function that returns the new state and a dict of scalars averaged over
    all rays, without a leading axis: `loss`, `mse`, `psnr`, and `mse_coarse`
    and `psnr_coarse` where there are two networks; `color_stats`, means over
    the last 50 steps or so; the gradient's `grad_norm` over all parameters;
    `nonfinite`, as in the state, and the new state's `skipped`; `samples` per
    ray, and the largest number of microbatches (`pieces`) of a device. If
    `num_steps` is more than 1, each of them leads with the steps, and so do,
    after `[D]`, data per step.
  """
  step = _make_step(
    renderer,
    optimizer,
    make_gradient(renderer, cast_fn, **settings),
    feed=feed,
    skip_nonfinite=skip_nonfinite,
    batch_warmup_steps=batch_warmup_steps,
  )

  def update(
    state: TrainState, data: Any, key: jax.Array
  ) -> tuple[TrainState, Scalars]:
    if num_steps == 1:
      state, scalars = step(state, data, key)
      return refresh(renderer, state, key, scalars['nonfinite']), scalars
    return _take_steps(renderer, step, feed, num_steps, state, data, key)

  return jax.pmap(
    update, AXIS, in_axes=(0, 0, None), out_axes=(0, None), donate_argnums=0
  )


_Step = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Scalars]]


def _take_steps(
  renderer: base.Renderer[Any],
  step: _Step,
  feed: Feed,
  num_steps: int,
  state: TrainState,
  data: Any,
  key: jax.Array,
) -> tuple[TrainState, Scalars]:
  """Takes steps, and looks at the renderer's state as often as it asks for."""
  every = renderer.update_every
  inner = math.gcd(num_steps, every) if every else num_steps
  parts = num_steps // inner
  xs = None
  if feed.is_per_step():
    xs = jax.tree.map(lambda x: x.reshape(parts, inner, *x.shape[1:]), data)

  _, shapes = jax.eval_shape(
    step, state, data if xs is None else jax.tree.map(lambda x: x[0], data), key
  )

  def take_one(state: TrainState, x: Any) -> tuple[TrainState, jax.Array]:
    state, scalars = step(state, data if xs is None else x, key)
    return state, arrays.pack(scalars)

  def take_part(state: TrainState, x: Any) -> tuple[TrainState, jax.Array]:
    state, packed = jax.lax.scan(take_one, state, x, length=inner)
    nonfinite = arrays.unpack(packed[-1], shapes)['nonfinite']
    is_due = inner == every
    return refresh(renderer, state, key, nonfinite, is_due=is_due), packed

  state, packed = jax.lax.scan(take_part, state, xs, length=parts)
  return state, arrays.unpack(packed.reshape(num_steps, -1), shapes)


def refresh(
  renderer: base.Renderer[Any],
  state: TrainState,
  key: jax.Array,
  nonfinite: jax.Array,
  *,
  is_due: bool = False,
) -> TrainState:
  """Updates the renderer's state after a step, where that is due.

  Args:
    renderer: whose state it is.
    state: after the step.
    key: the run's.
    nonfinite: the step's scalar: after a NaN nothing is updated.
    is_due: whether it is known to be due; else it depends on the step, and an
      accelerator has to wait for the host to decide.
  """
  every = renderer.update_every
  if not every:
    return state

  # A branch copies what it is given: not the whole state.
  def update(before: base.RendererState) -> base.RendererState:
    variables = base.Variables(params=state.params, state=before)
    stream = jax.random.fold_in(key, _STATE_STREAM)
    return renderer.update_state(variables, stream, state.step)

  if is_due:
    renderer_state = jax.tree.map(
      lambda x, y: jnp.where(nonfinite > 0, x, y),
      state.renderer_state,
      update(state.renderer_state),
    )
  else:
    renderer_state = jax.lax.cond(
      (state.step % every == 0) & (nonfinite == 0),
      update,
      lambda before: before,
      state.renderer_state,
    )
  return state._replace(renderer_state=renderer_state)


def _make_step(
  renderer: base.Renderer[Any],
  optimizer: optax.GradientTransformation,
  gradient: Callable[..., tuple[base.Params, Scalars]],
  *,
  feed: Feed,
  skip_nonfinite: bool,
  batch_warmup_steps: int,
) -> _Step:
  """Builds a step of one device, without that of the renderer's state."""

  def step(
    state: TrainState, data: Any, key: jax.Array
  ) -> tuple[TrainState, Scalars]:
    num_devices = jax.lax.axis_size(AXIS)
    rays = (feed.num_rays or 0) // num_devices or data.camera.shape[0]
    index = jax.lax.axis_index(AXIS) * rays + jnp.arange(rays)
    step_key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(index)
    batch = feed.read(data, keys, step_key, state.step)
    weight = ray_weights(
      index,
      rays * num_devices,
      active_ray_fraction(state.step, batch_warmup_steps),
    )
    grads, scalars = gradient(state.variables(), keys, batch, weight=weight)
    pieces = jax.lax.pmax(scalars.pop('pieces'), axis_name=AXIS)
    grads, scalars = sum_over_devices((grads, scalars))
    squared_norms = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(grads)]
    nonfinite = jnp.where(
      state.nonfinite > 0,
      state.nonfinite,
      first_nonfinite(scalars['loss'], squared_norms),
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    moved = state._replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      color_stats=jax.tree.map(
        lambda x, y: _EMA_DECAY * x + y,
        state.color_stats,
        scalars['color_stats'],
      ),
    )
    # With `skip_nonfinite` the state's own `nonfinite` is always 0.
    stays = state._replace(nonfinite=nonfinite)
    if skip_nonfinite:
      stays = state._replace(step=state.step + 1, skipped=state.skipped + 1)
    # A choice, not a branch: a branch would copy all arrays of the state.
    state = jax.tree.map(
      lambda x, y: y if x is y else jnp.where(nonfinite > 0, x, y), stays, moved
    )
    for name in [x for x in scalars if x.startswith('mse')]:
      scalars[name.replace('mse', 'psnr')] = psnr(scalars[name])
    return state, scalars | {
      'color_stats': _mean_stats(state),
      'grad_norm': jnp.sqrt(functools.reduce(jnp.add, squared_norms)),
      'pieces': pieces,
      'nonfinite': nonfinite,
      'skipped': state.skipped,
    }

  return step


def _mean_stats(state: TrainState) -> ColorStats:
  """Returns the decayed sums of a state over the sum of their weights."""
  steps = state.step - state.skipped
  weight = (1 - _EMA_DECAY**steps) / (1 - _EMA_DECAY)
  return jax.tree.map(lambda x: x / jnp.maximum(weight, 1.0), state.color_stats)


def sum_over_devices(tree: chex.ArrayTree) -> Any:
  """Sums arrays over all devices of a function mapped along `AXIS`."""
  if jax.process_count() == 1:
    return jax.lax.psum(tree, axis_name=AXIS)
  # As one array: between processes each sum has its own delay.
  flat, restore = jax.flatten_util.ravel_pytree(tree)
  return restore(jax.lax.psum(flat, axis_name=AXIS))


def make_global_max() -> Callable[[int], jax.Array]:
  """Builds a function of a number of each process, which returns the largest.

  It waits for the other processes only when its result is read.
  """
  global_max = jax.pmap(lambda x: jax.lax.pmax(x, AXIS), AXIS, out_axes=None)
  count = jax.local_device_count()
  return lambda x: global_max(np.full(count, x, np.int32))
