"""Trains the built-in scene with the library alone, and renders a test view.

It takes about a minute: python docs/minimal.py
"""

import functools

import jax
import numpy as np
import optax

from nerf_haiku import cameras, devices, fields, image_rendering, training
from nerf_haiku.datasets import resident
from nerf_haiku.datasets.procedural import photographs
from nerf_haiku.io import media
from nerf_haiku.renderers import occupancy


def train(num_steps: int = 300, size: int = 64) -> np.ndarray:
  """Returns a rendered test view, `[size, size, 3]` in [0, 1]."""
  scene = photographs.make_scene(seed=0, size=size)
  field = fields.make_hash_grid(
    box=scene.box, max_resolution=2 * size, color_depth=1
  )
  settings = occupancy.Settings(scene.box, step_size=0.02, max_samples=10_000)
  renderer = occupancy.make_occupancy(field, settings, background=(1, 1, 1))
  cast_fn = functools.partial(
    cameras.cast,
    near=scene.near,
    far=scene.far,
    box=scene.box,
    pixel_center=True,
  )
  optimizer = optax.adam(1e-2, b2=0.99, eps=1e-15)
  update = training.make_update(
    renderer,
    optimizer,
    functools.partial(cast_fn, scene.train.cameras),
    feed=resident.make_feed(num_rays=1024, background=(1, 1, 1)),
  )
  init_key, key = jax.random.split(jax.random.key(0))
  state = training.init_state(renderer, optimizer, init_key)
  state = devices.replicate(state)
  images = devices.replicate(resident.make_resident(scene.train.images))
  for _ in range(num_steps):
    state, scalars = update(state, images, key)
    jax.block_until_ready(scalars)
  print(f'PSNR of the last batch: {scalars["psnr"]:.2f} dB')
  render_image = image_rendering.make_render_image(renderer, cast_fn)
  return render_image(state.variables(), scene.test.cameras, 0).rgb


if __name__ == '__main__':
  media.write_png('view.png', media.to_uint8(train()))
