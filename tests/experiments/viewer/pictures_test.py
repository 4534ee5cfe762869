"""Sizes, cameras and pictures of a viewer."""

import chex
import numpy as np
from absl.testing import parameterized

from experiments.viewer import pictures
from nerf_haiku import camera_paths, cameras, image_rendering
from tests.support import trained


def _image(depth, opacity=None, rgb=None):
  opacity = np.ones_like(depth) if opacity is None else opacity
  rgb = np.zeros((*depth.shape, 3), np.float32) if rgb is None else rgb
  depth = (depth * opacity).astype(np.float32)
  disparity = np.where(depth > 0, opacity**2 / np.maximum(depth, 1e-9), 0)
  return image_rendering.RenderedImage(
    rgb, depth, disparity, opacity, np.zeros((*depth.shape, 2))
  )


class FrameSizeTest(parameterized.TestCase):
  @parameterized.parameters(
    (80_000, 1000, 500, (141, 71)),  # 10,000 rays a frame.
    (1e9, 1000, 500, (1000, 500)),  # Never larger than the window.
    (1.0, 1000, 500, (64, 32)),  # Never too small to see something.
  )
  def test_sizes(self, rate, width, height, expected):
    size = pictures.frame_size(rate, width, height, fps=8)
    self.assertEqual(size, expected)

  def test_rays_of_a_frame(self):
    width, height = pictures.frame_size(230_000, 1600, 900, fps=8)
    self.assertAlmostEqual(width * height * 8 / 230_000, 1, delta=0.02)
    self.assertAlmostEqual(width / height, 16 / 9, delta=0.02)


class CameraTest(chex.TestCase):
  def test_the_field_of_view_is_vertical(self):
    pose = camera_paths.circle(1)[0]
    camera = pictures.make_camera(pose, np.pi / 2, 300, 200)
    corners = cameras.image_corners(camera)[0]
    np.testing.assert_allclose(np.abs(corners[:, 1]), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.abs(corners[:, 0]), 1.5, atol=1e-6)


class PictureTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.scene = trained.scene(near=2.0, far=6.0)
    self.camera = pictures.make_camera(camera_paths.circle(8)[2], 0.6, 20, 10)

  def _picture(self, mode, **image):
    depth = image.pop('depth', np.full((10, 20), 3.0))
    return pictures.picture(
      mode, _image(depth, **image), self.scene, self.camera
    )

  def test_every_mode_is_a_picture(self):
    for mode in pictures.MODES:
      picture = self._picture(mode)
      chex.assert_shape(picture, (10, 20, 3))
      self.assertEqual(picture.dtype, np.uint8)

  def test_modes_show_what_they_name(self):
    half = np.full((10, 20), 0.5)
    rgb = np.full((10, 20, 3), 0.2, np.float32)
    self.assertEqual(self._picture('opacity', opacity=half)[0, 0, 0], 128)
    self.assertEqual(self._picture('color', rgb=rgb)[0, 0, 0], 51)
    far = self._picture('depth', depth=np.full((10, 20), 6.0))
    near = self._picture('depth', depth=np.full((10, 20), 2.0))
    self.assertGreater(near.sum(-1)[0, 0], far.sum(-1)[0, 0])
    depth = np.linspace(2, 4, 200).reshape(10, 20)
    disparity = self._picture('disparity', depth=depth)[..., 0]
    self.assertEqual(disparity[0, 0], 255)
    self.assertAlmostEqual(int(disparity[-1, -1]), 128, delta=2)

  def test_normals_of_a_plane(self):
    """A plane through the origin, at right angles to a vector."""
    normal = np.array([0.3, -0.5, 0.81])
    normal /= np.linalg.norm(normal)
    pixel = cameras.pixels(10, 20) + 0.5
    plane = cameras.image_plane(self.camera, np.zeros(200, int), pixel)
    pose = np.asarray(self.camera.camera_to_world[0], float)
    directions = plane @ pose[:, :3].T
    depth = -(pose[:, 3] @ normal) / (directions @ normal)
    found = pictures.normals_of_depth(depth.reshape(10, 20), self.camera)
    sign = np.sign(pose[:, 3] @ normal)  # Towards the camera.
    np.testing.assert_allclose(
      found[1:-1, 1:-1], np.broadcast_to(sign * normal, (8, 18, 3)), atol=0.02
    )

  def test_air_hides_nothing(self):
    opacity = np.ones((10, 20))
    opacity[0, 0] = 0.2
    depth = pictures.page_depth(_image(np.full((10, 20), 3.0), opacity))
    self.assertGreater(depth[0, 0], 1e5)
    np.testing.assert_allclose(depth[1:], 3.0, rtol=1e-5)

  def test_pixels_are_enlarged(self):
    image = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(
      pictures.enlarge(image, 6, 4), image.repeat(2, 0).repeat(2, 1)
    )
