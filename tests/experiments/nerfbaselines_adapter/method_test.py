"""The method on plain arrays: the same rays, scenes and models as ours."""

import io
import json
import pathlib

import chex
import jax
import numpy as np
from absl.testing import parameterized

from experiments.nerfbaselines_adapter import messages, method
from nerf_haiku import camera_paths, cameras, errors, models
from nerf_haiku.datasets import blender, writers
from nerf_haiku.datasets.procedural import photographs

_SMALL = {
  'config': 'quickstart',
  'num_rand': 64,
  'num_steps': 4,
  'batch_warmup_steps': 0,
  'hash.num_levels': 2,
  'hash.hashmap_size': 512,
  'hash.color_width': 8,
  'occupancy.resolution': 16,
  'occupancy.max_samples': 2048,
  'occupancy.step_size': '0.05',  # As from a command line.
}
_METADATA = {'background_color': [255, 255, 255], 'depth_range': [2, 6]}


def _arrays(count=6, size=12):
  """The arrays of an outside program, of a gray ball that is not there."""
  pose = camera_paths.circle(count).astype(np.float64)
  pose[:, :, 1:3] *= -1  # OpenCV's axes.
  arrays = {
    'poses': pose,
    'intrinsics': np.tile([15.0, 16.0, 6.5, 5.5], (count, 1)),
    'camera_models': np.zeros(count, np.int32),
    'distortion_parameters': np.zeros((count, 0)),
    'image_sizes': np.full((count, 2), (size, size - 2)),
    'nears_fars': np.tile([2.0, 6.0], (count, 1)),
  }
  rng = np.random.default_rng(0)
  for i in range(count):
    image = rng.integers(0, 256, (size - 2, size, 3), np.uint8)
    arrays[f'image_{i:05}'] = image
  return arrays


def _names(count=6):
  return [f'{i}.png' for i in range(count)]


def _open(checkpoint=None, has_dataset=True, **overrides):
  values = {
    'checkpoint': checkpoint,
    'config_overrides': _SMALL | overrides,
    'has_dataset': has_dataset,
    'names': _names(),
    'metadata': _METADATA,
  }
  return method.open_method(values, _arrays() if has_dataset else {})


class CamerasTest(chex.TestCase):
  def test_axes_and_sizes(self):
    cams = method.to_cameras(_arrays())
    np.testing.assert_allclose(
      cams.camera_to_world, camera_paths.circle(6), atol=1e-6
    )
    np.testing.assert_array_equal(cams.sizes, np.full((6, 2), (10, 12)))
    # The center of the first pixel is at (0.5, 0.5).
    rays = cameras.cast(
      cams,
      np.array([0]),
      np.array([[5, 6]]),
      near=1.0,
      far=2.0,
      box=None,
      pixel_center=True,
    )
    ahead = -cams.camera_to_world[0, :, 2]
    np.testing.assert_allclose(rays.viewdirs[0], ahead, atol=1e-6)

  @parameterized.parameters(
    ([1, 1], [[0.1, 0.02, 0.003, 0.004]], [0.1, 0.02, 0, 0, 0.003, 0.004]),
    (
      [1, 1],
      [[0.1, 0.02, 0.003, 0.004, 0.5, 0.5]],  # It has no k3 and k4.
      [0.1, 0.02, 0, 0, 0.003, 0.004],
    ),
    ([2, 2], [[0.1, 0.02, 0, 0, 0.05, 0.06]], [0.1, 0.02, 0.05, 0.06, 0, 0]),
  )
  def test_lenses(self, kinds, given, expected):
    arrays = {k: v[:2] for k, v in _arrays().items() if k != 'image_00000'}
    arrays['camera_models'] = np.array(kinds)
    arrays['distortion_parameters'] = np.array(given * 2)
    cams = method.to_cameras(arrays)
    np.testing.assert_allclose(cams.distortion, [expected] * 2, rtol=1e-6)
    np.testing.assert_array_equal(cams.fisheye, np.array(kinds) == 2)

  def test_lenses_that_are_unknown(self):
    arrays = _arrays() | {'camera_models': np.full(6, 3)}
    with self.assertRaisesRegex(errors.UserError, 'camera_models: got 3'):
      method.to_cameras(arrays)

  def test_images_with_and_without_alpha_and_masks(self):
    arrays = _arrays()
    image = arrays['image_00002']
    alpha = np.full((*image.shape[:2], 1), 77, np.uint8)
    arrays['image_00002'] = np.concatenate([image, alpha], axis=-1)
    for i in range(6):
      arrays[f'mask_{i:05}'] = np.full(image.shape[:2], i % 2 * 255, np.uint8)
    train = method.to_scene(arrays, _names(), {}).train
    for i in range(6):
      expected = arrays[f'image_{i:05}'][..., :3]
      np.testing.assert_array_equal(train.images[i][..., :3], expected)
      self.assertTrue(
        np.all(train.images[i][..., 3] == (77 if i == 2 else 255))
      )
      self.assertTrue(np.all(train.masks[i] == i % 2))
    without = method.to_scene(_arrays(), _names(), {}).train
    self.assertIsNone(without.masks)
    self.assertEqual(without.images.pixels.shape[-1], 3)

  def test_rays_are_those_of_our_reader(self):
    """Of files of Blender, which the evaluator reads by itself."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    made = photographs.make_scene(seed=0, size=16, num_train=4, num_test=2)
    writers.write_blender(made, folder)
    ours = blender.load(
      str(folder),
      '',
      testskip=1,
      down_factor=1,
      num_poses=2,
      near=2.0,
      far=6.0,
      box=None,
    ).train.cameras
    about = json.loads((folder / 'transforms_train.json').read_text())
    pose = np.array([x['transform_matrix'] for x in about['frames']])
    pose[:, :, 1:3] *= -1  # OpenCV's axes, of a camera that Blender has.
    focal = 8 / np.tan(about['camera_angle_x'] / 2)
    theirs = method.to_cameras(
      {
        'poses': pose[:, :3],
        'intrinsics': np.tile([focal, focal, 8.0, 8.0], (4, 1)),
        'camera_models': np.zeros(4, np.int32),
        'distortion_parameters': np.zeros((4, 0)),
        'image_sizes': np.full((4, 2), 16),
      }
    )
    pixel = cameras.pixels(16, 16)
    for i in range(4):
      index = np.full(len(pixel), i)
      expected, rays = (
        cameras.cast(
          x, index, pixel, near=2.0, far=6.0, box=None, pixel_center=True
        )
        for x in (ours, theirs)
      )
      chex.assert_trees_all_close(rays, expected, atol=1e-5)


class ConfigTest(parameterized.TestCase):
  def test_a_field_of_several_numbers(self):
    config = method.make_config(
      {'config': 'capture', 'proposal.num_samples': '(32, 16)'}, {}
    )
    self.assertEqual(tuple(config.proposal.num_samples), (32, 16))

  def test_overrides_are_parsed_and_checked(self):
    config = method.make_config(_SMALL, _METADATA)
    self.assertEqual(config.occupancy.step_size, 0.05)
    self.assertEqual(config.background, (1.0, 1.0, 1.0))
    self.assertEqual(config.bounds, 'cameras')

  @parameterized.parameters(
    ({'config': 'none_such'}, 'config: got .none_such'),
    ({'none_such': 1}, 'none_such: got 1'),
    ({'num_steps': 'many'}, 'num_steps: got .many'),
    ({'num_steps': 0}, 'config.num_steps: got 0'),
  )
  def test_what_is_wrong_is_named(self, overrides, message):
    with self.assertRaisesRegex(errors.UserError, message):
      method.make_config(_SMALL | overrides, _METADATA)


class MethodTest(chex.TestCase):
  def test_trained_saved_opened_and_trained_on(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    first = _open()
    self.assertEqual(first.info()['num_iterations'], 4)
    self.assertIsNone(first.info()['loaded_step'])
    for step in range(2):
      scalars = first.train_iteration(step)
    self.assertGreater(scalars['loss'], 0)
    first.save(folder / 'a')
    (folder / 'mine').mkdir()
    (folder / 'mine' / 'file').touch()
    with self.assertRaisesRegex(errors.UserError, 'mine holds other files'):
      first.save(folder / 'mine')
    camera = method.to_cameras({k: v[:1] for k, v in _arrays().items()})
    expected = first.render(camera)
    self.assertEqual(expected['color'].shape, (10, 12, 3))
    # The library opens it too.
    self.assertEqual(models.open_run(folder / 'a').step, 2)

    opened = _open(str(folder / 'a'), has_dataset=False)
    self.assertEqual(opened.info()['loaded_step'], 2)
    chex.assert_trees_all_equal(opened.render(camera), expected)
    opened.save(folder / 'b')
    files = [
      {
        x.relative_to(folder / name): x.read_bytes()
        for x in (folder / name).rglob('*')
        if x.is_file()
      }
      for name in 'ab'
    ]
    self.assertEqual(*files)
    with self.assertRaisesRegex(errors.UserError, 'needs the data set'):
      opened.train_iteration(2)

    # Two more steps after opening are those of a run that was not stopped.
    resumed = _open(str(folder / 'a'))
    for step in range(2, 4):
      resumed.train_iteration(step)
      first.train_iteration(step)
    chex.assert_trees_all_equal(resumed.render(camera), first.render(camera))


class MessagesTest(chex.TestCase):
  def test_there_and_back(self):
    stream = io.BytesIO()
    arrays = {'a': np.arange(6.0).reshape(2, 3), 'b': np.zeros(0, np.uint8)}
    messages.write(stream, {'x': [1, 'é']}, arrays)
    messages.write(stream, {})
    stream.seek(0)
    values, read = messages.read(stream)
    self.assertEqual(values, {'x': [1, 'é']})
    chex.assert_trees_all_equal(read, arrays)
    self.assertEqual(messages.read(stream), ({}, {}))
    with self.assertRaises(EOFError):
      messages.read(stream)
    stream = io.BytesIO(stream.getvalue()[:20])
    with self.assertRaises(EOFError):
      messages.read(stream)


def tearDownModule():
  jax.clear_caches()
