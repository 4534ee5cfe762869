"""What a viewer shows of a view: pictures, their sizes, and normals."""

import math

import numpy as np

from nerf_haiku import (
  cameras,
  image_rendering,
  point_clouds,
  scene_bounds,
  scenes,
)
from nerf_haiku.io import media

MODES = ('color', 'depth', 'disparity', 'opacity', 'normals')
# Frames per second while a camera moves, were they only rendered: with what is
# done to show them, there are 8 or more.
FPS = 10.0
# Depth of pixels that are less opaque, scene units.
_FAR, _MIN_OPACITY = 1e6, 0.5
_MIN_SIDE = 32  # Pixels of the shorter side of a frame.


def frame_size(
  rays_per_second: float, width: int, height: int, *, fps: float = FPS
) -> tuple[int, int]:
  """Returns the size of frames that are as many a second as wanted.

  Args:
    rays_per_second: that are rendered.
    width: of the window, pixels; frames are not larger.
    height: of the window.
    fps: frames per second.

  Returns:
    Width and height, of the window's aspect up to rounding.
  """
  share = math.sqrt(rays_per_second / fps / (width * height))
  smallest = _MIN_SIDE / min(width, height)
  share = min(max(share, smallest), 1.0)
  return max(1, round(share * width)), max(1, round(share * height))


def make_camera(
  pose: np.ndarray, fov: float, width: int, height: int
) -> cameras.Cameras:
  """Returns one camera with a vertical field of view.

  Args:
    pose: `[3, 4]` camera-to-world.
    fov: vertical, radians.
    width: of the image, pixels.
    height: of the image.
  """
  focal = 0.5 * height / math.tan(0.5 * fov)
  return cameras.pinhole(
    pose[None], np.array([[height, width]]), np.array([focal])
  )


def picture(
  mode: str,
  image: image_rendering.RenderedImage,
  scene: scenes.Scene,
  camera: cameras.Cameras,
) -> np.ndarray:
  """Returns what is shown of an image.

  Args:
    mode: one of `MODES`.
    image: `[H, W, ...]`, see `RenderedImage`.
    scene: near and far of depths.
    camera: that took the image.

  Returns:
    `[H, W, 3]` uint8.
  """
  if mode == 'depth':
    return media.depth_image(
      image.depth,
      image.opacity,
      scene.near,
      scene.far,
      even_to=scene_bounds.even_depth(scene),
    )
  if mode == 'disparity':
    # White is the nearest that is seen, but for a few pixels.
    white = float(np.percentile(image.disparity, 99.5))
    return media.to_gray(np.asarray(image.disparity), white or 1.0)
  if mode == 'opacity':
    return media.to_gray(np.asarray(image.opacity), 1.0)
  if mode == 'normals':
    normals = normals_of_depth(page_depth(image), camera)
    shown = 0.5 + 0.5 * normals
    opacity = np.asarray(image.opacity)[..., None]
    return media.to_uint8(opacity * shown + 1.0 - opacity)
  return media.to_uint8(image.rgb)


def page_depth(image: image_rendering.RenderedImage) -> np.ndarray:
  """Returns `[H, W]` depths of what is seen, scene units, and 1e6 of air.

  What a page draws itself is hidden behind them.
  """
  is_air = np.asarray(image.opacity) < _MIN_OPACITY
  return np.where(is_air, _FAR, image.expected_depth())


def normals_of_depth(depth: np.ndarray, camera: cameras.Cameras) -> np.ndarray:
  """Returns unit normals `[H, W, 3]` of a depth image, towards the camera.

  Args:
    depth: `[H, W]` along the optical axis, at least 2 by 2 pixels.
    camera: one camera; the normals are in the world's axes.
  """
  height, width = depth.shape
  pixel = cameras.pixels(height, width) + 0.5
  plane = cameras.image_plane(camera, np.zeros(len(pixel), int), pixel)
  points = (depth.reshape(-1, 1) * plane).reshape(height, width, 3)
  normals = point_clouds.surface_normals(points)
  away = np.sum(normals * points, axis=-1, keepdims=True) > 0  # At edges.
  rotation = np.asarray(camera.camera_to_world[0, :, :3], np.float64)
  world: np.ndarray = np.where(away, -normals, normals) @ rotation.T
  return world


def enlarge(image: np.ndarray, width: int, height: int) -> np.ndarray:
  """Returns an image `[H, W, ...]` of another size, by the nearest pixels."""
  rows = np.arange(height) * image.shape[0] // height
  columns = np.arange(width) * image.shape[1] // width
  return image[rows[:, None], columns[None]]
