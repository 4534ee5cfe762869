"""What the updates of a run read: pixels of the training images.

Either each device holds the images and draws from them, or the host draws, with
tf.data, and the pixels of each step travel.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments.configs import schema
from nerf_haiku import devices, errors, scenes, training
from nerf_haiku.datasets import batches, resident
from nerf_haiku.io import memory

DEVICE, HOST = 'device', 'host'
# Of a device's free memory the images may take one part in this many.
_PARTS = 4


def choose(config: ml_collections.ConfigDict, scene: scenes.Scene) -> str:
  """Returns where the batches of a run are drawn, `DEVICE` or `HOST`.

  Raises:
    UserError: if the config asks for what is not possible.
  """
  images, masks = scene.train.images, scene.train.masks
  can_be_drawn = resident.can_be_drawn(images)
  if config.input == DEVICE and not can_be_drawn:
    raise errors.UserError(
      f"config.input: got '{DEVICE}', but the training images have "
      f'{len(images.pixels):,} pixels, more than a device can count: set '
      f"config.input='{HOST}', or config.down_factor."
    )
  if config.input != 'auto':
    return str(config.input)
  needed = resident.num_bytes(images, masks)
  if devices.are_cpus():  # They share the memory.
    needed *= jax.local_device_count()
  free = _free_bytes()
  fits = free is None or needed * _PARTS <= free
  return DEVICE if can_be_drawn and fits else HOST


def _free_bytes() -> int | None:
  """Returns the free memory of each device; None: it is not known."""
  if devices.are_cpus():
    return memory.available()
  stats = [device.memory_stats() for device in jax.local_devices()]
  free = [x['bytes_limit'] - x['bytes_in_use'] for x in stats if x]
  return min(free, default=None)


def describe(kind: str, scene: scenes.Scene) -> str:
  """Says in a sentence where the batches are drawn."""
  size = scene.train.images.pixels.nbytes / 1e6
  if kind == HOST:
    return f'Batches are drawn on the host from {size:,.0f} MB of images.'
  where = 'in memory' if devices.are_cpus() else 'on each device'
  return f'Batches are drawn from {size:,.0f} MB of images {where}.'


def make_feed(config: ml_collections.ConfigDict, kind: str) -> training.Feed:
  """Returns what makes batches of the data that an update reads."""
  shared: dict[str, Any] = {
    'background': schema.background(config),
    'with_alpha': config.random_background,
  }
  if kind == HOST:
    return batches.make_feed(**shared)
  return resident.make_feed(
    num_rays=config.num_rand,
    batching=config.batching,
    precrop_iters=config.precrop_iters,
    **shared,
  )


def make_inputs(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  kind: str,
  *,
  seed: int,
  start_step: int,
  num_steps: int,
) -> Iterator[Any]:
  """Yields for each step what this process's devices read, `[D, ...]`.

  Args:
    config: the config.
    scene: of the training images.
    kind: `DEVICE`, which yields the same arrays for each step, or `HOST`.
    seed: of the run; on devices the run's key takes its place.
    start_step: the first step.
    num_steps: the step to stop before.
  """
  if kind == DEVICE:
    images = devices.replicate(_make_resident(config, scene))
    return itertools.repeat(images, num_steps - start_step)
  return batches.make_batches(
    scene.train.images,
    seed=seed,
    start_step=start_step,
    num_steps=num_steps,
    num_rays=config.num_rand,
    batching=config.batching,
    precrop_iters=config.precrop_iters,
    precrop_frac=config.precrop_frac,
    process=jax.process_index(),
    num_processes=jax.process_count(),
    masks=scene.train.masks,
  )


def _make_resident(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> resident.Resident:
  return resident.make_resident(
    scene.train.images,
    masks=scene.train.masks,
    batching=config.batching,
    precrop_iters=config.precrop_iters,
    precrop_frac=config.precrop_frac,
  )


def shapes(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  kind: str,
  *,
  num_steps: int = 1,
) -> Any:
  """Returns the shapes of what a call of `num_steps` steps reads."""
  count = jax.local_device_count()
  if kind == DEVICE:
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype),
      _make_resident(config, scene),
    )
  lead = (count, num_steps) if num_steps > 1 else (count,)
  rays = (*lead, config.num_rand // jax.device_count())
  pixels = scene.train.images.pixels
  fields: dict[str, Any] = {
    'camera': jax.ShapeDtypeStruct(rays, np.int32),
    'pixel': jax.ShapeDtypeStruct((*rays, 2), np.int32),
    'color': jax.ShapeDtypeStruct((*rays, pixels.shape[1]), pixels.dtype),
  }
  return scenes.StoredPixels(**fields)


def stack(inputs: list[Any], kind: str) -> Any:
  """Returns what one call reads for several steps, from that of each."""
  if kind == DEVICE or len(inputs) == 1:
    return inputs[0]
  return jax.tree.map(lambda *x: np.stack(x, axis=1), *inputs)
