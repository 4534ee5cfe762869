"""The update step: gradients of the rendering loss, on all devices."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from nerf_haiku import cameras, sampling, scenes
from nerf_haiku.renderers import hierarchical

AXIS = 'devices'
# A growing batch begins with this share of its rays.
_FIRST_SHARE = 1 / 16
# What the run's key is folded with for the renderer's memory: no step.
_REFRESH = np.uint32(2**32 - 1)
_BACKGROUND = np.uint32(2**32 - 2)  # A ray's key: no position on it.
# Of what is seen, from one step to the next: some 50 steps are remembered.
_FADING = 0.98

# Scalars of a step by name; `color_stats` are `ColorStats`.
Scalars = dict[str, Any]
# (camera [R], pixel [R, 2]) -> rays.
CastFn = Callable[[chex.Array, chex.Array], cameras.Rays]


class ColorStats(NamedTuple):
  """Mean colours of a batch: what tells a collapsed run from a healthy one."""

  true: chex.Array  # [3] mean of the true colours.
  true_square: chex.Array  # [3] mean of their squares.
  seen: chex.Array  # [3] mean of the rendered colours.
  seen_square: chex.Array  # [3] mean of their squares.
  mse: chex.Array  # [] mean squared error.


class TrainState(NamedTuple):
  """All that a run needs to resume; networks and optimizers stay outside."""

  step: chex.Array  # [] int32, updates done.
  params: hierarchical.Params
  opt_state: optax.OptState
  color_stats: ColorStats  # fading sums: each step counts `_FADING` less.
  skipped: chex.Array  # [] int32, updates left out for a NaN or infinity.
  # [] int32: 0, or 1 + the index among `checked_names` of the first array of
  # an update that held a NaN or infinity: the state then stays as it is.
  fault: chex.Array
  memory: hierarchical.Memory = ()  # what the renderer keeps of the scene.

  def learnt(self) -> hierarchical.Learnt:
    """What views are rendered from."""
    return hierarchical.Learnt(self.params, self.memory)


def learning_rate_schedule(
  peak: float,
  *,
  decay_factor: float,
  decay_steps: int,
  warmup_steps: int,
  cosine: bool = False,
) -> optax.Schedule:
  """The rate of a step: `peak` times `decay_factor` per `decay_steps`.

  Args:
    peak: the rate at step 0, were there no warm-up.
    decay_factor: 1 for a rate that does not decay.
    decay_steps: steps that it falls by the factor in, continuously.
    warmup_steps: the first steps, over which the rate rises evenly to where
      the decay is then; 0 for none.
    cosine: whether it falls as half a cosine does, once, and stays at the
      factor (Loshchilov and Hutter, *SGDR*, 2017, equation 5).
  """
  if cosine:
    decay = optax.cosine_decay_schedule(peak, decay_steps, decay_factor)
  else:
    decay = optax.exponential_decay(peak, decay_steps, decay_factor)

  def schedule(step):
    rise = jnp.minimum(1.0, (step + 1) / max(warmup_steps, 1))
    return decay(step) * rise

  return schedule


def init_state(
  renderer: hierarchical.Renderer,
  optimizer: optax.GradientTransformation,
  key: chex.PRNGKey,
) -> TrainState:
  """The state before the first update."""
  return jax.jit(functools.partial(_init_state, renderer, optimizer))(key)


def _init_state(
  renderer: hierarchical.Renderer,
  optimizer: optax.GradientTransformation,
  key: chex.PRNGKey,
) -> TrainState:
  params = renderer.init(key)
  zero = jnp.zeros((), jnp.int32)
  black = [jnp.zeros(3) for _ in range(4)]  # Donated one by one: four arrays.
  nothing = ColorStats(black[0], black[1], black[2], black[3], jnp.zeros(()))
  return TrainState(
    zero,
    params,
    optimizer.init(params),
    nothing,
    zero,
    zero,
    renderer.remember(),
  )


def checked_names(params: hierarchical.Params) -> list[str]:
  """What an update looks at for NaN and infinity, in its order."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  names = [
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves
  ]
  return ['the loss', *(f'the gradient of {name}' for name in names)]


def first_nonfinite(loss: chex.Array, grads: hierarchical.Params) -> chex.Array:
  """1 + the index of the first array with a NaN or infinity; 0 for none."""
  arrays = [loss, *jax.tree.leaves(grads)]
  bad = jnp.stack([~jnp.all(jnp.isfinite(x)) for x in arrays])
  return jnp.where(jnp.any(bad), 1 + jnp.argmax(bad), 0).astype(jnp.int32)


def psnr(mse: chex.Array) -> chex.Array:
  """Peak signal-to-noise ratio in dB of colours in [0, 1]."""
  return -10.0 / jnp.log(10.0) * jnp.log(mse)


def squared_errors(
  renderings: hierarchical.Renderings, rgb: chex.Array, weight: chex.Array
) -> tuple[chex.Array, dict[str, chex.Array]]:
  """The loss (equation 6), a weighted sum over rays.

  Args:
    renderings: of `R` rays, the coarse one first.
    rgb: `[R, 3]` true colours.
    weight: `[R]` of each ray.

  Returns:
    The sum over rays and networks of the weighted mean squared error of a
    colour, and that of each network: `mse`, and `mse_coarse` where there are
    two.
  """
  errors = [
    jnp.sum(weight * jnp.mean(jnp.square(x.rgb - rgb), axis=-1))
    for x in renderings
  ]
  names = ('mse_coarse', 'mse')[-len(errors) :]
  return sum(errors), dict(zip(names, errors, strict=True))


def color_stats(
  seen: chex.Array, true: chex.Array, weight: chex.Array
) -> ColorStats:
  """Weighted sums over `R` rays of colours `[R, 3]` and their squares."""

  def total(x):
    return jnp.sum(weight[:, None] * x, axis=0)

  mse = jnp.mean(total((seen - true) ** 2))
  return ColorStats(
    total(true), total(true**2), total(seen), total(seen**2), mse
  )


def _for_background(keys: chex.PRNGKey) -> chex.PRNGKey:
  return jax.vmap(lambda key: jax.random.fold_in(key, _BACKGROUND))(keys)


def on_background(
  rgb: chex.Array, opacity: chex.Array, background: chex.Array, *, white: bool
) -> chex.Array:
  """Colours `[R, 3]` on a background `[R, 3]`, of those on white or black."""
  return rgb + (1.0 - opacity[:, None]) * (background - float(white))


def make_gradient(
  renderer: hierarchical.Renderer,
  cast_fn: CastFn,
  *,
  microbatch: int,
  random_background: bool = False,
  white_background: bool = False,
  distortion: float = 0.0,
) -> Callable[..., tuple[hierarchical.Params, Scalars]]:
  """Builds `gradient(params, keys, batch)`: the mean over a batch's rays.

  The gradient is accumulated over pieces of at most `microbatch` rays (0: all
  at once) and of no more samples than the renderer's budget, so that a piece's
  activations fit the memory, or a CPU's cache. There are as many pieces as the
  rays ask for: none is left out.

  Args:
    renderer: renders the rays.
    cast_fn: casts the rays of a batch.
    microbatch: rays whose gradient is taken at a time, 0 for all.
    random_background: whether each ray is compared on a random background;
      batches then have the true `alpha`.
    white_background: what the renderer's and the batch's colours are on.
    distortion: how much of `volume.distortion` is added to the loss.

  Returns:
    A function of parameters, `[R]` keys, a batch of `R` rays, and by name the
    renderer's `memory` and the rays' weights `weight` `[R]` (without: that of
    a mean). A ray of weight 0 has no samples. It gives the gradient and `loss`,
    `mse`, `mse_coarse`, the batch's `moments`, `samples` per ray and `pieces`.
  """

  def loss_fn(params, plan, rays, batch, keys, weight):
    seen = renderer.train(params, plan.details, rays)
    fits = hierarchical.fitting(plan.num_samples, renderer.budget)
    weight = jnp.where(fits, weight, 0.0)
    rgb = batch.rgb
    means = color_stats(seen[-1].rgb, rgb, weight)
    if random_background:
      behind = sampling.uniforms(_for_background(keys), 3)
      rgb = on_background(rgb, batch.alpha, behind, white=white_background)
      seen = tuple(
        x._replace(
          rgb=on_background(x.rgb, x.opacity, behind, white=white_background)
        )
        for x in seen
      )
    loss, scalars = squared_errors(seen, rgb, weight)
    if distortion:
      loss += distortion * sum(jnp.sum(weight * x.distortion) for x in seen)
    samples = jnp.sum(weight * plan.num_samples)
    scalars |= {'loss': loss, 'moments': means, 'samples': samples}
    return loss, scalars

  grad_fn = jax.grad(loss_fn, has_aux=True)

  def gradient(params, keys, batch, *, memory=(), weight=None):
    count = batch.camera.shape[0]
    if weight is None:
      weight = jnp.full(count, 1.0 / count)
    batch = jax.tree.map(jnp.asarray, batch)
    rays = cast_fn(batch.camera, batch.pixel)
    rays = rays._replace(
      far=jnp.where(weight[:, None] > 0, rays.far, rays.near)
    )
    whole = renderer.plan(params, memory, keys, rays), rays, batch, keys, weight
    size = -(-count // -(-count // (microbatch or count)))

    def piece(begin):
      index = begin + jnp.arange(size)
      # What is past the end wraps, and has neither weight nor samples.
      plan, *rest, weight = jax.tree.map(lambda x: x[index % count], whole)
      there = index < count
      plan = plan._replace(num_samples=jnp.where(there, plan.num_samples, 0))
      return plan, *rest, jnp.where(there, weight, 0.0)

    def add(carry):
      begin, pieces, total = carry
      part = piece(begin)
      fits = hierarchical.fitting(part[0].num_samples, renderer.budget)
      total = jax.tree.map(jnp.add, total, grad_fn(params, *part))
      return begin + jnp.sum(fits), pieces + 1, total

    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(lambda: grad_fn(params, *piece(0))),
    )
    _, pieces, (grads, scalars) = jax.lax.while_loop(
      lambda carry: carry[0] < count, add, (0, 0, zeros)
    )
    return grads, scalars | {'pieces': pieces}

  return gradient


def active_ray_fraction(step: chex.Array, growth: int) -> chex.Array:
  """The share of a batch's rays that a step learns from.

  It grows evenly over the first `growth` steps: a field that knows nothing
  learns as much from few rays, and their samples are many while no space is
  known to be empty.
  """
  if not growth:
    return jnp.ones(())
  return jnp.clip(step / growth, _FIRST_SHARE, 1.0)


def ray_weights(index: chex.Array, total: int, share: chex.Array) -> chex.Array:
  """Weights of the rays `[R]` of a share of a batch, that add up to 1.

  Args:
    index: `[R]` int32, of the rays in the whole batch.
    total: rays of the whole batch.
    share: of the rays that have a weight; they are spread over all indices,
      so that each device has as many.
  """
  number = jnp.maximum(jnp.round(share * total), 1)
  stride = next(
    x
    for x in range(round(0.618 * total) or 1, total + 2)
    if math.gcd(x, total) == 1
  )
  place = (index.astype(jnp.uint32) * np.uint32(stride)) % np.uint32(total)
  return jnp.where(place < number, 1.0 / number, 0.0)


def make_update(
  renderer: hierarchical.Renderer,
  optimizer: optax.GradientTransformation,
  cast_fn: CastFn,
  *,
  microbatch: int,
  skip_nonfinite: bool = False,
  batch_growth: int = 0,
  random_background: bool = False,
  white_background: bool = False,
  distortion: float = 0.0,
) -> Callable[
  [TrainState, scenes.Batch, chex.PRNGKey], tuple[TrainState, Scalars]
]:
  """Builds the pmapped `update(state, batch, key)` for all devices.

  `state` leads with `[D]`, the devices of this process, and is donated; `batch`
  is its part `[D, R / D, ...]` of the whole batch; `key` is the run's.
  What is random about a ray depends on the key, the step and the ray's index in
  the whole batch, and so not on the devices or pieces.

  An update whose loss or gradient holds a NaN or infinity is never made. The
  state says so in `fault`, and this and all later calls leave the rest of it
  as it was before; or the step is left out and counted in `skipped`.

  Args:
    renderer: renders the rays.
    optimizer: turns gradients into updates.
    cast_fn: casts the rays of a batch.
    microbatch: rays whose gradient is taken at a time, 0 for all.
    skip_nonfinite: whether a NaN or infinity skips its step.
    batch_growth: steps over which the batch grows, see `active_ray_fraction`.
    random_background: see `make_gradient`.
    white_background: see `make_gradient`.
    distortion: see `make_gradient`.

  Returns:
    A function that gives the new state and a dict of scalars averaged over
    all rays, without a leading axis: `loss`, `mse`, `psnr`, and `mse_coarse`
    and `psnr_coarse` where there are two networks; the `color_stats` of the
    last 50 steps or so; the gradient's `grad_norm` over all parameters; the
    `fault` found, as in the state, and the new state's `skipped`; `samples` per
    ray, and the most `pieces` that a device took them in.
  """
  gradient = make_gradient(
    renderer,
    cast_fn,
    microbatch=microbatch,
    random_background=random_background,
    white_background=white_background,
    distortion=distortion,
  )

  def update(state, batch, key):
    rays = batch.camera.shape[0]
    index = jax.lax.axis_index(AXIS) * rays + jnp.arange(rays)
    step_key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(index)
    weight = ray_weights(
      index,
      rays * jax.lax.axis_size(AXIS),
      active_ray_fraction(state.step, batch_growth),
    )
    grads, scalars = gradient(
      state.params, keys, batch, memory=state.memory, weight=weight
    )
    pieces = jax.lax.pmax(scalars.pop('pieces'), axis_name=AXIS)
    grads, scalars = sum_over_devices((grads, scalars))
    found = first_nonfinite(scalars['loss'], grads)
    fault = jnp.where(state.fault > 0, state.fault, found)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = jax.tree.map(
      lambda x, y: _FADING * x + y, state.moments, scalars['moments']
    )
    memory = renderer.refresh(
      state.memory, params, jax.random.fold_in(key, _REFRESH), state.step + 1
    )
    moved = state._replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      moments=sums,
      memory=memory,
    )
    # With `skip_nonfinite` the state's fault is always 0.
    stays = state._replace(fault=fault)
    if skip_nonfinite:
      stays = state._replace(step=state.step + 1, skipped=state.skipped + 1)
    # A choice, not a branch: a branch would copy all arrays of the state.
    state = jax.tree.map(lambda x, y: jnp.where(fault > 0, x, y), stays, moved)
    for name in [x for x in scalars if x.startswith('mse')]:
      scalars[name.replace('mse', 'psnr')] = psnr(scalars[name])
    # The sum of the weights of all steps so far.
    weight = (1 - _FADING ** (state.step - state.skipped)) / (1 - _FADING)
    scalars['moments'] = jax.tree.map(
      lambda x: x / jnp.maximum(weight, 1.0), state.moments
    )
    scalars |= {'grad_norm': optax.tree.norm(grads), 'pieces': pieces}
    return state, scalars | {'fault': fault, 'skipped': state.skipped}

  return jax.pmap(
    update, AXIS, in_axes=(0, 0, None), out_axes=(0, None), donate_argnums=0
  )


def sum_over_devices(tree: Any) -> Any:
  """The sum of arrays over all devices of a function mapped along `AXIS`."""
  if jax.process_count() == 1:
    return jax.lax.psum(tree, axis_name=AXIS)
  # As one array: between processes each sum has its own delay.
  flat, restore = jax.flatten_util.ravel_pytree(tree)
  return restore(jax.lax.psum(flat, axis_name=AXIS))


def make_global_max() -> Callable[[int], jax.Array]:
  """Builds a function of a number of each process: the greatest of them.

  It waits for the others only when what it gives is read.
  """
  greatest = jax.pmap(lambda x: jax.lax.pmax(x, AXIS), AXIS, out_axes=None)
  count = jax.local_device_count()
  return lambda x: greatest(np.full(count, x, np.int32))
