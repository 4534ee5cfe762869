import pathlib
import tempfile

import chex
import numpy as np
from absl.testing import parameterized
from PIL import Image
from scipy.spatial import transform

from nerf_haiku.datasets import llff, writers
from nerf_haiku.datasets.procedural import photographs
from tests.support import references, shared

_SETTINGS = {'down_factor': 1, 'hold': 0, 'spherify': False, 'num_poses': 6}
BOUNDS = (4.0, 20.0)  # So that a scene unit is 3 of the file's.


def rows(num, *, height=48, width=32, focal=40.0, bounds=BOUNDS):
  """`[num, 17]`: cameras that face one way but for a few degrees.

  Each has its place and its turn; the world is turned and moved.
  """
  i = np.arange(num)
  turns = transform.Rotation.from_euler(
    'xyz', np.stack([0.04 * np.cos(i), 0.06 * np.sin(2 * i), 0.02 * i], -1)
  )
  world = transform.Rotation.from_rotvec([1.0, -0.5, 2.0]).as_matrix()
  centers = np.stack(
    [5 + np.cos(2 * i), 6 + np.sin(3 * i), 7 + 0.1 * i], axis=-1
  )
  right, up, backward = np.moveaxis(world @ turns.as_matrix(), -1, 0)
  size = np.broadcast_to([height, width, focal], (num, 3))
  matrices = np.stack([-up, right, backward, centers @ world.T, size], -1)
  return np.concatenate(
    [matrices.reshape(num, 15), np.broadcast_to(bounds, (num, 2))], axis=-1
  )


def square(camera_to_world):
  last = np.broadcast_to([[0.0, 0.0, 0.0, 1.0]], (len(camera_to_world), 1, 4))
  return np.concatenate([camera_to_world, last], 1, dtype=np.float64)


def relative(camera_to_world):
  """`[N, 4, 4]` poses in the frame of the first one."""
  poses = square(camera_to_world)
  return np.linalg.inv(poses[0]) @ poses


def of_rows(table):
  """`[N, 3, 4]` camera-to-world in OpenGL's axes, in the file's units."""
  down, right, backward, center, _ = np.moveaxis(
    table[:, :15].reshape(-1, 3, 5), -1, 0
  )
  return np.stack([right, -down, backward, center], axis=-1)


def image(height=48, width=32, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, channels), np.uint8)


class SceneTest(chex.TestCase):
  """A test with a folder for a scene `toy`, which it writes."""

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.root = pathlib.Path(folder.name)
    self.scene = self.root / 'toy'

  def write(self, images=None, table=None, *, folder='images', names=None):
    """Writes images and a table of poses, by default 5 of either."""
    images = [image(seed=i) for i in range(5)] if images is None else images
    (self.scene / folder).mkdir(parents=True, exist_ok=True)
    names = names or [f'image{i:03}.png' for i in range(len(images))]
    for name, pixels in zip(names, images, strict=True):
      Image.fromarray(pixels).save(self.scene / folder / name)
    table = rows(len(images)) if table is None else table
    np.save(self.scene / 'poses_bounds.npy', table)

  def load(self, shape='toy', data_dir=None, **changes):
    settings = {**_SETTINGS, **changes}
    return llff.load(str(data_dir or self.root), shape, **settings)


class RealTest(chex.TestCase):
  def load(self, **changes):
    settings = {**_SETTINGS, 'down_factor': 8, 'num_poses': 120, **changes}
    return llff.load(str(shared.folder('data')), 'fern', **settings)

  @parameterized.product(kind=('ndc', 'spherify'), hold=(8, 0))
  def test_matches_the_reference(self, kind, hold):
    reference = {
      name.removeprefix(f'{kind}_'): value
      for name, value in references.load('llff').items()
      if name.startswith(kind)
    }
    scene = self.load(hold=hold, spherify=kind == 'spherify')
    held_out = [0, 8, 16] if hold else [int(reference['holdout'])]
    kept = np.delete(np.arange(20), held_out)
    height, width, focal = reference['poses'][0, :, 4]
    self.assertEqual((height, width), (378, 504))
    for split, index in (
      (scene.train, kept),
      (scene.val, held_out),
      (scene.test, held_out),
    ):
      views = split.cameras
      np.testing.assert_allclose(
        views.camera_to_world, reference['poses'][index, :, :4], atol=1e-4
      )
      expected = [focal, focal, width / 2, height / 2]
      np.testing.assert_allclose(
        views.intrinsics, len(index) * [expected], rtol=1e-5
      )
      np.testing.assert_array_equal(views.sizes, len(index) * [[378, 504]])
      means = [np.mean(pixels / 255, axis=(0, 1)) for pixels in split.images]
      np.testing.assert_allclose(
        means, reference['image_mean'][index], atol=1e-4
      )
    bounds = reference['bounds']
    np.testing.assert_allclose(
      [scene.near, scene.far], [0.9 * bounds.min(), bounds.max()], rtol=1e-4
    )
    np.testing.assert_allclose(
      scene.path.camera_to_world, reference['render_poses'][:, :, :4], atol=1e-4
    )
    np.testing.assert_allclose(scene.path.intrinsics[119, 0], focal, rtol=1e-5)
    if kind == 'spherify':
      self.assertIsNone(scene.ndc)
    else:
      np.testing.assert_allclose(
        scene.ndc.focal, [2 * focal / width, 2 * focal / height], rtol=1e-5
      )
      self.assertEqual(scene.ndc.near, 1.0)
    self.assertEqual(scene.notices, ('Images are from images_8.',))

  def test_downscales_to_a_quarter_of_the_size(self):
    scene = self.load(down_factor=4, hold=8)
    folder = shared.folder('data') / 'nerf_llff_data' / 'fern' / 'images_4'
    expected = np.asarray(Image.open(folder / 'image009.png'))
    np.testing.assert_array_equal(scene.train.images[7], expected)
    expected = np.asarray(Image.open(folder / 'image016.png'))
    np.testing.assert_array_equal(scene.test.images[2], expected)
    reference = references.load('llff')['ndc_poses']
    np.testing.assert_allclose(
      scene.test.cameras.camera_to_world, reference[::8, :, :4], atol=1e-4
    )
    focal = 2 * reference[0, 2, 4]  # Of an eighth.
    np.testing.assert_allclose(
      scene.test.cameras.intrinsics, 3 * [[focal, focal, 504, 378]], rtol=1e-5
    )


class PosesTest(SceneTest):
  @parameterized.parameters((48, 32), (33, 17))
  def test_scene_has_the_given_fields(self, height, width):
    images = [image(height, width, seed=i) for i in range(5)]
    table = rows(5, height=height, width=width)
    table[2, -2:], table[4, -2:] = (3.0, 15.0), (6.0, 27.0)
    self.write(images, table)
    scene = self.load(hold=2)
    for split, index in ((scene.train, [1, 3]), (scene.test, [0, 2, 4])):
      chex.assert_trees_all_equal(
        list(split.images), [images[i] for i in index]
      )
      np.testing.assert_allclose(
        split.cameras.intrinsics, len(index) * [[40, 40, width / 2, height / 2]]
      )
      np.testing.assert_array_equal(
        split.cameras.sizes, len(index) * [[height, width]]
      )
    views = scene.train.cameras
    chex.assert_type([*views[:3]], [np.float32, np.float32, np.int32])
    chex.assert_trees_all_equal(
      (scene.val.cameras, list(scene.val.images)),
      (scene.test.cameras, list(scene.test.images)),
    )
    # The least of the bounds becomes 1 / 0.75.
    self.assertAlmostEqual(scene.near, 0.9 / 0.75, places=6)
    self.assertAlmostEqual(scene.far, 27 / (0.75 * 3), places=6)
    np.testing.assert_allclose(scene.ndc.focal, [80 / width, 80 / height])
    self.assertEqual(scene.ndc.near, 1.0)
    self.assertIsNone(scene.box)
    chex.assert_shape(scene.path.camera_to_world, (6, 3, 4))
    np.testing.assert_allclose(
      scene.path.intrinsics, 6 * [[40, 40, width / 2, height / 2]]
    )
    np.testing.assert_array_equal(scene.path.sizes, 6 * [[height, width]])
    self.assertEqual(scene.notices, ('Images are from images.',))

  @parameterized.parameters(True, False)
  def test_relative_poses_equal_those_of_the_file(self, spherify):
    table = rows(6)
    self.write([image(seed=i) for i in range(6)], table)
    scene = self.load(hold=5, spherify=spherify)
    index = [0, 5, 1, 2, 3, 4]
    got = np.concatenate(
      [s.cameras.camera_to_world for s in (scene.test, scene.train)]
    )
    expected = relative(of_rows(table)[index])
    factor = scene.far / BOUNDS[1]
    np.testing.assert_allclose(scene.near / BOUNDS[0], 0.9 * factor)
    expected[:, :3, 3] *= factor
    np.testing.assert_allclose(relative(got), expected, atol=1e-5)
    if spherify:
      np.testing.assert_allclose(np.mean(got[:, :, 3] ** 2), 1 / 3, rtol=1e-5)
    else:
      np.testing.assert_allclose(factor, 1 / 3)
      np.testing.assert_allclose(got[:, :, 3].mean(0), 0.0, atol=1e-6)
      axis = got[:, :, 2].sum(0)
      np.testing.assert_allclose(axis[:2], 0.0, atol=1e-5)
      self.assertGreater(axis[2], 0)
      np.testing.assert_allclose(got[:, 0, 1].sum(), 0.0, atol=1e-5)

  def test_reads_back_a_built_in_scene(self):
    made = photographs.make_scene(seed=1, size=24, num_train=7, num_test=3)
    writers.write_llff(made, self.scene)
    scene = self.load(spherify=True, hold=5)
    both = zip(
      *(
        (s.images[i], s.cameras.camera_to_world[i], s.cameras.intrinsics[i])
        for s in (made.train, made.test)
        for i in range(len(s.images))
      ),
      strict=True,
    )
    images, poses, lenses = (np.stack(x) for x in both)
    radius = np.linalg.norm(poses[0, :, 3])
    for split, index in (
      (scene.test, [0, 5]),
      (scene.train, [1, 2, 3, 4, 6, 7, 8, 9]),
    ):
      np.testing.assert_array_equal(list(split.images), images[index])
      np.testing.assert_array_equal(split.cameras.intrinsics, lenses[index])
      got, expected = (
        relative(x) for x in (split.cameras.camera_to_world, poses[index])
      )
      # The cameras stand on a sphere and look at its center.
      expected[:, :3, 3] /= radius
      np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(
      [scene.near, scene.far], [0.9 * 2 / radius, 6 / radius], rtol=1e-4
    )

  @parameterized.parameters(True, False)
  def test_each_camera_has_its_intrinsics(self, spherify):
    table = rows(5)
    table[3, 14] = 60.0
    self.write(table=table)
    scene = self.load(hold=5, spherify=spherify)
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics[:, :2],
      [[40] * 2, [40] * 2, [60] * 2, [40] * 2],
    )

  @parameterized.parameters((2, [0, 2, 4]), (3, [0, 3]), (5, [0]), (99, [0]))
  def test_hold_selects_held_out_views(self, hold, expected):
    self.write()
    scene = self.load(hold=hold)
    for split, index in (
      (scene.test, expected),
      (scene.val, expected),
      (scene.train, np.delete(np.arange(5), expected)),
    ):
      self.assertLen(split.images, len(index))
      for pixels, i in zip(split.images, index, strict=True):
        np.testing.assert_array_equal(pixels, image(seed=i))

  @parameterized.parameters(0, 3)
  def test_hold_0_holds_out_the_view_nearest_to_the_mean(self, nearest):
    table = rows(5)
    centers = table[:, [3, 8, 13]]
    others = np.delete(centers, nearest, axis=0).mean(0)
    table[nearest, [3, 8, 13]] = others + np.array([0.01, 0.02, 0])
    self.write(table=table)
    (pixels,) = self.load().test.images
    np.testing.assert_array_equal(pixels, image(seed=nearest))

  @parameterized.parameters(True, False)
  def test_given_bounds_are_used(self, spherify):
    self.write()
    scene = self.load(near=0.5, far=7.0, spherify=spherify)
    self.assertEqual((scene.near, scene.far), (0.5, 7.0))
    if not spherify:
      self.assertEqual(scene.ndc.near, 0.5)

  def test_accepts_a_box_in_world_coordinates(self):
    self.write()
    box = [[-1, -2, -3], [1, 2, 3]]
    scene = self.load(box=box, spherify=True)
    np.testing.assert_array_equal(scene.box, box)


class ImagesTest(SceneTest):
  def setUp(self):
    super().setUp()
    self.full = [image(seed=i) for i in range(3)]
    self.table = rows(3)

  def test_prefers_a_folder_of_downscaled_images(self):
    reduced = [image(12, 8, seed=10 + i) for i in range(3)]
    self.write(self.full, self.table)
    self.write(reduced, self.table, folder='images_4')
    scene = self.load(down_factor=4, hold=3)
    self.assertEqual(scene.notices, ('Images are from images_4.',))
    chex.assert_trees_all_equal(list(scene.train.images), reduced[1:])
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics, 2 * [[10, 10, 4, 6]]
    )
    (notice,) = self.load().notices
    self.assertEqual(notice, 'Images are from images.')

  def test_downscales_full_images_otherwise(self):
    self.write(self.full, self.table)
    scene = self.load(down_factor=4, hold=3)
    (notice,) = scene.notices
    self.assertRegex(notice, r'from images, downscaled by 4 .* no images_4\.$')
    for got, full in zip(scene.train.images, self.full[1:], strict=True):
      blocks = full.reshape(12, 4, 8, 4, 3).mean(axis=(1, 3))
      np.testing.assert_allclose(got / 65535 * 255, blocks, atol=2e-3)
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics, 2 * [[10, 10, 4, 6]]
    )

  def test_rounds_down_sizes_that_the_factor_does_not_divide(self):
    self.write(
      [image(33, 17, seed=i) for i in range(3)], rows(3, height=33, width=17)
    )
    scene = self.load(down_factor=4, hold=3)
    np.testing.assert_allclose(
      scene.test.cameras.intrinsics,
      [[40 * 4 / 17, 40 * 8 / 33, 2, 4]],
      rtol=1e-6,
    )
    np.testing.assert_array_equal(scene.test.cameras.sizes, [[8, 4]])
    np.testing.assert_allclose(scene.ndc.focal, [80 / 17, 80 / 33], rtol=1e-6)
    self.assertRegex(scene.notices[1], '3 of 3 images .*down_factor')

  def test_accepts_downscaled_images_alone(self):
    # 33 x 17 by 4 is rounded up here, as some tools do.
    images = [image(9, 5, seed=i) for i in range(3)]
    self.write(images, rows(3, height=33, width=17), folder='images_4')
    scene = self.load(down_factor=4, hold=3)
    chex.assert_trees_all_equal(list(scene.train.images), images[1:])
    np.testing.assert_allclose(
      scene.train.cameras.intrinsics,
      2 * [[40 * 5 / 17, 40 * 9 / 33, 2.5, 4.5]],
      rtol=1e-6,
    )

  @parameterized.parameters('JPG', 'jpg', 'jpeg', 'JPEG', 'PNG', 'png')
  def test_finds_images_by_extension(self, extension):
    images = [np.full((48, 32, 3), 50 * i, np.uint8) for i in range(3)]
    names = [f'{name}.{extension}' for name in 'abc']
    self.write(images, self.table, names=names)
    for name in ('Thumbs.db', 'notes.txt', f'._a.{extension}', 'b', '.png'):
      (self.scene / 'images' / name).write_bytes(b'\0')
    scene = self.load(hold=3)
    for got, expected in zip(scene.train.images, images[1:], strict=True):
      np.testing.assert_allclose(got, expected, atol=3)

  def test_images_are_in_the_order_of_names(self):
    names = ['b.png', 'c.png', 'B.PNG', 'a_10.png', 'a_2.jpg']
    images = [np.full((48, 32, 3), 50 * i, np.uint8) for i in range(5)]
    self.write(images, names=names)
    scene = self.load(hold=5)
    got = [
      pixels.mean() / 50
      for s in (scene.test, scene.train)
      for pixels in s.images
    ]
    # Of the bytes of names, as files are listed: B < a, and a_10 < a_2.
    np.testing.assert_allclose(got, [2, 3, 4, 0, 1], atol=0.05)

  def test_orientation_is_not_applied(self):
    self.write(self.full, self.table)
    tags = Image.Exif()
    tags[0x0112] = 6  # The camera was held upright: turn to show.
    names = ['image000.jpg', 'image001.jpg', 'image002.jpg']
    for i, name in enumerate(names):
      (self.scene / 'images' / f'image{i:03}.png').unlink()
      pixels = np.zeros((48, 32, 3), np.uint8)
      pixels[:16] = 255  # The top.
      Image.fromarray(pixels).save(self.scene / 'images' / name, exif=tags)
    scene = self.load(hold=3)
    got = scene.train.images[0]
    self.assertEqual(got.shape, (48, 32, 3))
    self.assertGreater(got[:16].min(), 250)
    self.assertLess(got[16:].max(), 5)

  def test_alpha_is_kept(self):
    images = [image(channels=4, seed=i) for i in range(3)]
    self.write(images, self.table)
    chex.assert_trees_all_equal(
      list(self.load(hold=3).train.images), images[1:]
    )
