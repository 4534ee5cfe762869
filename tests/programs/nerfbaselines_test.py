"""An evaluator that is not ours trains and scores the method."""

import json
import os
import pathlib
import subprocess
import tarfile
import unittest

import chex
import numpy as np
import pytest
from PIL import Image

from nerf_haiku.datasets import writers
from nerf_haiku.datasets.procedural import photographs
from nerf_haiku.metrics import image_quality

_ROOT = pathlib.Path(__file__).parents[2]
# The folder of experiments/nerfbaselines_adapter/install.sh.
_VARIABLE = 'NERF_HAIKU_NERFBASELINES'


@pytest.mark.slow
@unittest.skipIf(
  _VARIABLE not in os.environ,
  f'{_VARIABLE} does not name the folder of nerfbaselines_adapter/install.sh',
)
class NerfbaselinesTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    scene = photographs.make_scene(seed=0, size=48, num_train=12, num_test=3)
    writers.write_blender(scene, self.folder / 'data')
    # Without alpha: it composites photographs with another rounding.
    for path in (self.folder / 'data').rglob('*.png'):
      photo = np.asarray(Image.open(path), float)
      alpha = photo[..., 3:] / 255
      opaque = np.rint(alpha * photo[..., :3] + 255 * (1 - alpha))
      Image.fromarray(opaque.astype(np.uint8)).save(path)
    about = {
      'loader': 'nerfbaselines.datasets.blender:load_blender_dataset',
      'evaluation_protocol': 'nerf-haiku-offline',
      'type': 'object-centric',
      'id': None,  # Nothing is published of it.
      'scene': None,
    }
    (self.folder / 'data' / 'nb-info.json').write_text(json.dumps(about))

  def _run(self, *arguments):
    environments = pathlib.Path(os.environ[_VARIABLE])
    python = str(environments / 'nerf_haiku/bin/python')
    variables = os.environ | {
      'NERF_HAIKU_PYTHON': os.environ.get('NERF_HAIKU_PYTHON', python),
      'NERFBASELINES_REGISTER': str(
        _ROOT / 'experiments/nerfbaselines_adapter/spec.py'
      ),
    }
    variables.pop('PYTHONPATH', None)
    result = subprocess.run(
      [
        environments / 'nerfbaselines/bin/nerfbaselines',
        *arguments,
        '--data',
        self.folder / 'data',
        '--backend',
        'python',
      ],
      env=variables,
      capture_output=True,
      text=True,
      timeout=600,
    )
    said = result.stdout + result.stderr
    self.assertEqual(result.returncode, 0, said[-3000:])
    return said

  def test_its_own_checks_pass(self):
    said = self._run(
      'test-method', '--method=nerf-haiku', '--presets=quickstart', '--steps=30'
    )
    self.assertNotIn('✗', said)
    self.assertIn('Checkpoint reproduces results', said)

  def test_its_scores_are_ours(self):
    out = self.folder / 'out'
    self._run(
      'train',
      '--method=nerf-haiku',
      '--presets=quickstart',
      '--set=num_steps=60',
      f'--output={out}',
    )
    (results,) = out.glob('results-*.json')
    theirs = json.loads(results.read_text())['metrics']
    (predictions,) = out.glob('predictions-*.tar.gz')
    with tarfile.open(predictions) as file:
      file.extractall(out / 'pictures', filter='data')
    ours = {'psnr': [], 'ssim': []}
    for path in sorted((out / 'pictures' / 'color').rglob('*.png')):
      (truth,) = (self.folder / 'data').rglob(f'test/{path.name}')
      pair = tuple(np.asarray(Image.open(x)) for x in (path, truth))
      ours['psnr'].append(image_quality.psnr(*pair))
      ours['ssim'].append(image_quality.ssim(*pair))
    self.assertLen(ours['psnr'], 3)
    self.assertAlmostEqual(np.mean(ours['psnr']), theirs['psnr'], delta=1e-3)
    self.assertAlmostEqual(np.mean(ours['ssim']), theirs['ssim'], delta=1e-4)
