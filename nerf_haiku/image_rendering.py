"""Whole images, rendered over all devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import cameras, volume
from nerf_haiku.renderers import hierarchical

_AXIS = 'devices'


class RenderedImage(NamedTuple):
  """A rendered image, of NumPy arrays."""

  rgb: chex.Array  # [H, W, 3] in [0, 1].
  depth: chex.Array  # [H, W] as in `volume.Rendering`.
  disparity: chex.Array  # [H, W]
  opacity: chex.Array  # [H, W] in [0, 1].
  spread: chex.Array  # [H, W] as in `volume.Rendering`.
  # [H, W, 2] as in `volume.Rendering`.
  at_ends: chex.Array


def make_render_view(
  renderer: hierarchical.Renderer,
  cast_fn: Callable[..., cameras.Rays],
  *,
  chunk: int,
  piece: int,
  ndc: cameras.Ndc | None = None,
  network: int = -1,
  num_devices: int | None = None,
) -> Callable[[Any, cameras.Cameras, int], RenderedImage]:
  """Builds `render_view(learnt, cameras, index)` over all devices.

  A device renders `piece` rays at a time, always the same ones together, so
  that neither the chunk nor the number of devices can change a pixel. All
  processes have to call it alike, and each gets the whole view.

  Args:
    renderer: renders rays.
    cast_fn: `cast_fn(cameras, camera, pixel)` casts rays of the world.
    chunk: rays that a device is given per call, rounded up to whole pieces.
    piece: rays rendered at a time; it bounds the memory.
    ndc: device coordinates that the renderer takes its rays in; None: rays of
      the world.
    network: which rendering: the last is the result, 0 the coarse one.
    num_devices: `D`, how many hold the parameters; None: all.

  Returns:
    A function of what is learnt, replicated `[D, ...]` on the devices of the
    process, cameras and the index
    of one of them, that gives the view of that camera, of any size; its depth
    in scene units. With `looks`, one camera, it is seen as from there: pixels
    have the viewing directions of that camera, where colours depend on them.
  """
  many = num_devices is None and jax.process_count() > 1
  count = num_devices or jax.device_count()
  local = jax.local_device_count()
  mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
  pieces = -(-chunk // piece)

  def render_piece(learnt, camera, looks, pixel):
    rays = cast_fn(camera, jnp.zeros(piece, int), pixel)
    viewdirs = cast_fn(looks, jnp.zeros(piece, int), pixel).viewdirs
    rays = rays._replace(viewdirs=viewdirs)
    asked = rays if ndc is None else cameras.to_ndc(rays, ndc)
    seen = renderer.render(learnt.params, asked, learnt.memory)[network]
    if ndc is not None:
      seen = _out_of_ndc(seen, rays, ndc)
    return RenderedImage(
      seen.rgb,
      seen.depth,
      seen.disparity,
      seen.opacity,
      seen.spread,
      seen.at_ends,
    )

  @functools.partial(
    jax.pmap,
    axis_name=_AXIS,
    in_axes=(0, None, None, 0, None),
    out_axes=None if many else 0,
  )
  def render_chunk(learnt, camera, looks, pixel, num_pieces):
    """Renders the first of a device's pieces `[P, piece, 2]`; the rest is 0."""

    def add(i, parts):
      part = render_piece(learnt, camera, looks, pixel[i])
      return jax.tree.map(lambda x, y: x.at[i].set(y), parts, part)

    like = jax.eval_shape(render_piece, learnt, camera, looks, pixel[0])
    parts = jax.tree.map(lambda x: jnp.zeros((pieces, *x.shape), x.dtype), like)
    parts = jax.lax.fori_loop(0, num_pieces, add, parts)
    return jax.lax.all_gather(parts, _AXIS) if many else parts

  def render_view(learnt, cameras_, index, looks=None):
    camera = jax.tree.map(lambda x: x[index : index + 1], cameras_)
    looks = camera if looks is None else looks
    height, width = (int(x) for x in camera.sizes[0])
    pixel = cameras.pixels(height, width)
    left = -(-len(pixel) // piece)  # Pieces.
    parts, begin = [], 0
    while left > 0:
      # The last call has less to do, shared evenly.
      num = min(pieces, -(-left // count))
      # Past the end of the image pixels are repeated, and cut off below.
      take = np.arange(begin, begin + count * num * piece) % len(pixel)
      part = np.zeros((count, pieces, piece, 2), np.int32)
      part[:, :num] = pixel[take].reshape(count, num, piece, 2)
      # Waited for, so that a user who stops a run need not wait for a view.
      part = part[mine] if many else part
      seen = render_chunk(learnt, camera, looks, part, num)
      parts.append(jax.tree.map(lambda x, n=num: np.asarray(x)[:, :n], seen))
      begin, left = begin + count * num * piece, left - count * num

    def join(*arrays):
      flat = [x.reshape(-1, *x.shape[3:]) for x in arrays]
      whole = np.concatenate(flat)[: len(pixel)]
      return whole.reshape(height, width, *whole.shape[1:])

    return jax.tree.map(join, *parts)

  return render_view


def _out_of_ndc(
  seen: volume.Rendering, rays: cameras.Rays, ndc: cameras.Ndc
) -> volume.Rendering:
  """Depth and disparity in scene units: the expected t' is converted."""
  opacity = seen.opacity
  mean = seen.depth / jnp.where(opacity > 0, opacity, 1.0)
  # The near plane may lie behind a camera, but what it sees does not.
  depth = opacity * jnp.maximum(cameras.from_ndc(mean, rays, ndc), 0.0)
  return seen._replace(depth=depth, disparity=volume.disparity(depth, opacity))
