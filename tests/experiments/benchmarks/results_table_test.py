import json
import pathlib

import chex

from experiments.benchmarks import results_table

_CONTENT = {
  'psnr': 21.336,
  'ssim': 0.5494,
  'lpips_vgg': 0.1234,
  'background': 'black',
  'views': 3,
  'steps': 8000,
  'train_seconds': 614.4,
  'seconds_per_view': 6.55,
  'rays_per_second': 7535,
  'date': '2026-11-23T01:17:53+00:00',
  'commit': 'abc1234',
  'data_dir': '/home/someone/data',
  'init_from': None,
}
_PAGE = (
  f'Before.\n\n{results_table._BEGIN}\nold\n{results_table._END}\n\nAfter.\n'
)


class ResultsTableTest(chex.TestCase):
  def _store(self, **changes):
    folder = pathlib.Path(self.create_tempdir().full_path)
    run = folder / 'runs' / 'laptop_fern'
    run.mkdir(parents=True)
    (run / 'results.json').write_text(json.dumps(_CONTENT | changes))
    results_table.store(run, folder / 'store')
    return folder / 'store'

  def test_a_run_is_stored_without_paths(self):
    stored = results_table.read(self._store())
    expected = {k: v for k, v in _CONTENT.items() if 'dir' not in k}
    expected.pop('init_from')
    self.assertEqual(stored, {'laptop_fern': expected})

  def test_the_table(self):
    columns = (
      'run',
      'PSNR, dB',
      'SSIM',
      'LPIPS VGG',
      'LPIPS Alex',
      'on',
      'steps',
      'process, s',
      'steps, s',
      'date (UTC)',
      'commit',
    )
    stored = results_table.read(self._store(ssim=None, step_seconds=501.3))
    text = results_table.rebuild(_PAGE, stored, columns)
    self.assertStartsWith(text, 'Before.\n')
    self.assertEndsWith(text, '\n\nAfter.\n')
    self.assertNotIn('old', text)
    self.assertIn(
      '| `laptop_fern` | 21.34 |  | 0.123 |  | black | 8000 | 614 | 501 | '
      '2026-11-23 01:17 | `abc1234` |\n',
      text,
    )
    self.assertEqual(results_table.rebuild(text, stored, columns), text)

  def test_a_run_that_did_not_measure_its_steps(self):
    columns = ('process, s', 'steps, s')
    rows = results_table.make_table(results_table.read(self._store()), columns)
    self.assertEqual(rows[-1], '| 614 | \N{EN DASH} |')

  def test_what_is_no_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    with self.assertRaisesRegex(ValueError, 'run: .*results.json was not wri'):
      results_table.store(folder, folder / 'store')
    (folder / 'results.json').write_text('{"psnr": 20.0}')
    with self.assertRaisesRegex(ValueError, 'run: .*results.json was not wri'):
      results_table.store(folder, folder / 'store')
    self.assertFalse((folder / 'store').exists())
    with self.assertRaisesRegex(ValueError, 'has no lines'):
      results_table.rebuild('no marks', {}, ('run',))

  def test_the_pages_show_what_is_stored(self):
    stored = results_table.read(results_table.STORE)
    self.assertNotEmpty(stored)
    for path, columns in results_table._PAGES.items():
      text = path.read_text('utf-8')
      self.assertEqual(results_table.rebuild(text, stored, columns), text)
