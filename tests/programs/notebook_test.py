"""The notebook runs, and shows what it shows when it is run."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import chex
import pytest

from tests.support import environment

_NOTEBOOK = pathlib.Path(__file__).parents[2] / 'docs' / 'tiny_nerf.ipynb'
_PSNR = 24.0  # dB, what its last line has at least.
# The run is cut short: whatever comes later is the same update again.
_STEPS, _SHORT_STEPS = 2400, 400
# Not in this process: Jupyter's packages may warn, which is an error here.
_EXECUTE = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, kernel_name='python3').execute()
nbformat.write(notebook, sys.argv[1])
"""


def _environment(folder):
  # It computes more than it compiles.
  made = environment.make(1, quick=False) | {'IPYTHONDIR': f'{folder}/ipython'}
  # A backend for plots would be chosen over the notebook's own.
  made.pop('MPLBACKEND', None)
  return made


def _shorten(source):
  return source.replace(f' = {_STEPS},', f' = {_SHORT_STEPS},')


def _read(path):
  return json.loads(path.read_text(encoding='utf-8'))


def _code(notebook):
  return [x for x in notebook['cells'] if x['cell_type'] == 'code']


def _sources(notebook):
  return [''.join(x['source']) for x in _code(notebook)]


def _outputs(notebook):
  return [output for cell in _code(notebook) for output in cell['outputs']]


def _text(notebook):
  """All that is printed, and what is shown as text."""
  parts = []
  for output in _outputs(notebook):
    data = output.get('data', {})
    parts += [output.get('text', ''), data.get('text/plain', '')]
  return '\n'.join(''.join(part) for part in parts)


def _num_pictures(notebook):
  return sum('image/png' in x.get('data', {}) for x in _outputs(notebook))


def _psnrs(notebook):
  """The PSNR of one view, dB, by step."""
  lines = re.findall(
    r'^step +(\d+): ([\d.]+) dB$', _text(notebook), re.MULTILINE
  )
  return {int(step): float(psnr) for step, psnr in lines}


def _mean_psnr(notebook):
  """The mean over all views, dB, on the last line."""
  return float(
    re.findall(r'views: ([\d.]+) dB$', _text(notebook), re.MULTILINE)[-1]
  )


class CommittedTest(chex.TestCase):
  """The file as it is read by who does not run it."""

  def test_was_run_from_top_to_bottom(self):
    counts = [cell['execution_count'] for cell in _code(_read(_NOTEBOOK))]
    self.assertEqual(counts, list(range(1, len(counts) + 1)))

  def test_shows_pictures_and_nothing_of_the_machine(self):
    notebook = _read(_NOTEBOOK)
    self.assertGreaterEqual(_num_pictures(notebook), 3)
    self.assertGreater(_mean_psnr(notebook), _PSNR)
    self.assertEqual(max(_psnrs(notebook)), _STEPS)
    self.assertNotIn('error', [x['output_type'] for x in _outputs(notebook)])
    self.assertNotIn('stderr', [x.get('name') for x in _outputs(notebook)])
    self.assertNotIn('Warning', _text(notebook))
    self.assertNotRegex(_text(notebook), r'/(home|root|tmp|usr|Users|work)/')
    self.assertEqual(list(notebook['metadata']), ['kernelspec'])
    self.assertLess(_NOTEBOOK.stat().st_size, 600_000)


@pytest.mark.slow
class RunTest(chex.TestCase):
  def test_runs_to_its_end(self):
    folder = self.create_tempdir().full_path
    copy = pathlib.Path(shutil.copy(_NOTEBOOK, folder))
    source = copy.read_text(encoding='utf-8')
    self.assertEqual(source.count(f' = {_STEPS},'), 1)
    copy.write_text(_shorten(source), encoding='utf-8')
    done = subprocess.run(
      [sys.executable, '-c', _EXECUTE, copy],
      cwd=folder,
      env=_environment(folder),
      capture_output=True,
      text=True,
      timeout=300,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    committed, executed = _read(_NOTEBOOK), _read(copy)
    self.assertEqual(
      _sources(executed), [_shorten(x) for x in _sources(committed)]
    )
    self.assertEqual(_num_pictures(executed), _num_pictures(committed))
    self.assertNotIn('Warning', _text(executed))
    # What is shown is what this code does, but for another machine's rounding.
    found, expected = _psnrs(executed), _psnrs(committed)
    self.assertEqual(list(found), [200, _SHORT_STEPS])
    for step, psnr in found.items():
      self.assertAlmostEqual(psnr, expected[step], delta=1.0)
    # Of a model half trained.
    self.assertGreater(_mean_psnr(executed), 20.0)
