import math
import pathlib
import pickle

import numpy as np
from absl.testing import parameterized
from PIL import Image
from scipy.spatial import transform

from nerf_haiku import errors
from tests.nerf_haiku.datasets import llff_test

_TABLE = r'poses_bounds\.npy'


class _Bomb:
  """Unpickled, it makes a file."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self._path,)


def _break_header(path):
  path.write_bytes(path.read_bytes().replace(b'(5, 17)', b'(5, 17('))


def _write_npz(path):
  with path.open('wb') as file:
    np.savez(file, np.ones((5, 17)))


class _ErrorsTest(llff_test.SceneTest):
  def assert_refused(self, message, error=errors.DataError, **changes):
    with self.assertRaisesRegex(error, message):
      self.load(**changes)


class FolderTest(_ErrorsTest):
  def test_finds_the_folder_of_a_scene(self):
    self.write()
    for data_dir in (self.root, self.scene):
      self.assertLen(self.load(data_dir=data_dir).notices, 1)
    (self.root / 'nerf_llff_data').mkdir()
    self.scene.rename(self.root / 'nerf_llff_data' / 'toy')
    self.assertLen(self.load().notices, 1)

  def test_a_scene_of_another_name_has_a_notice(self):
    self.write()
    notices = self.load('fern', self.scene).notices
    self.assertRegex(notices[0], "is itself a scene: shape='fern'")

  def test_refuses_an_unknown_scene(self):
    self.write()
    message = "shape='fern'.*poses_bounds.npy.*Available scenes: toy"
    self.assert_refused(message, shape='fern')


class SettingsTest(_ErrorsTest):
  @parameterized.parameters(
    ('down_factor', 0),
    ('down_factor', 1.5),
    ('hold', -1),
    ('hold', True),
    ('num_poses', 0),
    ('near', -1.0),
    ('near', math.nan),
    ('far', math.inf),
    ('box', [[0, 0, 0]]),
  )
  def test_refuses_settings_out_of_range(self, name, value):
    self.write()
    self.assert_refused(
      f'{name}.*{value!r}'.replace('[', r'\['), ValueError, **{name: value}
    )

  @parameterized.parameters(
    {'near': 2.0, 'far': 1.0}, {'near': 100.0}, {'far': 0.1}
  )
  def test_refuses_far_before_near(self, **bounds):
    self.write()
    self.assert_refused('0 < near < far', ValueError, **bounds)

  def test_refuses_hold_1_which_leaves_no_training_view(self):
    self.write()
    self.assert_refused(r'llff\.hold=1 .*5 views', ValueError, hold=1)

  @parameterized.parameters(0, 8)
  def test_refuses_a_single_view(self, hold):
    self.write([llff_test.image()])
    self.assert_refused(f'llff.hold={hold} .*1 views', ValueError, hold=hold)

  def test_refuses_a_box_in_device_coordinates(self):
    self.write()
    box = [[-1, -1, -1], [1, 1, 1]]
    self.assert_refused('box=.*spherify', ValueError, box=box)

  def test_refuses_a_large_down_factor(self):
    self.write()
    self.assert_refused(
      r'down_factor=33 .*image000\.png.*32x48', ValueError, down_factor=33
    )


class DirectionsTest(_ErrorsTest):
  def _write_turned(self, axis, degrees, num=5):
    """`num` cameras, and one that is turned about one of its axes."""
    table = llff_test.rows(num + 1)
    matrix = table[num, :15].reshape(3, 5)  # A view.
    turn = transform.Rotation.from_euler(axis, degrees, degrees=True)
    rotation = llff_test.of_rows(table)[num, :, :3] @ turn.as_matrix()
    right, up, backward = rotation.T
    matrix[:, :3] = np.stack([-up, right, backward], axis=-1)
    self.write([llff_test.image(seed=i) for i in range(num + 1)], table)

  @parameterized.parameters(0, 5)
  def test_refuses_a_camera_that_faces_elsewhere(self, hold):
    self._write_turned('y', 90.0)
    self.assert_refused(
      r'image005\.png.*llff\.spherify=True', ValueError, hold=hold
    )

  @parameterized.product(axis_limit=(('x', 53), ('y', 62)), sign=(-1, 1))
  def test_refuses_a_ray_that_does_not_go_forward(self, axis_limit, sign):
    """Half the angle of view is 31 degrees up and down, 22 to the sides.

    A ray in the corner, `(0.4, 0.6, -1)`, turns by the limit to 85 degrees.
    """
    axis, limit = axis_limit
    self._write_turned(axis, sign * (limit - 8), num=20)
    self.load()
    self._write_turned(axis, sign * (limit + 10), num=20)
    self.assert_refused(r'image020\.png.*llff\.spherify=True', ValueError)

  def test_refuses_cameras_all_around_without_spherify(self):
    """Their axes cancel out: there is no mean direction beside up."""
    table = llff_test.rows(4)
    for row, (x, y) in zip(
      table, ((1, 0), (0, 1), (-1, 0), (0, -1)), strict=True
    ):
      back, right = np.array([0.8 * x, 0.8 * y, 0.6]), np.array([-y, x, 0.0])
      row[:15].reshape(3, 5)[:, :4] = np.stack(
        [np.cross(right, back), right, back, 4 * back], axis=-1
      )
    self.write([llff_test.image(seed=i) for i in range(4)], table)
    self.assert_refused(r'llff\.spherify=True', ValueError)
    scene = self.load(spherify=True, hold=4)
    got = np.concatenate(
      [s.cameras.camera_to_world for s in (scene.test, scene.train)]
    )
    expected = llff_test.relative(llff_test.of_rows(table))
    expected[:, :3, 3] /= 4  # They are on a sphere, and look at its center.
    np.testing.assert_allclose(llff_test.relative(got), expected, atol=1e-5)

  def test_refuses_to_spherify_parallel_cameras(self):
    table = llff_test.rows(5)
    matrices = table[:, :15].reshape(-1, 3, 5)
    matrices[..., :3] = matrices[:1, :, :3]
    self.write(table=table)
    self.load()
    self.assert_refused(
      rf'{_TABLE}.*llff\.spherify=True.*llff\.spherify=False', spherify=True
    )


class TableTest(_ErrorsTest):
  @parameterized.named_parameters(
    ('narrow', np.ones((5, 15)), r'\[N, 17\].*\[5, 15\]'),
    ('one_row', np.ones(17), r'\[N, 17\].*\[17\]'),
    ('cube', np.ones((5, 3, 5)), r'\[5, 3, 5\]'),
    ('scalar', np.ones(()), r'\[N, 17\].*\[\]'),
    ('no_row', np.ones((0, 17)), r'\[0, 17\]'),
    ('text', np.full((5, 17), 'x'), 'real numbers'),
    ('complex', np.full((5, 17), 1j), 'real numbers'),
  )
  def test_refuses_an_array_of_another_kind(self, table, message):
    self.write(table=table)
    self.assert_refused(f'{_TABLE}: .*{message}')

  @parameterized.parameters(True, False)
  def test_nothing_is_unpickled(self, as_npy):
    self.write()
    mark = self.root / 'exploded'
    bomb, path = _Bomb(mark), self.scene / 'poses_bounds.npy'
    if as_npy:
      np.save(path, np.array([bomb], object), allow_pickle=True)
    else:
      path.write_bytes(pickle.dumps(bomb))
    self.assert_refused(f'{_TABLE}: is not a .npy file of numbers')
    self.assertFalse(mark.exists())

  def test_the_bomb_is_live(self):
    pickle.loads(pickle.dumps(_Bomb(self.root / 'exploded')))
    self.assertTrue((self.root / 'exploded').exists())

  @parameterized.parameters(0, 5, 60, 127, 128, 300, -1)
  def test_refuses_a_truncated_file(self, length):
    self.write()
    path = self.scene / 'poses_bounds.npy'
    path.write_bytes(path.read_bytes()[:length])
    self.assert_refused(f'{_TABLE}: is not a .npy file of numbers')

  @parameterized.named_parameters(
    ('header', _break_header),
    ('npz', _write_npz),
    ('half_an_npz', lambda path: path.write_bytes(b'PK\3\4 and no more')),
    ('text', lambda path: np.savetxt(path, np.ones((5, 17)))),
  )
  def test_refuses_other_kinds_of_file(self, write):
    self.write()
    write(self.scene / 'poses_bounds.npy')
    self.assert_refused(_TABLE)

  @parameterized.named_parameters(
    ('nan', 3, math.nan, 'row 3 .*NaN'),
    ('infinite', 0, math.inf, 'row 3 .*infinity'),
    ('huge', 16, 1e39, 'row 3 .*too large'),
    ('near_0', 15, 0.0, r'near and far of row 3.*\[0\.0, 20\.0\]'),
    ('near_negative', 15, -1.0, 'near and far of row 3'),
    ('far_is_near', 16, 4.0, r'near and far of row 3.*\[4\.0, 4\.0\]'),
    ('height', 4, 0.0, 'height, width and focal length of row 3'),
    ('width', 9, -32.0, 'height, width and focal length of row 3'),
    ('focal', 14, 0.0, r'of row 3.*\[48\.0, 32\.0, 0\.0\]'),
    ('axis', 0, 2.0, 'pose of row 3 is not a rigid motion'),
  )
  def test_refuses_an_invalid_row(self, column, value, message):
    table = llff_test.rows(5)
    table[3, column] = value
    self.write(table=table)
    self.assert_refused(f'{_TABLE}: .*{message}')

  @parameterized.named_parameters(
    ('scaled', np.eye(3) * 1.01, 'rigid'),
    ('sheared', np.eye(3) + np.eye(3, k=1), 'rigid'),
    ('zero', np.zeros((3, 3)), 'rigid'),
    ('mirrored', np.diag([1.0, -1.0, 1.0]), 'mirrors'),
  )
  def test_refuses_an_invalid_pose(self, change, message):
    table = llff_test.rows(5)
    matrices = table[:, :15].reshape(-1, 3, 5)
    matrices[2, :, :3] = matrices[2, :, :3] @ change
    self.write(table=table)
    self.assert_refused(f'{_TABLE}: the pose of row 2 .*{message}')


class ImagesTest(_ErrorsTest):
  def test_refuses_more_images_than_poses(self):
    self.write(table=llff_test.rows(3))
    self.assert_refused(
      rf'{_TABLE}: holds 3 poses, .*images holds 5 images.*'
      r'image003\.png, image004\.png\.'
    )

  def test_names_the_image_without_a_pose_by_another_folder(self):
    self.write()
    reduced = [llff_test.image(12, 8)] * 4
    names = [f'image{i:03}.png' for i in (0, 2, 3, 4)]
    self.write(reduced, llff_test.rows(4), folder='images_4', names=names)
    self.assert_refused(r'4 poses, .* 5 images: .* image001\.png\.')

  def test_refuses_fewer_images_than_poses(self):
    self.write(table=llff_test.rows(7))
    self.assert_refused(
      rf'{_TABLE}: holds 7 poses, .*images holds 5 images, '
      r'image000\.png to image004\.png\.'
    )

  @parameterized.parameters(0, 3)
  def test_refuses_an_image_of_another_size(self, odd):
    images = [llff_test.image() for _ in range(5)]
    images[odd] = llff_test.image(33, 17)
    self.write(images)
    self.assert_refused(rf'image00{odd}\.png: is 17x33 .*most .*32x48')

  @parameterized.product(kind=('png', 'jpg'), odd=(0, 3))
  def test_refuses_a_truncated_file(self, kind, odd):
    self.write(names=[f'image{i:03}.{kind}' for i in range(5)])
    path = self.scene / 'images' / f'image00{odd}.{kind}'
    path.write_bytes(path.read_bytes()[:-900])
    self.assert_refused(rf'image00{odd}\.{kind}: cannot be decoded')

  def test_refuses_a_file_that_is_an_image_by_name_only(self):
    self.write()
    (self.scene / 'images' / 'image002.png').write_text('<html>')
    self.assert_refused(r'image002\.png: is not an image')

  @parameterized.parameters('images', 'images_4')
  def test_refuses_an_empty_folder(self, folder):
    self.write()
    self.write(folder='images_4')
    for path in (self.scene / folder).iterdir():
      path.unlink()
    factor = 4 if folder == 'images_4' else 1
    self.assert_refused(f'{folder}: has no images', down_factor=factor)

  @parameterized.parameters(1, 8)
  def test_refuses_a_missing_folder(self, down_factor):
    for number in (16, 4):
      self.write(folder=f'images_{number}')
    (self.scene / 'images_old').mkdir()
    folder = 'images or images_8,' if down_factor == 8 else 'images,'
    self.assert_refused(
      f'toy: .*{folder} but images_4, images_16: set down_factor=4',
      down_factor=down_factor,
    )

  def test_refuses_a_scene_without_folders_of_images(self):
    self.write()
    (self.scene / 'images').rename(self.scene / 'input')
    self.assert_refused('toy: .*no folder of images')

  def test_refuses_cropped_or_rotated_images(self):
    self.write(table=llff_test.rows(5, height=32, width=48))
    self.assert_refused(r'image001\.png: is 32x48 .*48x32: .*ratio', hold=5)

  def test_orientation_tags_do_not_count(self):
    self.write(table=llff_test.rows(5, height=32, width=48))
    tags = Image.Exif()
    tags[0x0112] = 6
    path = self.scene / 'images' / 'image001.png'
    Image.open(path).save(path, exif=tags)
    self.assert_refused(r'image001\.png: .*orientation tags', hold=5)
