"""Each field of a config that says what scene is read."""

import json
import pathlib

import chex
import numpy as np
from absl.testing import parameterized

from experiments.builders import scene_loader
from nerf_haiku import poses, scene_bounds
from nerf_haiku.datasets import writers
from nerf_haiku.datasets.procedural import photographs
from tests.support import captures, configs


class LoadTest(chex.TestCase):
  def _scene(self, **changes):
    config = configs.changed(
      dataset_type='procedural',
      procedural__size=8,
      procedural__num_train=2,
      procedural__num_test=3,
      num_poses=5,
      **changes,
    )
    return scene_loader.load_scene(config, None)

  def test_built_in(self):
    scene = self._scene()
    self.assertEqual((scene.near, scene.far), (2.0, 6.0))
    self.assertLen(scene.train.images, 2)
    self.assertLen(scene.test.images, 3)
    self.assertLen(scene.path.camera_to_world, 5)
    other = self._scene(procedural__seed=1)
    self.assertGreater(
      np.mean(scene.train.images.pixels != other.train.images.pixels), 0.05
    )

  def test_near_far_and_box(self):
    scene = self._scene(near=1.0, far=5.0, box=(-1, -2, -3, 1, 2, 3))
    self.assertEqual((scene.near, scene.far), (1.0, 5.0))
    np.testing.assert_array_equal(scene.box, [[-1, -2, -3], [1, 2, 3]])
    with self.assertRaisesRegex(ValueError, 'config.near: got 7.0.*far=6.0'):
      self._scene(near=7.0)

  def _written(self, kind):
    """The built-in scene of 7 views in the layout of some data set."""
    folder = pathlib.Path(self.create_tempdir().full_path)
    made = photographs.make_scene(
      seed=0, size=8, num_train=5, num_val=2, num_test=2, num_poses=1
    )
    if kind == 'llff':
      writers.write_llff(made, folder / 'toy')
    elif kind == 'deepvoxels':
      writers.write_deepvoxels(made, folder, 'toy')
    elif kind == 'blender':
      writers.write_blender(made, folder / 'toy')
    else:
      writers.write_tiny(made, folder / 'toy.npz')
    return str(folder)

  def test_fields_of_llff(self):
    folder = self._written('llff')

    def load(**changes):
      changes = {'llff__spherify': True, 'llff__hold': 3} | changes
      config = configs.changed(dataset_type='llff', shape='toy', **changes)
      return scene_loader.load_scene(config, folder)

    scene = load(num_poses=9, near=0.5, far=7.0, box=(-1, -1, -1, 1, 1, 1))
    self.assertEqual([len(scene.train.images), len(scene.test.images)], [4, 3])
    self.assertLen(scene.path.sizes, 9)
    self.assertEqual((scene.near, scene.far, scene.ndc), (0.5, 7.0, None))
    np.testing.assert_array_equal(scene.box, [[-1] * 3, [1] * 3])
    self.assertLen(load(llff__hold=2).test.images, 4)
    np.testing.assert_array_equal(load(down_factor=2).test.cameras.sizes, 4)
    with self.assertRaisesRegex(ValueError, 'llff.spherify=True'):
      load(llff__spherify=False)

  def test_fields_of_deepvoxels(self):
    folder = self._written('deepvoxels')
    config = configs.changed(
      dataset_type='deepvoxels', shape='toy', testskip=2, down_factor=2
    )
    scene = scene_loader.load_scene(config, folder)
    self.assertLen(scene.test.images, 1)
    np.testing.assert_array_equal(scene.train.cameras.sizes, 4)
    np.testing.assert_allclose([scene.near, scene.far], [2.6, 4.6], rtol=1e-5)
    config.update(near=1.0, far=9.0)
    scene = scene_loader.load_scene(config, folder)
    self.assertEqual((scene.near, scene.far), (1.0, 9.0))

  def test_fields_of_tiny(self):
    folder = self._written('tiny')
    config = configs.changed(
      dataset_type='tiny',
      shape='toy',
      testskip=2,
      tiny__num_train=4,
      num_poses=3,
    )
    scene = scene_loader.load_scene(config, folder)
    self.assertEqual([len(scene.train.images), len(scene.test.images)], [4, 2])
    self.assertLen(scene.path.sizes, 3)
    self.assertEqual((scene.near, scene.far), (2.0, 6.0))

  @parameterized.parameters('blender', 'deepvoxels', 'llff', 'tiny')
  def test_bounds_of_the_cameras(self, kind):
    folder = self._written(kind)

    def load(**changes):
      config = configs.changed(
        dataset_type=kind,
        shape='toy',
        testskip=1,
        tiny__num_train=4,
        llff__spherify=True,
        **changes,
      )
      return scene_loader.load_scene(config, folder)

    scene = load(bounds='cameras')
    target = poses.find_target(scene.train.cameras.camera_to_world)
    fitted = scene_bounds.fit_bounds(scene.train.cameras, target)
    self.assertEqual((scene.near, scene.far), (fitted.near, fitted.far))
    np.testing.assert_array_equal(scene.box, fitted.box)
    self.assertIsNone(load().box)
    scene = load(bounds='cameras', far=99.0, box=(0, 0, 0, 1, 1, 1))
    self.assertEqual((scene.near, scene.far), (fitted.near, 99.0))
    np.testing.assert_array_equal(scene.box, [[0] * 3, [1] * 3])

  def test_fields_of_blender(self):
    folder = self._written('blender')

    def load(**changes):
      config = configs.changed(shape='toy', testskip=1, num_poses=3, **changes)
      return scene_loader.load_scene(config, folder)

    for split in ('val', 'test'):
      pathlib.Path(folder, 'toy', f'transforms_{split}.json').unlink()
    self.assertLen(load(holdout=3).test.images, 2)  # Of 5.
    radius = np.linalg.norm(load().path.camera_to_world[0, :, 3])
    np.testing.assert_allclose(radius, 3.6, rtol=0.02)
    path = load(video_path='original').path.camera_to_world
    np.testing.assert_allclose(np.linalg.norm(path[0, :, 3]), 4.0, rtol=1e-6)
    file = pathlib.Path(folder, 'toy', 'transforms_train.json')
    content = json.loads(file.read_text()) | {'cx': 4}
    file.write_text(json.dumps(content))
    load(pixel_center=True)
    with self.assertRaisesRegex(ValueError, 'pixel_center=False'):
      load(pixel_center=False)

  def test_blender_needs_to_know_where(self):
    with self.assertRaisesRegex(ValueError, '--data_dir'):
      scene_loader.load_scene(configs.changed(), None)


class CaptureTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def config(self, **changes):
    settings = {'dataset_type': 'capture', 'shape': '', 'pixel_center': True}
    return configs.changed(**(settings | changes))

  def test_the_type_is_that_of_what_is_there(self):
    captures.write(self.folder / 'room')
    config = self.config()
    for missing, kind in ((None, 'transforms'), ('transforms.json', 'colmap')):
      if missing:
        (self.folder / 'room' / missing).unlink()
      for root, shape in (('room', ''), ('', 'room'), ('room', 'hall')):
        resolved = scene_loader.resolve(
          self.config(shape=shape), str(self.folder / root)
        )
        self.assertEqual(resolved.dataset_type, kind)
    self.assertEqual(config.dataset_type, 'capture')
    with self.assertRaisesRegex(ValueError, 'holds no capture: neither'):
      scene_loader.resolve(config, str(self.folder))
    with self.assertRaisesRegex(ValueError, '--data_dir is required'):
      scene_loader.load_scene(config, None)

  def test_fields_of_captures(self):
    captures.write(self.folder)

    def load(**changes):
      config = self.config(**changes)
      return scene_loader.load_scene(config, str(self.folder))

    scene = load(contraction=True, num_poses=5, holdout=5, near=0.5, far=90.0)
    self.assertTrue(scene.contracted)
    self.assertEqual((scene.near, scene.far), (0.5, 90.0))
    self.assertLen(scene.path.sizes, 5)
    self.assertLen(scene.test.images, 2)
    self.assertLen(load(holdout=0).test.images, 1)
    self.assertEqual(load(down_factor=2).test.images[0].shape, (4, 6, 3))
    self.assertEqual(load(down_factor=0).test.images[0].shape, (8, 12, 3))
    box = load(box=(-2, -1, -3, 2, 1, 3)).box * captures.RADIUS
    np.testing.assert_allclose(box, [[-2, -1, -3], [2, 1, 3]], atol=1e-5)
    fitted = load(bounds='cameras')
    # The views fill a ball around the origin, whose cube is in field units.
    np.testing.assert_allclose(fitted.box[0], -fitted.box[1], atol=1e-5)
    self.assertBetween(fitted.near, 0.1, captures.RADIUS)
