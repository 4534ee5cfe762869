"""Fits the pose of a view to its photograph; the field stays as it is.

Where the training cameras were refined, the scene need not fit the given poses
of test views: a rendering may be better and have a worse score. Such views are
scored with poses that were fitted to them as well (as in Lin et al., *BARF*,
2021, section 5).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from nerf_haiku import arrays, camera_refinement, cameras, image_rendering
from nerf_haiku.renderers import base

# Of the learning rate, at the last step.
_LAST_FRACTION = 0.01


class View(NamedTuple):
  """A photograph and its camera."""

  camera: cameras.Cameras  # one, as rays are cast from it.
  preconditioners: arrays.Array  # [1, K, K], see `camera_refinement`.
  rgb: arrays.Array  # [H, W, 3] in [0, 1].
  # [H, W] bool, the pixels that count; None: all.
  mask: arrays.Array | None = None


# (variables, view, key) -> parameters of its correction.
Align = Callable[[base.Variables, View, jax.Array], hk.Params]


def make_align(
  renderer: base.Renderer[Any],
  cast_fn: image_rendering.CastFn,
  *,
  ndc: cameras.Ndc | None,
  num_steps: int,
  num_rays: int,
  learning_rate: float,
) -> Align:
  """Builds a function that fits the correction of a camera to its photograph.

  Args:
    renderer: renders rays.
    cast_fn: casts rays of the world.
    ndc: see `image_rendering.make_render_image`.
    num_steps: gradient steps.
    num_rays: random pixels of the photograph that a step renders.
    learning_rate: at the first step; it falls along half a cosine.

  Returns:
    A function for one device; it compiles once for each size of photographs.
  """
  optimizer = optax.adam(
    optax.cosine_decay_schedule(learning_rate, num_steps, _LAST_FRACTION),
    eps=1e-15,
  )

  def loss(
    params: hk.Params, variables: base.Variables, view: View, key: jax.Array
  ) -> jax.Array:
    height, width, _ = view.rgb.shape
    pixel_key, ray_key = jax.random.split(key)
    index = jax.random.randint(pixel_key, (num_rays,), 0, height * width)
    row, column = index // width, index % width
    camera = camera_refinement.correct(
      view.camera, view.preconditioners, params
    )
    rays = cast_fn(
      camera, jnp.zeros(num_rays, jnp.int32), jnp.stack([row, column], -1)
    )
    rays = rays if ndc is None else cameras.to_ndc(rays, ndc)
    samples = renderer.sample_rays(
      variables,
      jax.lax.stop_gradient(rays),
      jax.random.split(ray_key, num_rays),
    )
    # Pixels are in random order: those past the budget are left out.
    fits = base.within_budget(samples.num_samples, renderer.max_samples)
    rendering = renderer.render(variables.params, rays, samples.keep(fits))[-1]
    difference = rendering.outputs.rgb - jnp.asarray(view.rgb)[row, column]
    if view.mask is not None:
      fits &= jnp.asarray(view.mask)[row, column]
    errors = jnp.where(fits[:, None], difference, 0.0) ** 2
    return jnp.sum(errors) / jnp.maximum(jnp.sum(fits), 1)

  @jax.jit
  def update(
    params: hk.Params,
    opt_state: optax.OptState,
    variables: base.Variables,
    view: View,
    key: jax.Array,
  ) -> tuple[hk.Params, optax.OptState]:
    grads = jax.grad(loss)(params, variables, view, key)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state

  def align(variables: base.Variables, view: View, key: jax.Array) -> hk.Params:
    chex.assert_shape(view.rgb, (None, None, 3))
    variables, view = jax.device_put((variables, view))
    focal = view.preconditioners.shape[-1] == 7
    params = camera_refinement.init(1, focal=focal)
    opt_state = optimizer.init(params)
    for step in range(num_steps):
      params, opt_state = update(
        params, opt_state, variables, view, jax.random.fold_in(key, step)
      )
    return params

  return align
