import pathlib

import chex
import numpy as np
from absl.testing import absltest

from experiments.trainer import camera_plot
from nerf_haiku.datasets import colmap
from tests.support import captures


def _distance(picture, color):
  """How far each pixel is from a color."""
  return np.abs(picture.astype(int) - color).max(-1)


class CameraPlotTest(chex.TestCase):
  def draw(self, contracted, **changes):
    folder = pathlib.Path(self.create_tempdir().full_path)
    captures.write(folder, **changes)
    scene = colmap.load(
      str(folder), '', down_factor=1, num_poses=50, contracted=contracted
    )
    return camera_plot.draw(scene)

  def test_cameras_are_where_they_are(self):
    picture = self.draw(True, points=[(0.0, 0.0, 0.0)] * 5)
    height, width, _ = picture.shape
    above = picture[96:-70, 70 : 70 + 640]
    self.assertEqual((height, width), (806, 1490))
    self.assertEqual(above.shape, (640, 640, 3))
    # The panel reaches to 1.35; cameras are 0.866 from the middle.
    rows, columns = np.nonzero(_distance(above, (31, 98, 178)) < 30)
    reach = np.hypot(rows - 320, columns - 320).max() / 320 * 1.35
    self.assertBetween(reach, 0.86, 0.90)
    side = picture[96:-70, 70 + 640 + 70 :][:, :640]
    rows, columns = np.nonzero(_distance(side, (31, 98, 178)) < 30)
    # They are 0.5 above the middle, and look down.
    self.assertBetween((320 - rows.min()) / 320 * 1.35, 0.5, 0.6)
    self.assertLess(rows.max(), 320)
    # The near region is drawn in both, 1 from the middle; the point in it.
    for panel in (above, side):
      rows, columns = np.nonzero(_distance(panel, (150, 60, 140)) < 15)
      radii = np.hypot(rows - 319.5, columns - 319.5) / 320 * 1.35
      near = np.abs(radii - 1) < 0.02  # All but edges of other colors.
      self.assertGreater(np.mean(near), 0.95)
      self.assertLess(panel[318:322, 318:322].min(), 200)

  def test_a_box_and_no_points(self):
    picture = self.draw(False)
    self.assertGreater(np.sum(_distance(picture, (150, 60, 140)) < 15), 500)


if __name__ == '__main__':
  absltest.main()
