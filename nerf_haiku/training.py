"""The update step: gradients of the rendering loss, on all devices."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from nerf_haiku import cameras, renderers

_AXIS = 'devices'

Scalars = dict[str, chex.Array]
# (camera [R], pixel [R, 2]) -> rays.
CastFn = Callable[[chex.Array, chex.Array], cameras.Rays]


class Batch(NamedTuple):
  """`R` pixels of training images; on devices `[D, R / D, ...]`."""

  camera: chex.Array  # [R] int32, index into the training cameras.
  pixel: chex.Array  # [R, 2] int32, row and column.
  rgb: chex.Array  # [R, 3] float32 in [0, 1].


class TrainState(NamedTuple):
  """All that a run needs to resume; networks and optimizers stay outside."""

  step: chex.Array  # [] int32, updates done.
  params: renderers.Params
  opt_state: optax.OptState


def exponential_decay(
  learning_rate: float, *, decay_factor: float, decay_steps: int
) -> optax.Schedule:
  """Learning rate times `decay_factor` per `decay_steps`, continuously."""
  return optax.exponential_decay(learning_rate, decay_steps, decay_factor)


def init_state(
  renderer: renderers.Renderer,
  optimizer: optax.GradientTransformation,
  key: chex.PRNGKey,
) -> TrainState:
  """The state before the first update."""
  params = jax.jit(renderer.init)(key)
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def psnr(mse: chex.Array) -> chex.Array:
  """Peak signal-to-noise ratio in dB of colours in [0, 1]."""
  return -10.0 / jnp.log(10.0) * jnp.log(mse)


def squared_errors(
  renderings: renderers.Renderings, rgb: chex.Array, weight: chex.Array
) -> tuple[chex.Array, Scalars]:
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


def make_gradient(
  renderer: renderers.Renderer, cast_fn: CastFn, *, microbatch: int
) -> Callable[
  [renderers.Params, chex.PRNGKey, Batch], tuple[renderers.Params, Scalars]
]:
  """Builds `gradient(params, keys, batch)`: the mean over a batch's rays.

  The gradient is accumulated over pieces of at most `microbatch` rays (0: all
  at once), so that a piece's activations fit the memory, or a CPU's cache.
  The pieces are equal; rays that fill up the last have no weight.

  Returns:
    A function of parameters, `[R]` keys and a batch of `R` rays, that gives
    the gradient and the scalars `loss`, `mse` and `mse_coarse`.
  """

  def loss_fn(params, keys, batch, weight):
    rays = cast_fn(batch.camera, batch.pixel)
    loss, scalars = squared_errors(
      renderer.train(params, keys, rays), batch.rgb, weight
    )
    return loss, dict(scalars, loss=loss)

  grad_fn = jax.grad(loss_fn, has_aux=True)

  def gradient(params, keys, batch):
    rays = batch.camera.shape[0]
    pieces = -(-rays // (microbatch or rays))
    size = -(-rays // pieces)
    # Ray r is in piece r // size; indices past the end wrap, of weight 0.
    index = jnp.arange(pieces * size).reshape(pieces, size)
    weight = jnp.where(index < rays, 1.0 / rays, 0.0)
    piece = jax.tree.map(lambda x: x[index % rays], (keys, batch))

    def add(total, piece):
      (keys, batch), weight = piece
      return jax.tree.map(
        jnp.add, total, grad_fn(params, keys, batch, weight)
      ), None

    first = jax.tree.map(lambda x: x[0], (*piece, weight))
    zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(grad_fn, params, *first),
    )
    total, _ = jax.lax.scan(add, zeros, (piece, weight))
    return total

  return gradient


def make_update(
  renderer: renderers.Renderer,
  optimizer: optax.GradientTransformation,
  cast_fn: CastFn,
  *,
  microbatch: int,
) -> Callable[[TrainState, Batch, chex.PRNGKey], tuple[TrainState, Scalars]]:
  """Builds the pmapped `update(state, batch, key)` for all devices.

  `state` leads with `[D]` and is donated; `batch` is `[D, R / D, ...]`; `key`
  is the run's. What is random about a ray depends on the key, the step and
  the ray's index in the whole batch, and so not on the devices or pieces.

  Args:
    renderer: renders the rays.
    optimizer: turns gradients into updates.
    cast_fn: casts the rays of a batch.
    microbatch: rays whose gradient is taken at a time, 0 for all.

  Returns:
    A function that gives the new state and a dict of scalars averaged over
    all rays, without a leading axis: `loss`, `mse`, `psnr`, and `mse_coarse`
    and `psnr_coarse` where there are two networks.
  """
  gradient = make_gradient(renderer, cast_fn, microbatch=microbatch)

  def update(state, batch, key):
    rays = batch.camera.shape[0]
    index = jax.lax.axis_index(_AXIS) * rays + jnp.arange(rays)
    key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    grads, scalars = gradient(state.params, keys, batch)
    grads, scalars = jax.lax.pmean((grads, scalars), axis_name=_AXIS)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ratios = {
      name.replace('mse', 'psnr'): psnr(value)
      for name, value in scalars.items()
      if name != 'loss'
    }
    return TrainState(state.step + 1, params, opt_state), scalars | ratios

  return jax.pmap(
    update, _AXIS, in_axes=(0, 0, None), out_axes=(0, None), donate_argnums=0
  )
