"""Renders what one client of a viewer looks at, in a thread of its own.

While its camera moves, frames are as large as keep up with it. When it rests,
the view is rendered again at full size, piece by piece; a move interrupts that
after the piece at work.
"""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from experiments.viewer import pictures
from nerf_haiku import cameras, image_rendering, models, scenes

# A camera rests when it has not moved for so long, seconds.
_REST = 0.25
# Seconds between the pictures of a view that becomes sharper.
_SHARPEN_EVERY = 0.3
# Weight of a new measurement of the speed.
_NEW_WEIGHT = 0.3
_FIRST_RATE = 50_000.0  # Rays per second, before it is measured.
# Shares of the time that rendering may take beside training.
MOVING_SHARE, RESTING_SHARE = 0.5, 0.1


@dataclasses.dataclass(frozen=True)
class Look:
  """What a client wants to see."""

  pose: np.ndarray  # [3, 4] camera-to-world, of the data.
  fov: float  # vertical, radians.
  width: int  # of the window, pixels.
  height: int
  mode: str  # see `pictures.MODES`.
  # Corners of a box, six numbers, see `models.Model.render_strips`.
  crop: tuple[float, ...] | None = None


class Screen(Protocol):
  """Where pictures go: a client of the viewer."""

  def show(self, picture: np.ndarray, depth: np.ndarray) -> None:
    """Shows a picture `[H, W, 3]` uint8, with its depths `[H, W]`."""


class Renderer:
  """Renders pieces of images for all clients, one after the other.

  Attributes:
    rate: rays per second, as they were last.
    model: returns the newest model.
    scene: what the colors of depths are chosen by.
  """

  def __init__(
    self,
    model: Callable[[], models.Model],
    scene: scenes.Scene,
    *,
    shares_time: bool,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
  ):
    """Makes a renderer.

    Args:
      model: returns the newest model.
      scene: whose near and far the colors of depths are between.
      shares_time: whether a training run has most of the time.
      clock: seconds.
      sleep: waits for seconds.
    """
    self.rate = _FIRST_RATE
    self.model, self.scene = model, scene
    self._shares_time = shares_time
    self._clock, self._sleep = clock, sleep
    self._lock = threading.Lock()

  def render(
    self,
    model: models.Model,
    camera: cameras.Cameras,
    *,
    moving: bool,
    crop: tuple[float, ...] | None = None,
    on_piece: Callable[[image_rendering.RenderedImage], bool],
  ) -> bool:
    """Renders an image piece by piece.

    Args:
      model: what is rendered.
      camera: one camera.
      moving: whether it moves: it then has a larger share of the time.
      crop: of the look.
      on_piece: called with the arrays `[P, ...]` of the next pixels; returns
        whether to go on.

    Returns:
      Whether all was rendered.
    """
    box = None if crop is None else np.reshape(crop, (2, 3)).astype(np.float32)
    pieces = model.render_strips(camera, box)
    num_rays, total = 0, 0.0
    while True:
      with self._lock:
        start = self._clock()
        piece = next(pieces, None)
        seconds = self._clock() - start
      if piece is None:
        # One piece is computed while another is read: only all of them tell.
        self._measure(num_rays, total)
        return True
      num_rays, total = num_rays + len(piece.rgb), total + seconds
      self._sleep(seconds * (1.0 / self.share(moving=moving) - 1.0))
      if not on_piece(piece):
        return False

  def share(self, *, moving: bool) -> float:
    """Returns the fraction of the time that rendering may take."""
    if not self._shares_time:
      return 1.0
    return MOVING_SHARE if moving else RESTING_SHARE

  def _measure(self, num_rays: int, seconds: float) -> None:
    if seconds > 0:
      rate = num_rays / seconds
      self.rate += _NEW_WEIGHT * (rate - self.rate)


class Session(threading.Thread):
  """Keeps the picture of one client up to date."""

  def __init__(self, renderer: Renderer, screen: Screen):
    """Makes the thread; `start` it, and `close` it in the end."""
    super().__init__(daemon=True)
    self._renderer, self._screen = renderer, screen
    self._changed = threading.Event()
    self._closed = False
    self._look: Look | None = None
    self._moved_at = -float('inf')
    self._last: image_rendering.RenderedImage | None = None  # Shown whole.

  def look(self, look: Look) -> None:
    """Tells what the client wants to see from now on."""
    before = self._look
    self._look = look
    # A window that grows, or another mode, does not move the camera.
    if before is None or not np.array_equal(before.pose, look.pose):
      self._moved_at = time.monotonic()
    self._changed.set()

  def refresh(self) -> None:
    """Tells that there is a newer model."""
    self._changed.set()

  def close(self) -> None:
    """Ends the thread, after the piece at work."""
    self._closed = True
    self._changed.set()

  def run(self) -> None:
    """Renders whenever something changed, until `close`."""
    while not self._closed:
      self._changed.wait()
      self._changed.clear()
      look = self._look
      if look is None or self._closed:
        continue
      if not self._show_small(look):
        self._sharpen(look)

  def _is_moving(self) -> bool:
    return time.monotonic() < self._moved_at + _REST

  def _show_small(self, look: Look) -> bool:
    """Shows a small frame, and returns whether it has the full size."""
    moving = self._is_moving()
    rate = self._renderer.rate * self._renderer.share(moving=moving)
    width, height = pictures.frame_size(rate, look.width, look.height)
    parts: list[image_rendering.RenderedImage] = []

    def keep(piece: image_rendering.RenderedImage) -> bool:
      parts.append(piece)
      return not self._closed

    model = self._renderer.model()
    camera = pictures.make_camera(look.pose, look.fov, width, height)
    if self._renderer.render(
      model, camera, moving=moving, crop=look.crop, on_piece=keep
    ):
      self._show(look, camera, _join(parts, height, width))
    return (width, height) == (look.width, look.height)

  def _sharpen(self, look: Look) -> None:
    """Renders at full size, until something changes."""
    # Further moves come at once while a camera is dragged.
    if self._changed.wait(max(0.0, self._moved_at + _REST - time.monotonic())):
      return
    model = self._renderer.model()
    camera = pictures.make_camera(look.pose, look.fov, look.width, look.height)
    parts: list[image_rendering.RenderedImage] = []
    shown_at = time.monotonic()

    def keep(piece: image_rendering.RenderedImage) -> bool:
      nonlocal shown_at
      parts.append(piece)
      if self._changed.is_set():
        return False
      if (
        time.monotonic() > shown_at + _SHARPEN_EVERY and self._last is not None
      ):
        whole = _over(self._last, parts, look.height, look.width)
        self._show(look, camera, whole, remember=False)
        shown_at = time.monotonic()
      return True

    if self._renderer.render(
      model, camera, moving=False, crop=look.crop, on_piece=keep
    ):
      self._show(look, camera, _join(parts, look.height, look.width))

  def _show(
    self,
    look: Look,
    camera: cameras.Cameras,
    image: image_rendering.RenderedImage,
    *,
    remember: bool = True,
  ) -> None:
    if remember:
      self._last = image
    scene = self._renderer.scene
    picture = pictures.picture(look.mode, image, scene, camera)
    self._screen.show(picture, pictures.page_depth(image))


def _join(
  parts: list[image_rendering.RenderedImage], height: int, width: int
) -> image_rendering.RenderedImage:
  """Joins all pieces of an image to arrays `[H, W, ...]`."""

  def join(*arrays: np.ndarray) -> np.ndarray:
    whole = np.concatenate(arrays)
    return whole.reshape(height, width, *whole.shape[1:])

  joined: image_rendering.RenderedImage = jax.tree.map(join, *parts)
  return joined


def _over(
  small: image_rendering.RenderedImage,
  parts: list[image_rendering.RenderedImage],
  height: int,
  width: int,
) -> image_rendering.RenderedImage:
  """Returns an image whose first pixels are sharp, and the others enlarged."""

  def put(before: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
    whole = pictures.enlarge(before, width, height).copy()
    first = np.concatenate(arrays)
    flat = whole.reshape(-1, *whole.shape[2:])
    flat[: len(first)] = first
    return whole

  result: image_rendering.RenderedImage = jax.tree.map(put, small, *parts)
  return result
