"""Rebuilds the tables of results in README.md and docs/results.md.

  python experiments/benchmarks/results_table.py
  python experiments/benchmarks/results_table.py runs/laptop_llff_fern

The first command rebuilds the tables only, the second stores a run before.

`docs/results/` stores the `results.json` of runs, without the paths of the
machine. Each file is named after the run's folder, which is named after its
config.
"""

import json
import pathlib
import sys
from typing import Any

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.outputs import json_files, run_dir
from nerf_haiku import errors

_ROOT = pathlib.Path(__file__).parents[2]
STORE = _ROOT / 'docs' / 'results'
# Files with a table, and its columns.
_PAGES = {
  _ROOT / 'README.md': (
    'run',
    'PSNR, dB',
    'SSIM',
    'views',
    'process, s',
    'steps, s',
  ),
  _ROOT / 'docs' / 'results.md': (
    'run',
    'PSNR, dB',
    'SSIM',
    'LPIPS VGG',
    'LPIPS Alex',
    'on',
    'views',
    'steps',
    'process, s',
    'steps, s',
    'a view, s',
    'rays/s',
    'date (UTC)',
    'commit',
  ),
}
_BEGIN, _END = '<!-- results: begin -->', '<!-- results: end -->'
_UNKNOWN = '\N{EN DASH}'  # Older runs did not measure it.
_FIELDS = ('psnr', 'background', 'views', 'steps', 'date', 'commit')
_PATHS = ('data_dir', 'init_from')  # They are not stored.


def main(runs: list[str]) -> None:
  """Stores the results of runs, and rebuilds the tables."""
  for run in runs:
    store(pathlib.Path(run), STORE)
  for path, columns in _PAGES.items():
    text = rebuild(path.read_text('utf-8'), read(STORE), columns)
    path.write_text(text, 'utf-8')
    print(f'{path.relative_to(_ROOT)}: {len(read(STORE))} runs')


def store(run: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies the results of a run to a folder, without paths of the machine.

  Raises:
    UserError: if the run has no results.
  """
  content = json_files.read_json(run / run_dir.RESULTS, *_FIELDS, option='run')
  content = {name: x for name, x in content.items() if name not in _PATHS}
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps(content, indent=1)
  (folder / f'{run.resolve().name}.json').write_text(f'{text}\n', 'utf-8')


def read(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Reads the stored results, sorted by the names of their runs."""
  return {
    path.stem: json_files.read_json(path, *_FIELDS, option='results')
    for path in sorted(folder.glob('*.json'))
  }


def rebuild(
  text: str, stored: dict[str, dict[str, Any]], columns: tuple[str, ...]
) -> str:
  """Returns a page with a new table between the two marker lines.

  Raises:
    UserError: if the page has no such lines.
  """
  before, _, rest = text.partition(_BEGIN)
  _, mark, after = rest.partition(_END)
  if not mark:
    raise errors.UserError(f'the page has no lines {_BEGIN} and {_END}.')
  table = '\n'.join(make_table(stored, columns))
  return f'{before}{_BEGIN}\n{table}\n{_END}{after}'


def make_table(
  stored: dict[str, dict[str, Any]], columns: tuple[str, ...]
) -> list[str]:
  """Returns the lines of a Markdown table with a row for each run."""
  rows = [columns, ('---',) * len(columns)]
  for name, content in stored.items():
    cells = _cells(name, content)
    rows.append(tuple(cells[column] for column in columns))
  return [f'| {" | ".join(row)} |' for row in rows]


def _cells(name: str, content: dict[str, Any]) -> dict[str, str]:
  """Returns the text of a run in each column."""

  def number(field: str, digits: int) -> str:
    value = content.get(field)
    return '' if value is None else f'{value:.{digits}f}'

  return {
    'run': f'`{name}`',
    'PSNR, dB': number('psnr', 2),
    'SSIM': number('ssim', 3),
    'LPIPS VGG': number('lpips_vgg', 3),
    'LPIPS Alex': number('lpips_alex', 3),
    'on': content['background'],
    'views': str(content['views']),
    'steps': str(content['steps']),
    'process, s': number('train_seconds', 0),
    'steps, s': number('step_seconds', 0) or _UNKNOWN,
    'a view, s': number('seconds_per_view', 2),
    'rays/s': number('rays_per_second', 0),
    'date (UTC)': content['date'][:16].replace('T', ' '),
    'commit': f'`{content["commit"]}`' if content['commit'] else '',
  }


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except errors.UserError as error:
    sys.exit(f'Error: {error}')
