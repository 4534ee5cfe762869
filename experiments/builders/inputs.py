"""What the updates of a run read: pixels of the training images.

Either each device holds the images and draws from them, or the host draws, with
tf.data, and the pixels of each step travel.
"""

import functools
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
  of_device = devices.memory()
  return of_device and of_device.limit - of_device.in_use


class Inputs:
  """What the updates of a run read.

  Attributes:
    kind: where batches are drawn, `DEVICE` or `HOST`.
  """

  def __init__(
    self, config: ml_collections.ConfigDict, scene: scenes.Scene, kind: str
  ):
    """Nothing is moved to a device before it is asked for."""
    self.kind = kind
    self._config, self._split = config, scene.train
    # Of both kinds; as the twins name them.
    self._settings: dict[str, Any] = {
      'masks': scene.train.masks,
      'batching': config.batching,
      'precrop_iters': config.precrop_iters,
      'precrop_frac': config.precrop_frac,
    }

  @functools.cached_property
  def _resident(self) -> resident.Resident:
    """The images on this process's devices, `[D, ...]`."""
    held = resident.make_resident(self._split.images, **self._settings)
    on_devices: resident.Resident = devices.replicate(held)
    return on_devices

  def describe(self) -> str:
    """Says in a sentence where the batches are drawn."""
    size = self._split.images.pixels.nbytes / 1e6
    if self.kind == HOST:
      return f'Batches are drawn on the host from {size:,.0f} MB of images.'
    where = 'in memory' if devices.are_cpus() else 'on each device'
    return f'Batches are drawn from {size:,.0f} MB of images {where}.'

  def make_feed(self) -> training.Feed:
    """Returns what makes batches of the data that an update reads."""
    config = self._config
    shared: dict[str, Any] = {
      'background': schema.background(config),
      'with_alpha': config.random_background,
    }
    if self.kind == HOST:
      return batches.make_feed(**shared)
    return resident.make_feed(
      num_rays=_num_pixels(config),
      batching=config.batching,
      precrop_iters=config.precrop_iters,
      **shared,
    )

  def of_steps(
    self, *, seed: int, start_step: int, num_steps: int
  ) -> Iterator[Any]:
    """Yields for each step what this process's devices read, `[D, ...]`.

    Args:
      seed: of the run; on devices the run's key takes its place.
      start_step: the first step.
      num_steps: the step to stop before.
    """
    if self.kind == DEVICE:
      return itertools.repeat(self._resident, num_steps - start_step)
    return batches.make_batches(
      self._split.images,
      seed=seed,
      start_step=start_step,
      num_steps=num_steps,
      num_rays=_num_pixels(self._config),
      process=jax.process_index(),
      num_processes=jax.process_count(),
      **self._settings,
    )

  def shapes(self, num_steps: int = 1) -> Any:
    """Returns the shapes of what a call of `num_steps` steps reads."""
    if self.kind == DEVICE:
      return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._resident
      )
    count = jax.local_device_count()
    lead = (count, num_steps) if num_steps > 1 else (count,)
    rays = (*lead, _num_pixels(self._config) // jax.device_count())
    pixels = self._split.images.pixels
    fields: dict[str, Any] = {
      'camera': jax.ShapeDtypeStruct(rays, np.int32),
      'pixel': jax.ShapeDtypeStruct((*rays, 2), np.int32),
      'color': jax.ShapeDtypeStruct((*rays, pixels.shape[1]), pixels.dtype),
    }
    return scenes.StoredPixels(**fields)

  def stack(self, of_steps: list[Any]) -> Any:
    """Returns what one call reads for several steps, from that of each."""
    if self.kind == DEVICE or len(of_steps) == 1:
      return of_steps[0]
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *of_steps)


def _num_pixels(config: ml_collections.ConfigDict) -> int:
  """Returns the pixels that the rays of a step pass through."""
  return int(config.num_rand // config.train_rays_per_side**2)
