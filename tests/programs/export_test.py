"""`export.py`, from the command line to the files it leaves."""

import json
import pathlib
import tempfile

import chex
import numpy as np
import pytest
import trimesh
from absl.testing import parameterized

from experiments.benchmarks import commands
from nerf_haiku import scene_files
from nerf_haiku.datasets import colmap_model
from tests.support import forked

_TRAIN = (*commands.TINY_HASH, '--config.num_steps=2')


def _export(*arguments, folder, status=0):
  ended = forked.run('export', *arguments, folder=folder)
  assert ended.code == status, '\n'.join(ended.err)
  return ended.out, ended.err


@pytest.mark.slow
class ExportTest(chex.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = tempfile.TemporaryDirectory()
    cls.addClassCleanup(folder.cleanup)
    cls.folder = pathlib.Path(folder.name)
    for seed in '01':
      ended = forked.run(
        'train',
        *_TRAIN,
        f'--seed={seed}',
        f'--model_dir=run{seed}',
        folder=folder.name,
      )
      assert ended.code == 0, '\n'.join(ended.err)

  def test_cameras_and_points(self):
    arguments = ('--model_dir=run0', '--cameras', '--points', '--out=a')
    # After two steps nothing is opaque.
    out, _ = _export(*arguments, '--min_opacity=0.01', folder=self.folder)
    self.assertLen(out, 3)
    for line in out:
      self.assertTrue((self.folder / line.partition(': ')[0]).is_file())
    index = json.loads((self.folder / 'a' / 'export.json').read_text())
    self.assertLen(index['files'], 3)
    self.assertEqual({x['step'] for x in index['files'].values()}, {2})
    cloud = trimesh.load(self.folder / 'a' / 'points.ply')
    model = colmap_model.read(self.folder / 'a')
    np.testing.assert_allclose(model.points, cloud.vertices, rtol=1e-6)
    scene = scene_files.read(self.folder / 'run0' / 'scene.json')
    np.testing.assert_allclose(
      model.camera_to_world, scene.train.cameras.camera_to_world, atol=1e-6
    )
    before = sorted(self.folder.glob('a/**/*'))
    _, err = _export(
      '--model_dir=run1', '--cameras', '--out=a', folder=self.folder, status=1
    )
    self.assertRegex(err[-1], '^Error: --out: a holds exports of another run')
    self.assertEqual(sorted(self.folder.glob('a/**/*')), before)

  def test_the_default_folder(self):
    out, _ = _export('--model_dir=run1', '--cameras', folder=self.folder)
    self.assertStartsWith(out[0], 'run1/export/transforms.json: ')

  @parameterized.parameters(
    ([], 'Name what to write: --mesh, --points, --cameras.'),
    (['--mesh', '--box=1,2,x'], '--box: got 1,2,x; must be six numbers'),
    (['--mesh', '--box=0,0,0,1,-1,1'], '--box: got 0,0,0,1,-1,1; must be'),
    (['--mesh', '--formats=stl'], '--formats: got stl; must be some of ply'),
    (['--mesh', '--step=7'], 'There is no checkpoint of step 7'),
    (['--mesh', '--resolution=1'], 'flag --resolution=1'),
    (['--points', '--min_opacity=1.0'], '--min_opacity: no surface'),
  )
  def test_one_line_and_nothing_written(self, arguments, message):
    out, err = _export(
      '--model_dir=run0', '--out=b', *arguments, folder=self.folder, status=1
    )
    self.assertEmpty(out)
    self.assertLen(err, 1)
    self.assertStartsWith(err[0], f'Error: {message}')
    self.assertEmpty(list(self.folder.glob('b/*.ply')))
