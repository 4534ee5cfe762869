import pathlib
import shutil
import tempfile

import chex
import numpy as np
import pycolmap
from absl.testing import absltest, parameterized

from nerf_haiku import errors
from nerf_haiku.datasets import colmap_model
from tests.support import colmap, shared

# Of each model that is read: parameters as COLMAP orders them, of 640x480.
_LENSES = {
  'SIMPLE_PINHOLE': (500, 311, 247),
  'PINHOLE': (500, 520, 311, 247),
  'SIMPLE_RADIAL': (500, 311, 247, 0.05),
  'RADIAL': (500, 311, 247, 0.05, -0.03),
  'OPENCV': (500, 520, 311, 247, 0.05, -0.03, 0.011, -0.007),
  'OPENCV_FISHEYE': (500, 520, 311, 247, 0.05, -0.03, 0.02, -0.01),
  'FULL_OPENCV': (
    500,
    520,
    311,
    247,
    0.05,
    -0.03,
    0.011,
    -0.007,
    0.02,
    0,
    0,
    0,
  ),
  'SIMPLE_RADIAL_FISHEYE': (500, 311, 247, 0.05),
  'RADIAL_FISHEYE': (500, 311, 247, 0.05, -0.03),
}
_PINHOLE = (50.0, 51.0, 31.0, 23.0)


def _reconstruct(models):
  """A model of an image for each lens, with ids that are not in order."""
  reconstruction = pycolmap.Reconstruction()
  rng = np.random.default_rng(0)
  for i, model in enumerate(models):
    camera = pycolmap.Camera(
      camera_id=90 - 3 * i,
      model=model,
      width=640,
      height=480,
      params=_LENSES[model],
    )
    reconstruction.add_camera_with_trivial_rig(camera)
    quaternion = rng.normal(size=4)
    reconstruction.add_image_with_trivial_frame(
      pycolmap.Image(
        name=f'{"zaZb"[i % 4]}/{i}.jpg', camera_id=90 - 3 * i, image_id=9 + i
      ),
      pycolmap.Rigid3d(
        pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion)),
        rng.normal(size=3),
      ),
    )
  for point in rng.normal(size=(5, 3)):
    reconstruction.add_point3D(point, pycolmap.Track())
  return reconstruction


def _project(model, i, point):
  """The pixel that shows a point, by the equations of the lens, slowly."""
  pose, (k1, k2, k3, k4, p1, p2) = model.camera_to_world[i], model.distortion[i]
  right, up, back = pose[:, :3].T @ (point - pose[:, 3])
  x, y = right / -back, -up / -back  # COLMAP's y is down.
  square = x**2 + y**2
  if model.fisheye[i]:
    radius = np.sqrt(square)
    square = np.arctan(radius) ** 2
  factor = 1 + k1 * square + k2 * square**2 + k3 * square**3 + k4 * square**4
  if model.fisheye[i]:
    factor *= np.arctan(radius) / radius
  fx, fy, cx, cy = model.intrinsics[i]
  tangential_x = 2 * p1 * x * y + p2 * (square + 2 * x**2)
  tangential_y = 2 * p2 * x * y + p1 * (square + 2 * y**2)
  u = fx * (x * factor + tangential_x) + cx
  v = fy * (y * factor + tangential_y) + cy
  return u, v


class _FolderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def assert_equals_pycolmap(self, model, reconstruction):
    images = {x.name: x for x in reconstruction.images.values()}
    self.assertEqual(model.names, tuple(sorted(images)))
    for i, name in enumerate(model.names):
      camera, pose = images[name].camera, images[name].cam_from_world()
      local = np.array([[0.3, -0.2, 1.0], [-0.1, 0.25, 2.0], [0.4, 0.3, 1.0]])
      pixels = [_project(model, i, x) for x in pose.inverse() * local]
      np.testing.assert_allclose(pixels, camera.img_from_cam(local), rtol=1e-9)
      center = images[name].projection_center()
      np.testing.assert_allclose(
        model.camera_to_world[i, :, 3], center, rtol=1e-12, atol=1e-12
      )
      size = [camera.height, camera.width]
      np.testing.assert_array_equal(model.sizes[i], size)
    points = np.array([x.xyz for x in reconstruction.points3D.values()])
    self.assertEqual(model.points.shape, points.shape)
    np.testing.assert_array_equal(
      np.sort(model.points, axis=0), np.sort(points, axis=0)
    )


class OracleTest(_FolderTest):
  """Models that pycolmap writes, read by it and by us."""

  def assert_same(self, first, second):
    """Compares all but folders and notices."""
    self.assertEqual(first.names, second.names)
    chex.assert_trees_all_equal(first[2:-1], second[2:-1], strict=True)

  @parameterized.parameters(*_LENSES)
  def test_each_lens(self, lens):
    reconstruction = _reconstruct([lens])
    reconstruction.write_binary(self.folder)
    self.assert_equals_pycolmap(colmap_model.read(self.folder), reconstruction)

  def test_all_lenses_from_text(self):
    reconstruction = _reconstruct(list(_LENSES) * 2)
    reconstruction.write_text(self.folder)
    model = colmap_model.read(self.folder)
    self.assert_equals_pycolmap(model, reconstruction)
    fisheye = [
      'FISHEYE' in reconstruction.find_image_with_name(name).camera.model_name
      for name in model.names
    ]
    np.testing.assert_array_equal(model.fisheye, fisheye)
    binary = self.folder / 'binary'
    binary.mkdir()
    reconstruction.write_binary(binary)
    self.assert_same(model, colmap_model.read(binary))

  @parameterized.parameters('bin', 'txt')
  def test_rigs(self, suffix):
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs = options.num_cameras_per_rig = 2
    options.num_frames_per_rig, options.num_points3D = 2, 7
    reconstruction = pycolmap.synthesize_dataset(options)
    if suffix == 'bin':
      reconstruction.write_binary(self.folder)
    else:
      reconstruction.write_text(self.folder)
    for name in ('rigs', 'frames'):  # Passed over, whatever is in them.
      path = self.folder / f'{name}.{suffix}'
      self.assertTrue(path.exists())
      path.write_bytes(b'\xff' * 9)
    model = colmap_model.read(self.folder)
    self.assertLen(model.names, 8)
    self.assert_equals_pycolmap(model, reconstruction)

  def test_a_real_model(self):
    folder = shared.folder('data') / 'captures' / 'fox'
    model = colmap_model.read(folder)
    reconstruction = pycolmap.Reconstruction(folder / 'sparse' / '0')
    self.assert_equals_pycolmap(model, reconstruction)
    self.assertEqual(
      (model.folder, model.notices), (folder / 'sparse' / '0', ())
    )
    text = colmap_model.read(folder / 'sparse_txt' / '0')
    self.assert_same(model, text)


class ChoiceTest(_FolderTest):
  def write(self, place, num_images):
    images = [colmap.image(i, name=b'%d' % i) for i in range(num_images)]
    colmap.write(self.folder / place, images=images)

  @parameterized.parameters(
    '.', 'sparse', 'sparse/0', 'colmap/sparse', 'colmap/sparse/0', '0'
  )
  def test_places(self, place):
    self.write(place, 1)
    (self.folder / 'images').mkdir()
    (self.folder / 'sparse').mkdir(exist_ok=True)
    model = colmap_model.read(self.folder)
    self.assertEqual(model.folder, self.folder / place)
    self.assertEqual(model.notices, ())

  def test_the_largest_of_several_models(self):
    for place, num_images in (('0', 2), ('1', 3), ('2', 5), ('10', 5)):
      self.write(f'sparse/{place}', num_images)
    for place in ('colmap/sparse/0', 'exported'):
      self.write(place, 9)
    model = colmap_model.read(self.folder)
    self.assertEqual(model.folder, self.folder / 'sparse' / '2')
    self.assertLen(model.names, 5)
    self.assertEqual(
      model.notices,
      (
        f'{self.folder}: of 4 models, 2 is read, with 5 registered images, the '
        'most; not read: 0 (2), 1 (3), 10 (5).',
      ),
    )

  def test_the_folder_itself_comes_first(self):
    for place, num_images in (('.', 1), ('sparse/0', 2)):
      self.write(place, num_images)
    self.assertLen(colmap_model.read(self.folder).names, 1)

  def test_an_empty_model_among_others(self):
    self.write('sparse/1', 2)
    colmap.write(self.folder / 'sparse/0')
    (self.folder / 'sparse/0/images.bin').write_bytes(colmap.records())
    self.assertEqual(colmap_model.read(self.folder).folder.name, '1')

  def test_binary_files_come_first(self):
    _reconstruct(['PINHOLE']).write_text(self.folder)
    self.assertEqual(colmap_model.read(self.folder).names, ('z/0.jpg',))
    shutil.copy(self.folder / 'cameras.txt', self.folder / 'cameras.bin')
    # Those of one kind belong together.
    self.assertEqual(colmap_model.read(self.folder).names, ('z/0.jpg',))
    self.write('.', 1)
    self.assertEqual(colmap_model.read(self.folder).names, ('0',))

  def test_without_points(self):
    self.write('.', 1)
    (self.folder / 'points3D.bin').unlink()
    model = colmap_model.read(self.folder)
    self.assertEqual(model.points.shape, (0, 3))
    self.assertRegex(model.notices[0], r'there is no points3D\.bin')

  def test_without_a_model(self):
    (self.folder / 'cameras.bin').write_bytes(b'')
    for folder in (self.folder, self.folder / 'none', self.folder / '\0'):
      self.assertEqual(colmap_model.find(folder), ())
      with self.assertRaisesRegex(errors.DataError, 'holds no model of COLMAP'):
        colmap_model.read(folder)


class ContentTest(_FolderTest):
  def read(self, **contents):
    colmap.write(self.folder, **contents)
    return colmap_model.read(self.folder)

  def test_a_camera_at_the_origin(self):
    # It looks along z of the world, whose y is down.
    model = self.read(images=[colmap.image(pose=(1, 0, 0, 0, 0, 0, 0))])
    np.testing.assert_array_equal(
      model.camera_to_world[0], [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]]
    )
    np.testing.assert_array_equal(model.intrinsics[0], _PINHOLE)
    np.testing.assert_array_equal(model.distortion[0], np.zeros(6))
    np.testing.assert_array_equal(model.sizes, [[48, 64]])

  def test_a_camera_that_is_turned(self):
    # By 90 degrees around the world's y, so that its x is the world's -z.
    half = np.sqrt(0.5)
    model = self.read(images=[colmap.image(pose=(half, 0, half, 0, 1, 2, 3))])
    np.testing.assert_allclose(
      model.camera_to_world[0],
      [[0, 0, 1, 3], [0, -1, 0, -2], [1, 0, 0, -1]],
      atol=1e-15,
    )

  def test_parameters_of_all_orders(self):
    lens = (5.0, 6.0, 3.0, 2.0, 0.1, 0.2, 0.3, 0.4)
    full = (*lens, 0.5, 0.0, 0.0, 0.0)
    model = self.read(
      cameras=[
        colmap.camera(1, 4, params=lens),
        colmap.camera(2, 5, params=lens),
        colmap.camera(3, 6, params=full),
      ],
      images=[colmap.image(i, camera=i, name=b'%d' % i) for i in (1, 2, 3)],
    )
    np.testing.assert_array_equal(model.intrinsics, [lens[:4]] * 3)
    np.testing.assert_array_equal(
      model.distortion,
      [
        [0.1, 0.2, 0, 0, 0.3, 0.4],
        [0.1, 0.2, 0.3, 0.4, 0, 0],
        [0.1, 0.2, 0.5, 0, 0.3, 0.4],
      ],
    )
    np.testing.assert_array_equal(model.fisheye, [False, True, False])

  def test_rounded_quaternions_are_normalized(self):
    pose = (0.707, 0.0, 0.707, 0.0, 1.0, 2.0, 3.0)
    model = self.read(images=[colmap.image(pose=pose)])
    rotation = model.camera_to_world[0, :, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-15)

  def test_names_are_sorted_as_strings(self):
    names = (b'2.jpg', b'10.jpg', b'a/1.jpg', b'B.jpg', b'1 0.jpg')
    images = [colmap.image(i, name=name) for i, name in enumerate(names)]
    expected = ('1 0.jpg', '10.jpg', '2.jpg', 'B.jpg', 'a/1.jpg')
    self.assertEqual(self.read(images=images).names, expected)

  def test_a_camera_without_images_may_be_anything(self):
    bad = colmap.camera(9, 7, width=0, params=(np.nan,) * 5)
    self.assertLen(self.read(cameras=[bad, colmap.camera()]).names, 1)


class ErrorsTest(_FolderTest):
  def assert_refused(self, name, message, **contents):
    colmap.write(self.folder, **contents)
    with self.assertRaisesRegex(
      errors.DataError, f'^{self.folder}/{name}: {message}'
    ) as context:
      colmap_model.read(self.folder)
    self.assertNotIn('\n', str(context.exception))

  @parameterized.parameters(
    (0, 0.0), (0, 1.01), (1, 0.1), (0, np.nan), (2, np.inf), (3, 1e200)
  )
  def test_refuses_quaternions(self, i, value):
    pose = list(colmap.POSE)
    pose[i] = value
    self.assert_refused(
      'images.bin',
      r"byte 8: the quaternion of image 'a\\n\.png' must have length 1, got \[",
      images=[colmap.image(pose=pose, name=b'a\n.png')],
    )

  @parameterized.parameters(
    (np.nan, 'must be 3 finite numbers'),
    (-np.inf, 'must be 3 finite numbers'),
    (1e10, 'is 1e\\+10 from the origin'),
  )
  def test_refuses_positions(self, value, message):
    pose = (*colmap.POSE[:5], value, 0.0)
    images = [colmap.image(), colmap.image(2, pose, name=b'b.png')]
    self.assert_refused(
      'images.bin', f"byte 134: .*image 'b.png'.*{message}", images=images
    )

  @parameterized.parameters(
    *((i, ()) for i in (7, *range(10, 18))),
    (6, (0.0, 0.1, 0.0, 0.0)),
    (6, (0.0, 0.0, np.nan, 0.0)),
  )
  def test_refuses_other_lenses(self, number, last):
    model = pycolmap.CameraModelId(number)
    camera = pycolmap.Camera.create_from_model_id(1, model, 50.0, 64, 48)
    params = np.array(camera.params)
    params[len(params) - len(last) :] = last
    self.assert_refused(
      'cameras.bin',
      f'byte 8: camera 1 is of model {model.name}.* not read: .*'
      'image_undistorter .*undistort_images',
      cameras=[colmap.camera(model=number, params=params)],
    )

  @parameterized.product(size=(0, 2**40, 2**64 - 1), side=('width', 'height'))
  def test_refuses_sizes(self, size, side):
    self.assert_refused(
      'cameras.bin',
      f'byte 8: camera 1: width and height must be .*{size}',
      cameras=[colmap.camera(**{side: size})],
    )

  @parameterized.product(i=(0, 1, 2, 3), value=(np.nan, np.inf, -1e10))
  def test_refuses_parameters(self, i, value):
    params = list(_PINHOLE)
    params[i] = value
    self.assert_refused(
      'cameras.bin',
      f'byte 8: camera 1: {("fx", "fy", "cx", "cy")[i]} must be a number',
      cameras=[colmap.camera(params=params)],
    )

  @parameterized.parameters(0.0, -50.0, 1e-9)
  def test_refuses_focal_lengths(self, value):
    self.assert_refused(
      'cameras.bin',
      f'byte 8: camera 1: is a focal length of {value:g} pixels',
      cameras=[colmap.camera(params=(50.0, value, 31.0, 23.0))],
    )

  def test_refuses_an_image_without_a_camera(self):
    self.assert_refused(
      'images.bin',
      "byte 8: the camera 3 of image 'a.png' is not in .*cameras.bin",
      images=[colmap.image(camera=3)],
    )

  def test_refuses_equal_names(self):
    self.assert_refused(
      'images.bin',
      "byte 134: two images have the name 'a.png'",
      images=[colmap.image(), colmap.image(2)],
    )

  def test_refuses_a_model_without_images(self):
    colmap.write(self.folder)
    (self.folder / 'images.bin').write_bytes(colmap.records())
    with self.assertRaisesRegex(
      errors.DataError, r'images\.bin: there are no registered images'
    ):
      colmap_model.read(self.folder)

  def test_refuses_what_is_no_file(self):
    colmap.write(self.folder)
    (self.folder / 'points3D.bin').unlink()
    (self.folder / 'points3D.bin').mkdir()
    with self.assertRaisesRegex(errors.DataError, 'points3D.bin: .* a folder'):
      colmap_model.read(self.folder)


if __name__ == '__main__':
  absltest.main()
