"""Fields of `transforms.json` that other readers do not have, or refuse."""

import json
import math

import numpy as np
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from tests.nerf_haiku.datasets import captures_test
from tests.support import captures


class TransformsTest(captures_test.CaptureTest):
  def setUp(self):
    super().setUp()
    captures.write_photos(self.folder / 'images', captures.names(4))
    self.content = captures.transforms(captures.names(4), captures.poses(4))
    self.frames = self.content['frames']

  def load(self, **changes):
    (self.folder / 'transforms.json').write_text(json.dumps(self.content))
    return super().load('transforms', **changes)

  def refused(self, message, **changes):
    with self.assertRaisesRegex(errors.DataError, message):
      self.load(**changes)

  def test_intrinsics_of_each_frame(self):
    for name in ('w', 'h', 'fl_x', 'fl_y', 'cx', 'cy'):
      value = self.content.pop(name)
      for i, frame in enumerate(self.frames):
        frame[name] = value * (2 if name in ('w', 'h') or i else 1)
    self.content['camera_model'] = 'OPENCV'
    scene = self.load()  # Of names sorted as strings the first is for testing.
    first = np.array(captures.FOCAL + captures.CENTER)
    np.testing.assert_allclose(scene.test.cameras.intrinsics[0], first / 2)
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics, np.tile(first, (3, 1))
    )

  def test_an_angle_alone_and_no_suffixes(self):
    self.content = {'camera_angle_x': 2 * math.atan(0.5), 'frames': self.frames}
    for frame in self.frames:
      frame['file_path'] = frame['file_path'].removesuffix('.png')
    scene = self.load()
    np.testing.assert_allclose(scene.test.cameras.intrinsics[0], (12, 12, 6, 4))
    self.assertEqual(scene.test.names, ('images/left cam/1.png',))

  def test_a_fisheye(self):
    self.content |= {'k1': 0.1, 'is_fisheye': True}
    scene = self.load()
    self.assertTrue(np.all(scene.train.cameras.fisheye))
    np.testing.assert_allclose(scene.train.cameras.distortion[0, :2], (0.1, 0))
    self.content['camera_model'] = 'OPENCV'
    self.refused("camera_model='OPENCV' and is_fisheye=True contradict")

  def test_lists_of_splits(self):
    names = [frame['file_path'] for frame in self.frames]
    self.content |= {
      'train_filenames': [names[3], names[0]],
      'val_filenames': [names[2]],
      'test_filenames': [names[1]],
    }
    scene = self.load()
    splits = [x.names for x in (scene.train, scene.val, scene.test)]
    expected = [[4, 1], [3], [2]]
    self.assertEqual(
      splits, [tuple(f'images/left cam/{i}.png' for i in x) for x in expected]
    )
    del self.content['val_filenames']
    scene = self.load()
    self.assertIs(scene.val, scene.test)
    del self.content['train_filenames']
    self.refused('so it must have train_filenames')

  @parameterized.parameters(
    # The cube from 0 to 1 in instant-ngp's units is 1 / 0.33 wide.
    ({'aabb_scale': 1}, (0, 0, 0), 0.5 / 0.33),
    ({'aabb_scale': 4}, (0, 0, 0), 2 / 0.33),
    # Its x is y of the file: 0.5 = 2 y + 0.1, and so on.
    (
      {'aabb_scale': 2, 'scale': 2.0, 'offset': [0.1, 0.2, 0.3]},
      (0.1, 0.2, 0.15),
      0.5,
    ),
  )
  def test_the_box_of_instant_ngp(self, fields, center, half):
    self.content |= fields
    scene = self.load(contracted=False)
    corners = np.array(center) + half * np.array([[-1], [1]])
    np.testing.assert_allclose(scene.box, corners / captures.RADIUS, atol=1e-6)
    self.assertIsNone(self.load().box)

  @parameterized.parameters(
    ({'aabb_scale': 'x'}, "aabb_scale must be a number over 0, got 'x'"),
    ({'aabb_scale': 1, 'scale': -1}, 'scale must be a number over 0, got -1'),
    ({'aabb_scale': 1, 'offset': [0, 1]}, 'offset must be 3 numbers'),
  )
  def test_boxes_that_are_refused(self, fields, message):
    self.content |= fields
    self.refused(message)

  def test_without_a_box_it_is_the_ball_in_view(self):
    scene = self.load(contracted=False)
    self.assertTrue(np.all(scene.box[0] < 0) and np.all(scene.box[1] > 0))
    self.assertGreater(scene.far, captures.RADIUS)
    for frame in self.frames:  # All look one way.
      frame['transform_matrix'][0][:3] = [1, 0, 0]
      frame['transform_matrix'][1][:3] = [0, 1, 0]
      frame['transform_matrix'][2][:3] = [0, 0, 1]
    with self.assertRaisesRegex(errors.UserError, 'config.contraction=True'):
      self.load(contracted=False)

  def test_unused_fields_are_named(self):
    self.content |= {'ply_file_path': 'a.ply', 'aabb_scale': 4}
    (notice,) = [x for x in self.load().notices if 'not used' in x]
    self.assertIn("'ply_file_path'", notice)

  @parameterized.parameters(
    ('../../secret.png', 'must be inside the folder'),
    ('images/left cam/2.png', "'images/left cam/2.png' has two cameras"),
  )
  def test_names_that_are_refused(self, name, message):
    self.frames[0]['file_path'] = name
    self.refused(message)

  def test_poses_that_are_no_numbers(self):
    self.frames[2]['transform_matrix'][1][3] = math.nan
    self.refused(r'frames\[2\].transform_matrix .* must be 4 rows')

  def test_no_frames(self):
    self.frames.clear()
    self.refused('there are no frames')


if __name__ == '__main__':
  absltest.main()
