import contextlib
import io
import json
import pathlib
import shutil
import tempfile
import time

import chex
import numpy as np
from absl.testing import absltest
from PIL import Image

from experiments.outputs import stored_scene, trained_run, videos
from experiments.trainer import run
from nerf_haiku import (
  camera_paths,
  cameras,
  errors,
  models,
  scene_files,
  similarity,
)
from tests.support import configs, trained


def _write_scene(folder):
  """Writes a scene of noise, seen by cameras around the origin."""
  rng = np.random.default_rng(0)
  for split, number in (('train', 3), ('val', 1), ('test', 2)):
    (folder / split).mkdir(parents=True)
    frames = []
    for i in range(number):
      image = rng.integers(0, 256, (8, 8, 3), np.uint8)
      Image.fromarray(image).save(folder / split / f'r_{i}.png')
      angle = 0.7 * i
      c, s = np.cos(angle), np.sin(angle)
      pose = [[-s, 0, c, 4 * c], [c, 0, s, 4 * s], [0, 1, 0, 0], [0, 0, 0, 1]]
      frames.append({'file_path': f'{split}/r_{i}', 'transform_matrix': pose})
    content = {'camera_angle_x': 0.7, 'frames': frames}
    (folder / f'transforms_{split}.json').write_text(json.dumps(content))


class StoredSceneTest(chex.TestCase):
  def test_coordinates_of_the_field_come_back(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    views = cameras.pinhole(camera_paths.circle(2), [[4, 4]] * 2, [5.0] * 2)
    pose = views.camera_to_world.astype(np.float64)
    pose[:, :, 3] += (5e6, 0.01, 0)  # Lost in float32.
    views = views._replace(camera_to_world=pose)
    moved = similarity.from_cameras(views)
    scene = trained.scene(
      views, names=('a', 'b'), similarity=moved, contracted=True
    )
    scene_files.write(folder / models.SCENE, scene)
    read = stored_scene.read(folder)
    chex.assert_trees_all_close(read.similarity, moved)
    self.assertTrue(read.contracted)
    for cams in (read.train.cameras, read.path):
      np.testing.assert_array_equal(cams.camera_to_world, pose)
    self.assertEqual(read.test.names, ('a', 'b'))
    # Runs of earlier versions say neither.
    path = folder / models.SCENE
    content = json.loads(path.read_text())
    del content['similarity'], content['contracted']
    path.write_text(json.dumps(content))
    read = stored_scene.read(folder)
    self.assertIsNone(read.similarity)
    self.assertFalse(read.contracted)


class MovedTest(chex.TestCase):
  """A run whose data set was moved after training."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    cls.old, cls.new = cls.folder / 'old' / 'toy', cls.folder / 'new' / 'toy'
    cls.model_dir = cls.folder / 'run'
    _write_scene(cls.old)
    cls.train(cls.old, cls.model_dir)
    cls.before = trained_run.load(
      cls.config(), data_dir=None, model_dir=cls.model_dir
    )
    videos.score_test_views(cls.before, cls.folder / 'scores')
    cls.new.parent.mkdir()
    cls.old.rename(cls.new)

  @classmethod
  def config(cls, **changes):
    settings = {'num_steps': 2, 'num_rand': 16, 'num_poses': 3}
    settings |= {'dataset_type': 'blender', 'shape': 'toy', 'testskip': 1}
    return configs.small(width=8, num_train=1, num_test=1, **settings | changes)

  @classmethod
  def train(cls, data_dir, model_dir, **changes):
    with contextlib.redirect_stdout(io.StringIO()):
      return run.train(
        cls.config(**changes),
        data_dir=str(data_dir),
        model_dir=model_dir,
        seed=0,
        start=time.perf_counter(),
      )

  def load(self, data_dir=None, **changes):
    needs = {x: changes.pop(x) for x in ('images', 'path') if x in changes}
    return trained_run.load(
      self.config(**changes),
      data_dir=data_dir and str(data_dir),
      model_dir=self.model_dir,
      **needs,
    )

  def copied(self, change):
    """Returns a copy of the data in which one image is another."""
    folder = pathlib.Path(self.create_tempdir().full_path) / 'toy'
    shutil.copytree(self.new, folder)
    Image.new('RGB', (8, 8)).save(folder / change)
    return folder

  def test_a_video_needs_no_data(self):
    scene = self.load(images=False).scene
    for name in ('path', 'near', 'far', 'box', 'ndc', 'notices'):
      chex.assert_trees_all_equal(
        getattr(scene, name), getattr(self.before.scene, name)
      )
    for name in ('train', 'val', 'test'):
      split, before = getattr(scene, name), getattr(self.before.scene, name)
      chex.assert_trees_all_equal(split.cameras, before.cameras)
      self.assertEqual(split.digest, before.digest)
      with self.assertRaisesRegex(errors.UserError, '--data_dir: image 0'):
        split.images[0]

  def test_data_that_are_given_are_read(self):
    with self.assertRaisesRegex(errors.DataError, 'is not a folder'):
      self.load(data_dir='nowhere', images=False)
    scene = self.load(data_dir=self.new, images=False).scene
    self.assertEqual(scene.train.images[0].shape, (8, 8, 3))

  def test_another_path_needs_data_only_if_it_is_the_one_of_the_scene(self):
    self.load(images=False, path=False, num_poses=7)
    with self.assertRaisesRegex(errors.UserError, '--data_dir'):
      self.load(images=False, num_poses=7)
    with self.assertRaisesRegex(errors.UserError, '--data_dir'):
      self.load(images=False, path=False, near=1.0)

  def test_the_error_names_the_flag(self):
    with self.assertRaisesRegex(
      errors.UserError, r"old/toy' is not a folder.*trained with.*--data_dir"
    ):
      self.load()
    with self.assertRaisesRegex(errors.DataError, 'is not a folder.$'):
      self.load(data_dir='nowhere')

  def test_moved_images_are_the_same_images(self):
    moved = self.load(data_dir=self.new)
    _, text = videos.score_test_views(moved, self.folder / 'scores')
    self.assertIn('scored before', text)

  def test_other_images_are_not(self):
    other = self.load(data_dir=self.copied('test/r_1.png'))
    with self.assertRaisesRegex(errors.UserError, 'other pictures .images is'):
      videos.score_test_views(other, self.folder / 'scores')

  def test_scores_of_older_versions_go_by_the_path(self):
    scores = pathlib.Path(self.create_tempdir().full_path) / 'scores'
    shutil.copytree(self.folder / 'scores', scores)
    path = scores / 'render.json'
    moved = self.load(data_dir=self.new)
    for data_dir in (self.new, self.old):
      content = json.loads(path.read_text()) | {'images': str(data_dir)}
      path.write_text(json.dumps(content))
      if data_dir == self.new:
        videos.score_test_views(moved, scores)
      else:
        with self.assertRaisesRegex(errors.UserError, 'other pictures'):
          videos.score_test_views(moved, scores)

  def test_a_run_resumes_with_its_own_views_only(self):
    model_dir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    shutil.copytree(self.model_dir, model_dir)
    other = self.copied('train/r_1.png')
    with self.assertRaisesRegex(
      errors.UserError, '--data_dir: the training views in .* are not those'
    ):
      self.train(other, model_dir, num_steps=3)
    same = self.copied('val/r_0.png')
    results = self.train(same, model_dir, num_steps=4)
    self.assertEqual(results['steps'], 4)


if __name__ == '__main__':
  absltest.main()
