"""What the readers of captures have in common, through both of them."""

import pathlib

import chex
import numpy as np
import pycolmap
from absl.testing import absltest, parameterized
from PIL import Image

from nerf_haiku import cameras, contraction, errors, similarity
from nerf_haiku.datasets import colmap, image_files, transforms
from tests.support import captures, shared

_READERS = {'transforms': transforms, 'colmap': colmap}


def field_cameras(scene):
  """All cameras of a scene, in the order of names, in the field's units."""
  parts = [scene.train, scene.test]
  cams = cameras.concatenate([x.cameras for x in parts])
  order = np.argsort([name for x in parts for name in x.names])
  return similarity.move_rigidly(scene.similarity, cameras.take(cams, order))


class CaptureTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def load(self, reader, shape='', **changes):
    settings = {'down_factor': 1, 'num_poses': 4, 'contracted': True} | changes
    return _READERS[reader].load(str(self.folder), shape, **settings)

  def refused(self, reader, message, error=errors.DataError, **changes):
    with self.assertRaisesRegex(error, message):
      self.load(reader, **changes)


class SceneTest(CaptureTest):
  @parameterized.parameters(*_READERS)
  def test_photographs_and_cameras(self, reader):
    captures.write(self.folder)
    scene = self.load(reader)
    order = sorted(captures.names(10))
    self.assertEqual(order[:3], [f'left cam/{i}.png' for i in (1, 10, 2)])
    expected = [f'images/{name}' for name in order]
    self.assertEqual(scene.test.names, (expected[0], expected[8]))
    self.assertEqual(scene.train.names, (*expected[1:8], expected[9]))
    numbers = [captures.names(10).index(x) for x in order]
    for split in (scene.train, scene.test):
      for i, name in enumerate(split.names):
        number = numbers[expected.index(name)]
        np.testing.assert_array_equal(split.images[i], captures.photo(number))
        np.testing.assert_allclose(
          split.cameras.camera_to_world[i],
          captures.poses(10)[number, :3],
          atol=1e-12,
        )
      np.testing.assert_allclose(
        split.cameras.intrinsics[0], captures.FOCAL + captures.CENTER
      )
      self.assertIsNone(split.cameras.distortion)
    self.assertIs(scene.val, scene.test)
    self.assertIsNone(scene.train.masks)
    self.assertIn(f"(dataset_type='{reader}')", scene.notices[0])

  @parameterized.parameters(*_READERS)
  def test_the_field_has_z_up_and_the_cameras_within_1(self, reader):
    captures.write(self.folder, shift=np.array([7.0, 8, 9]), scale=2.5)
    scene = self.load(reader)
    pose = field_cameras(scene).camera_to_world
    np.testing.assert_allclose(np.linalg.norm(pose[:, :, 3], axis=-1), 1)
    np.testing.assert_allclose(pose[:, 2, 3], 0.5, atol=1e-6)  # 30 degrees.
    np.testing.assert_allclose(pose[:, 2, 1], np.sqrt(0.75), atol=1e-6)
    np.testing.assert_allclose(pose[:, :, 2], pose[:, :, 3], atol=1e-6)
    unit = 2.5 * captures.RADIUS
    np.testing.assert_allclose(scene.far, contraction.FAR * unit, rtol=1e-6)
    self.assertIsNone(scene.box)
    # The video's path is a circle through the cameras, in the file's units.
    path = similarity.move_rigidly(scene.similarity, scene.path)
    np.testing.assert_allclose(path.camera_to_world[:, 2, 3], 0.5, atol=1e-6)
    centers = scene.path.camera_to_world[:, :, 3] - (7, 8, 9)
    np.testing.assert_allclose(
      np.linalg.norm(centers, axis=-1), unit, rtol=1e-6
    )

  @parameterized.parameters(*_READERS)
  def test_far_from_the_origin_nothing_is_lost(self, reader):
    captures.write(self.folder)
    near = field_cameras(self.load(reader)).camera_to_world
    shift = np.array([5e6, 4e5, 120.0])  # float32 has steps of 0.5 there.
    captures.write(self.folder, shift=shift)
    scene = self.load(reader)
    moved = similarity.move_cameras(scene.similarity, scene.train.cameras)
    self.assertEqual(moved.camera_to_world.dtype, np.float32)
    np.testing.assert_allclose(
      field_cameras(scene).camera_to_world, near, atol=1e-7
    )
    path = scene.path.camera_to_world[:, :, 3] - shift
    np.testing.assert_allclose(
      np.linalg.norm(path, axis=-1), captures.RADIUS, rtol=1e-5
    )

  def test_points_give_near_and_the_box(self):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 3))  # In a ball: turning changes nothing.
    points *= rng.uniform(0, 1, (4000, 1)) ** (1 / 3) / np.linalg.norm(
      points, axis=-1, keepdims=True
    )
    captures.write(self.folder, points=points)
    scene = self.load('colmap')
    np.testing.assert_array_equal(scene.points, points)
    # The nearest points that are seen are about 4 - 1 away.
    self.assertBetween(scene.near, 0.5 * 2.5, 3.1)
    bounded = self.load('colmap', contracted=False)
    size = (bounded.box[1] - bounded.box[0]) * captures.RADIUS
    # 98 % of a ball lie within 0.885 of its middle, along an axis.
    np.testing.assert_allclose(size, 2 * 0.885 * 1.1, rtol=0.02)
    # The farthest corner is farther than the center by half a diagonal.
    self.assertBetween(bounded.far, 4 + 1, 4 + 3**0.5 * 1.3)

  def test_a_box_is_of_the_files_coordinates_and_axes(self):
    captures.write(self.folder, shift=np.array([10.0, 0, 0]))
    box = [[9, -1, -2], [11, 1, 2]]
    scene = self.load('transforms', contracted=False, box=box)
    np.testing.assert_array_equal(scene.similarity.rotation, np.eye(3))
    np.testing.assert_allclose(
      scene.box, (np.array(box) - (10, 0, 0)) / captures.RADIUS, atol=1e-6
    )

  def test_near_and_far_of_the_user(self):
    captures.write(self.folder)
    scene = self.load('transforms', near=0.25, far=9.0)
    self.assertEqual((scene.near, scene.far), (0.25, 9.0))
    self.refused(
      'transforms', 'near=.* must be less than far=0.01', ValueError, far=0.01
    )

  @parameterized.parameters(*_READERS)
  def test_without_a_split(self, reader):
    captures.write(self.folder)
    scene = self.load(reader, holdout=0)
    self.assertLen(scene.train.images, 9)
    self.assertLen(scene.test.images, 1)
    self.assertEqual(scene.notices[-1][-12:], '(holdout=0).')

  @parameterized.parameters(*_READERS)
  def test_two_photographs_and_one(self, reader):
    captures.write(self.folder, 2)
    scene = self.load(reader)
    self.assertEqual([len(scene.train.images), len(scene.test.images)], [1, 1])
    captures.write(self.folder, 1)
    self.refused(reader, 'cannot be divided: add views', errors.UserError)
    self.refused(reader, 'add photographs', errors.UserError, holdout=0)

  @parameterized.parameters(*_READERS)
  def test_missing_photographs_are_left_out_before_the_split(self, reader):
    captures.write(self.folder)
    (self.folder / 'images' / 'left cam' / '1.png').unlink()
    scene = self.load(reader)
    self.assertEqual(
      scene.test.names, ('images/left cam/10.png', 'images/left cam/9.png')
    )
    (notice,) = [x for x in scene.notices if 'missing' in x]
    self.assertRegex(notice, "^1 of 10 photographs .*'images/left cam/1.png'")

  @parameterized.parameters(*_READERS)
  def test_no_photograph_at_all(self, reader):
    captures.write(self.folder)
    (self.folder / 'images').rename(self.folder / 'images_2')
    self.refused(reader, 'none of its 10 .* set down_factor=2')
    captures.write_photos(self.folder / 'images_2', captures.names(10), (4, 6))
    scene = self.load(reader, down_factor=2)
    self.assertEqual(scene.train.images[0].shape, (4, 6, 3))


class PhotosTest(CaptureTest):
  @parameterized.parameters(*_READERS)
  def test_intrinsics_are_scaled_to_the_photographs(self, reader):
    captures.write(self.folder)
    captures.write_photos(self.folder / 'images', captures.names(10), (16, 24))
    scene = self.load(reader)
    expected = 2 * np.array(captures.FOCAL + captures.CENTER)
    np.testing.assert_allclose(scene.train.cameras.intrinsics[3], expected)
    np.testing.assert_array_equal(scene.train.cameras.sizes[3], (16, 24))

  @parameterized.product(
    reader=list(_READERS),
    case=(
      ((12, 8), 'is 8x12 pixels, but its camera .* 12x8: it was rotated after'),
      ((8, 16), 'is 16x8 pixels, .* 12x8: it was cropped'),
    ),
  )
  def test_photographs_of_another_shape(self, reader, case):
    captures.write(self.folder)
    size, message = case
    captures.write_photos(self.folder / 'images', captures.names(10), size)
    self.refused(reader, message)

  def test_the_tolerance_is_a_hundredth(self):
    captures.write(self.folder, 2)
    content = {'w': 400, 'h': 300}
    captures.write_transforms(
      self.folder, captures.names(2), captures.poses(2), **content
    )
    for width, good in ((404, True), (420, False)):
      captures.write_photos(
        self.folder / 'images', captures.names(2), (300, width)
      )
      if good:
        self.load('transforms')
      else:
        self.refused('transforms', 'cropped')

  @parameterized.parameters(*_READERS)
  def test_copies_that_are_smaller(self, reader):
    captures.write(self.folder)
    scene = self.load(reader, down_factor=2)
    self.assertEqual(scene.train.images.pixels.dtype, np.uint16)
    small = self.folder / 'images_2'
    captures.write_photos(small, captures.names(10), (4, 6))
    for name in captures.names(10)[4:]:  # Copies may be of another format.
      (small / name).rename((small / name).with_suffix('.webp'))
    copied = self.load(reader, down_factor=2)
    self.assertEqual(copied.train.images.pixels.dtype, np.uint8)
    self.assertEqual(copied.train.names, scene.train.names)
    np.testing.assert_array_equal(
      copied.train.cameras.intrinsics, scene.train.cameras.intrinsics
    )
    np.testing.assert_array_equal(
      copied.test.images[0], captures.photo(0, (4, 6))
    )
    self.assertIn('Images are from images_2.', copied.notices)
    (small / 'left cam' / '3.png').unlink()
    lacking = self.load(reader, down_factor=2)
    self.assertEqual(lacking.train.digest, scene.train.digest)
    (notice,) = [x for x in lacking.notices if 'not used' in x]
    self.assertRegex(notice, "images_2 .* 1 of .*'images/left cam/3.png'")
    captures.write_photos(small, captures.names(10), (6, 9))
    message = 'images_2.* is 9x6 pixels, but .* not 2 times'
    self.refused(reader, message, down_factor=2)

  def test_large_photographs_are_reduced_to_1600(self):
    captures.write(self.folder, 3)
    names = captures.names(3)
    captures.write_photos(self.folder / 'images', names[:1], (1080, 1620))
    scene = self.load('transforms', down_factor=0, holdout=2)
    self.assertEqual(scene.test.images[0].shape, (1067, 1600, 3))
    self.assertEqual(scene.test.images[0].dtype, np.uint8)
    expected = np.array(captures.FOCAL + captures.CENTER) * np.tile(
      [1600 / 12, 1067 / 8], 2
    )
    np.testing.assert_allclose(
      scene.test.cameras.intrinsics[0], expected, rtol=1e-6
    )
    np.testing.assert_array_equal(
      scene.train.images[0], captures.photo(1)
    )  # Small ones stay as they are.
    (notice,) = [x for x in scene.notices if '1600' in x]
    self.assertRegex(notice, '^1 of 3 images is larger than 1600 pixels')
    self.assertEqual(image_files.MAX_SIDE, 1600)

  def test_a_link_out_of_the_capture(self):
    captures.write(self.folder)
    path = self.folder / 'images' / 'left cam' / '2.png'
    other = pathlib.Path(self.create_tempdir().full_path) / '2.png'
    path.rename(other)
    path.symlink_to(other)
    for reader in _READERS:
      self.refused(reader, r'left cam/2.png: is a link out of the folder')

  def test_a_lens_that_folds(self):
    captures.write(self.folder)
    captures.write_transforms(
      self.folder, captures.names(10), captures.poses(10), k1=-3.0
    )
    self.refused(
      'transforms', r'distortion of images/left cam/\d+.png cannot be'
    )


class MasksTest(CaptureTest):
  def write_masks(self, number_to_mask, form='masks/{}.png'):
    for number, mask in number_to_mask.items():
      name = captures.names(10)[number]
      path = self.folder / form.format(name, stem=name.removesuffix('.png'))
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(mask).save(path)

  @parameterized.parameters('masks/{}.png', 'masks/{stem}.png')
  def test_masks_beside_a_model(self, form):
    captures.write(self.folder)
    mask = np.full((8, 12), 255, np.uint8)
    mask[:, :5] = 0
    self.write_masks({2: mask}, form)
    scene = self.load('colmap')
    index = scene.train.names.index('images/left cam/3.png')
    np.testing.assert_array_equal(scene.train.masks[index][..., 0], mask > 0)
    others = [i for i in range(8) if i != index]
    self.assertTrue(all(np.all(scene.train.masks[i] == 1) for i in others))
    self.assertIsNone(scene.test.masks)
    (notice,) = [x for x in scene.notices if 'masks' in x]
    self.assertRegex(notice, '^1 photographs have masks: 5.2% ')  # 5/12 of 1/8.

  def test_masks_of_frames_are_reduced_and_hide_what_they_touch(self):
    captures.write(self.folder)
    frames = captures.transforms(captures.names(10), captures.poses(10))[
      'frames'
    ]
    frames[2]['mask_path'] = 'm.png'
    captures.write_transforms(
      self.folder, captures.names(10), captures.poses(10), frames=frames
    )
    self.refused('transforms', "mask_path='m.png' is no file")
    mask = np.full((8, 12), 1, np.uint8)
    mask[0, 0] = 0
    self.write_masks({2: mask}, 'm.png')
    scene = self.load('transforms', down_factor=2)
    expected = np.ones((4, 6, 1))
    expected[0, 0] = 0
    index = scene.train.names.index('images/left cam/3.png')
    np.testing.assert_array_equal(scene.train.masks[index], expected)
    unmasked = self.load('colmap', down_factor=2)
    self.assertNotEqual(scene.train.digest, unmasked.train.digest)

  @parameterized.parameters(
    (np.zeros((8, 12), np.uint8), 'is black, so that nothing of'),
    (np.ones((12, 8), np.uint8), 'is 8x12 pixels, but its photograph is 12x8'),
    (np.ones((4, 6), np.uint8), 'is 6x4 pixels, but its photograph is 12x8'),
  )
  def test_masks_that_cannot_be_used(self, mask, message):
    captures.write(self.folder)
    self.write_masks({4: mask})
    self.refused('colmap', f'masks/left cam/5.png.png: {message}')


class FoxTest(chex.TestCase):
  def load(self, kind):
    folder = shared.folder('data') / 'captures' / 'fox'
    return _READERS[kind].load(
      str(folder), '', down_factor=1, num_poses=2, contracted=True
    )

  def test_both_readers_agree(self):
    first, second = self.load('transforms'), self.load('colmap')
    self.assertEqual(first.test.names, second.test.names)
    self.assertEqual(first.train.names, second.train.names)
    self.assertEqual([len(first.train.images), len(first.test.images)], [43, 7])
    self.assertIn('17 of 67 photographs', ' '.join(first.notices))
    np.testing.assert_array_equal(
      first.train.images.pixels, second.train.images.pixels
    )
    # A model of the same photographs: one scene but for a turn about z.
    for name in ('train', 'test'):
      pairs = [
        similarity.move_rigidly(x.similarity, getattr(x, name).cameras)
        for x in (first, second)
      ]
      distances = [
        np.linalg.norm(x.camera_to_world[:, :, 3], axis=-1) for x in pairs
      ]
      np.testing.assert_allclose(*distances, rtol=0.2)

  def test_points_project_to_where_they_are_seen(self):
    scene = self.load('colmap')
    cams = cameras.concatenate([scene.train.cameras, scene.test.cameras])
    names = [*scene.train.names, *scene.test.names]
    folder = shared.folder('data') / 'captures' / 'fox'
    model = pycolmap.Reconstruction(folder / 'sparse' / '0')
    camera, points, seen = [], [], []
    for image in model.images.values():
      for point in image.get_observation_points2D():
        camera.append(names.index(f'images/{image.name}'))
        points.append(model.points3D[point.point3D_id].xyz)
        seen.append(point.xy[::-1])
    moved = similarity.move_rigidly(scene.similarity, cams)
    position, depth = cameras.project(
      moved,
      np.array(camera),
      np.float32(similarity.move_points(scene.similarity, np.stack(points))),
    )
    distances = np.linalg.norm(position - np.stack(seen), axis=-1)
    self.assertLess(np.median(distances), 0.6)
    scene_depth = np.asarray(depth) / scene.similarity.scale
    self.assertLess(np.mean(scene_depth < scene.near), 1e-2)


if __name__ == '__main__':
  absltest.main()
