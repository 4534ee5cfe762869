"""Whole images, rendered over all devices."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, cameras, volume
from nerf_haiku.renderers import base

_AXIS = 'devices'
# Of an opacity that depths are divided by.
_TINY = 1e-6

# (cameras, camera [R], pixel [R, 2]) -> rays of the world.
CastFn = Callable[[cameras.Cameras, jax.Array, jax.Array], cameras.Rays]


class RenderedImage(NamedTuple):
  """An image as a camera would take it, and diagnostics of its rays.

  Of NumPy arrays, once it is rendered.
  """

  rgb: arrays.Array  # [H, W, 3] in [0, 1].
  depth: arrays.Array  # [H, W] sum of weight times depth, scene units.
  disparity: arrays.Array  # [H, W] opacity / depth, 0 where opacity is 0.
  opacity: arrays.Array  # [H, W] in [0, 1].
  boundary_weight: arrays.Array  # [H, W, 2] see `volume.boundary_weight`.
  # [H, W] standard deviation of the importance samples' t; None without them.
  fine_t_std: arrays.Array | None = None

  def expected_depth(self) -> np.ndarray:
    """Returns depths over opacities, scene units; 0 where nothing is seen."""
    opacity = np.asarray(self.opacity)
    depth: np.ndarray = np.asarray(self.depth) / np.maximum(opacity, _TINY)
    return depth


class RenderImage(Protocol):
  """Renders the image of a camera, see `make_render_image`."""

  def __call__(
    self,
    variables: base.Variables,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
  ) -> RenderedImage:
    """Returns the image of the camera with this index."""


class RenderStrips(Protocol):
  """Renders the image of a camera piece by piece, see `make_render_strips`."""

  def __call__(
    self,
    variables: base.Variables,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
    crop: arrays.Array | None = None,
  ) -> Iterator[RenderedImage]:
    """Yields arrays `[P, ...]` of the next pixels, row by row."""


class _Layout(NamedTuple):
  """The division of rays over processes, devices and calls."""

  chunk: int  # `C` rays that are rendered together.
  chunks_per_call: int  # of one device, at most.
  num_devices: int  # `D`, of all processes.


def make_render_strips(
  renderer: base.Renderer[Any],
  cast_fn: CastFn,
  *,
  rays_per_call: int = 4096,
  chunk: int = 4096,
  ndc: cameras.Ndc | None = None,
  network: int = -1,
  num_devices: int | None = None,
) -> RenderStrips:
  """Builds `render_strips(variables, cameras, index)` over all devices.

  A device renders chunks of rays, always the same ones together, so that
  neither `rays_per_call` nor the number of devices can change a pixel. All
  processes have to call it alike, and each gets all of them. Whoever wants no
  more of an image stops to iterate: at most one further piece is computed.

  Args:
    renderer: renders rays.
    cast_fn: casts rays of the world.
    rays_per_call: rays that a device is given per call, rounded up to whole
      chunks.
    chunk: rays rendered at a time; it bounds the memory.
    ndc: normalized device coordinates that the renderer takes its rays in;
      None: rays of the world.
    network: which rendering: the last is the result, 0 the coarse one.
    num_devices: number of devices that hold the parameters; None: all.

  Returns:
    A function of `Variables`, replicated `[D, ...]` on the devices of the
    process, cameras, and the index of one of them. It yields the pixels of
    that camera's image, of any size, row by row, as host arrays `[P, ...]`;
    depth is in scene units. With `viewdir_camera`, one camera, each pixel has
    the viewing direction of that camera's pixel, where colours depend on it.
    With `crop`, the corners `[2, 3]` of a box, nothing is seen outside of it.
  """
  is_multihost = num_devices is None and jax.process_count() > 1
  layout = _Layout(
    chunk=chunk,
    chunks_per_call=-(-rays_per_call // chunk),
    num_devices=num_devices or jax.device_count(),
  )

  def render_chunk(
    variables: base.Variables,
    camera: cameras.Cameras,
    viewdir_camera: cameras.Cameras,
    crop: jax.Array | None,
    pixel: jax.Array,
  ) -> RenderedImage:
    first = jnp.zeros(chunk, int)
    rays = cast_fn(camera, first, pixel)
    viewdirs = cast_fn(viewdir_camera, first, pixel).viewdirs
    rays = rays._replace(viewdirs=viewdirs)
    if crop is not None:
      rays = cameras.clip(rays, crop)
    renderer_rays = rays if ndc is None else cameras.to_ndc(rays, ndc)
    rendering = renderer.render_eval(variables, renderer_rays)[network]
    outputs = rendering.outputs
    if ndc is not None:
      outputs = _from_ndc(outputs, rays, ndc)
    return RenderedImage(
      rgb=outputs.rgb,
      depth=outputs.depth,
      disparity=outputs.disparity,
      opacity=outputs.opacity,
      boundary_weight=rendering.boundary_weight,
      fine_t_std=rendering.fine_t_std,
    )

  @functools.partial(
    jax.pmap,
    axis_name=_AXIS,
    in_axes=(0, None, None, None, 0),
    out_axes=None if is_multihost else 0,
  )
  def render_chunks(
    variables: base.Variables,
    camera: cameras.Cameras,
    viewdir_camera: cameras.Cameras,
    crop: jax.Array | None,
    pixel: jax.Array,
  ) -> RenderedImage:
    """Renders a device's pixels `[K, C, 2]` as arrays `[K, C, ...]`."""
    image: RenderedImage = jax.lax.map(
      functools.partial(render_chunk, variables, camera, viewdir_camera, crop),
      pixel,
    )
    if is_multihost:
      image = jax.lax.all_gather(image, _AXIS)
    return image

  def render_strips(
    variables: base.Variables,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
    crop: arrays.Array | None = None,
  ) -> Iterator[RenderedImage]:
    if crop is not None and ndc is not None:
      raise ValueError('A crop is not possible in device coordinates.')
    camera = jax.tree.map(lambda x: x[index : index + 1], cameras_)
    height, width = (int(x) for x in camera.sizes[0])
    calls = (
      render_chunks(variables, camera, viewdir_camera or camera, crop, pixel)
      for pixel in _pixel_chunks(height, width, layout, is_multihost)
    )
    remaining = height * width
    # One call is queued behind the one that is read, no more: a user who
    # stops a run need not wait for the whole image.
    for call in _read_behind(calls, 0 if is_multihost else 1):
      strip = _flatten(call, remaining)
      remaining -= len(strip.rgb)
      yield strip

  return render_strips


def make_render_image(
  renderer: base.Renderer[Any], cast_fn: CastFn, **settings: Any
) -> RenderImage:
  """Builds `render_image(variables, cameras, index)` over all devices.

  Args:
    renderer: renders rays.
    cast_fn: casts rays of the world.
    **settings: see `make_render_strips`.

  Returns:
    A function like that of `make_render_strips`, which returns whole images.
  """
  return assemble_strips(make_render_strips(renderer, cast_fn, **settings))


def assemble_strips(render_strips: RenderStrips) -> RenderImage:
  """Returns a function that renders whole images from one of their strips."""

  def render_image(
    variables: base.Variables,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
  ) -> RenderedImage:
    height, width = (int(x) for x in cameras_.sizes[index])
    strips = list(render_strips(variables, cameras_, index, viewdir_camera))

    def join(*parts: np.ndarray) -> np.ndarray:
      whole = np.concatenate(parts)
      return whole.reshape(height, width, *whole.shape[1:])

    return jax.tree.map(join, *strips)

  return render_image


def average_rays(
  render_image: RenderImage,
  rays_per_side: Callable[[cameras.Cameras, int], int],
) -> RenderImage:
  """Returns a function that renders several rays through each pixel.

  Pixels of photographs are means over areas. Where they are wider than the
  details of a field, a ray through the center of each is not: the image has
  aliasing. The mean of a lattice of rays has none that they can tell apart.

  Args:
    render_image: renders one ray through the center of each pixel.
    rays_per_side: `n` of an image, given its cameras and index: `n * n` rays
      pass through each pixel, even in its area.

  Returns:
    A function like `render_image`; all of its arrays are means.
  """

  def render(
    variables: base.Variables,
    cameras_: cameras.Cameras,
    index: int,
    viewdir_camera: cameras.Cameras | None = None,
  ) -> RenderedImage:
    side = rays_per_side(cameras_, index)
    if side == 1:
      return render_image(variables, cameras_, index, viewdir_camera)
    camera = cameras.enlarge(cameras.take(cameras_, [index]), side)
    viewdirs = (
      None if viewdir_camera is None else cameras.enlarge(viewdir_camera, side)
    )
    image = render_image(variables, camera, 0, viewdirs)

    def average(x: np.ndarray) -> np.ndarray:
      height, width = (n // side for n in x.shape[:2])
      blocks = x.reshape(height, side, width, side, *x.shape[2:])
      means: np.ndarray = blocks.mean((1, 3))
      return means

    return jax.tree.map(average, image)

  return render


def _pixel_chunks(
  height: int, width: int, layout: _Layout, is_multihost: bool
) -> Iterator[np.ndarray]:
  """Yields the pixels of each call, `[D, K, C, 2]` of this process's devices.

  All calls have the same number of chunks. Past the end of the image pixels
  are repeated; `_flatten` cuts them off.
  """
  pixel = cameras.pixels(height, width)
  chunks = -(-len(pixel) // layout.chunk)
  num_calls = -(-chunks // (layout.chunks_per_call * layout.num_devices))
  per_device = -(-chunks // (num_calls * layout.num_devices))
  local = slice(None)
  if is_multihost:
    count = jax.local_device_count()
    first = count * jax.process_index()
    local = slice(first, first + count)
  size = layout.num_devices * per_device * layout.chunk
  for call in range(num_calls):
    index = np.arange(call * size, (call + 1) * size) % len(pixel)
    yield pixel[index].reshape(layout.num_devices, per_device, layout.chunk, 2)[
      local
    ]


def _read_behind(
  calls: Iterator[RenderedImage], num_queued: int
) -> Iterator[RenderedImage]:
  """Yields host arrays of calls; `num_queued` run while one is read."""
  queued: list[RenderedImage] = []
  for call in calls:
    queued.append(call)
    if len(queued) > num_queued:
      yield jax.tree.map(np.asarray, queued.pop(0))
  for call in queued:
    yield jax.tree.map(np.asarray, call)


def _flatten(call: RenderedImage, num_pixels: int) -> RenderedImage:
  """Turns arrays `[D, K, C, ...]` into `[P, ...]`, `num_pixels` at most."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:])[:num_pixels], call)


def _from_ndc(
  outputs: volume.RayOutputs, rays: cameras.Rays, ndc: cameras.Ndc
) -> volume.RayOutputs:
  """Converts depth and disparity to scene units, by the expected t'."""
  opacity = outputs.opacity
  mean = outputs.depth / jnp.where(opacity > 0, opacity, 1.0)
  # The near plane may lie behind a camera, but what it sees does not.
  depth = opacity * jnp.maximum(cameras.from_ndc(mean, rays, ndc), 0.0)
  return outputs._replace(
    depth=depth, disparity=volume.disparity(depth, opacity)
  )
