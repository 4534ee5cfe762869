"""The notebook runs as it stands, and shows what it shows when it is run."""

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
_PSNR = 22.0  # dB, what its last line has at least.
# Not in this process: Jupyter's packages may warn, which is an error here.
_EXECUTE = """
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, kernel_name='python3').execute()
nbformat.write(notebook, sys.argv[1])
"""


def _environment(folder):
  made = environment.make(1) | {'IPYTHONDIR': f'{folder}/ipython'}
  # A backend for plots would be chosen over the notebook's own.
  made.pop('MPLBACKEND', None)
  return made


def _read(path):
  return json.loads(path.read_text(encoding='utf-8'))


def _code(notebook):
  return [x for x in notebook['cells'] if x['cell_type'] == 'code']


def _sources(notebook):
  return [''.join(x['source']) for x in _code(notebook)]


def _outputs(notebook):
  return [output for cell in _code(notebook) for output in cell['outputs']]


def _text(notebook):
  """All that is printed or shown as text."""
  parts = []
  for output in _outputs(notebook):
    data = output.get('data', {})
    parts += [output.get('text', ''), data.get('text/plain', '')]
  return '\n'.join(''.join(part) for part in parts)


def _num_pictures(notebook):
  return sum('image/png' in x.get('data', {}) for x in _outputs(notebook))


def _last_psnr(notebook):
  return float(re.findall(r'([\d.]+) dB$', _text(notebook), re.MULTILINE)[-1])


class CommittedTest(chex.TestCase):
  """The file as it is read by who does not run it."""

  def test_was_run_from_top_to_bottom(self):
    counts = [cell['execution_count'] for cell in _code(_read(_NOTEBOOK))]
    self.assertEqual(counts, list(range(1, len(counts) + 1)))

  def test_shows_pictures_and_nothing_of_the_machine(self):
    notebook = _read(_NOTEBOOK)
    self.assertGreaterEqual(_num_pictures(notebook), 3)
    self.assertGreater(_last_psnr(notebook), _PSNR)
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
    self.assertEqual(_sources(executed), _sources(committed))
    self.assertEqual(_num_pictures(executed), _num_pictures(committed))
    self.assertNotIn('Warning', _text(executed))
    self.assertGreater(_last_psnr(executed), _PSNR)
    # What is shown is what this code does, but for another machine's rounding.
    self.assertAlmostEqual(
      _last_psnr(executed), _last_psnr(committed), delta=1.0
    )
