"""Plants faults in the library, one by one, and sees whether a test fails.

    python tests/faults/plant.py                    # All faults.
    python tests/faults/plant.py --only=volume.py   # Those of one file.
    python tests/faults/plant.py --table=docs/testing.md

Each fault is planted in a copy of the checkout. The tests of its own file run
first, then those of the library, then all that are not slow, up to the first
failure. A fault that no test notices survives: it is printed at the end, and
needs a test.
"""

import argparse
import concurrent.futures
import datetime
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_LIST = pathlib.Path(__file__).with_name('faults.txt')
_PACKAGE = 'nerf_haiku'
# Seconds for all tests; a fault that runs longer has made a loop endless.
_LIMIT = 1500.0
_FAILED = re.compile(
  r'^(?:FAILED|ERROR|SUBFAILED\S*) (tests/\S+)', re.MULTILINE
)
_MARK = '<!-- planted faults -->\n'


class Fault(NamedTuple):
  """A change of one line."""

  path: str  # below `nerf_haiku/`.
  effect: str  # what is wrong then.
  before: str  # occurs once in the file.
  after: str


class Result(NamedTuple):
  """What the tests make of a fault."""

  fault: Fault
  caught_by: str | None  # the first test that failed; None: it survived.
  seconds: float


def read_faults() -> list[Fault]:
  """Reads the list of faults."""
  faults = []
  for block in _LIST.read_text(encoding='utf-8').split('\n\n')[1:]:
    title, before, after = block.strip().split('\n')
    path, effect = title.split(': ', 1)
    faults.append(Fault(path, effect, before[2:], after[2:]))
  return faults


def plant(root: pathlib.Path, fault: Fault) -> str:
  """Changes a file below a checkout's root, and returns what it was."""
  path = root / _PACKAGE / fault.path
  source = path.read_text(encoding='utf-8')
  if source.count(fault.before) != 1:
    raise ValueError(f'{fault.path} must have {fault.before!r} once.')
  path.write_text(source.replace(fault.before, fault.after), encoding='utf-8')
  return source


def _copy_checkout(folder: pathlib.Path) -> pathlib.Path:
  """Copies what git knows of, beside a link to the real scenes."""
  names = subprocess.run(
    ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
    cwd=_ROOT,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.splitlines()
  root = folder / 'checkout'
  for name in names:
    if (_ROOT / name).is_file():
      (root / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(_ROOT / name, root / name)
  shared = _ROOT.parent / 'shared'
  if shared.is_dir():
    (folder / 'shared').symlink_to(shared)
  # Some tests ask which commit they run on.
  for args in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'Copy']):
    author = ['-c', 'user.name=none', '-c', 'user.email=none']
    subprocess.run(['git', *author, *args], cwd=root, check=True)
  return root


def _first_failure(root: pathlib.Path, *args: str) -> str | None:
  """Runs tests up to the first failure, and returns its name."""
  options = ['-n0', '-x', '--tb=no', '-p', 'no:cacheprovider', '-rfE']
  # Those of the list of faults fail with each of them.
  options += ['-m', 'not slow', '--ignore=tests/faults']
  process = subprocess.Popen(
    [sys.executable, '-m', 'pytest', *options, *args],
    cwd=root,
    # A file may change twice in a second, the time that bytecode is dated by.
    env=os.environ | {'PYTHONDONTWRITEBYTECODE': '1'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  try:
    output, _ = process.communicate(timeout=_LIMIT)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return 'a test that does not end'
  if process.returncode in (0, 5):  # 5: no test is there.
    return None
  failed = _FAILED.search(output)
  return failed[1] if failed else f'pytest, which ends with:\n{output[-2000:]}'


def _own_tests(root: pathlib.Path, path: str) -> list[str]:
  """Returns the test files that mirror a file of the library."""
  stem = root / 'tests' / _PACKAGE / path.removesuffix('.py')
  mirrors = [stem.with_name(f'{stem.name}_test.py')]
  if '/' in path:  # A whole room.
    mirrors = sorted(stem.parent.glob('*_test.py'))
  return [str(x.relative_to(root)) for x in mirrors if x.is_file()]


def _try_fault(root: pathlib.Path, fault: Fault) -> Result:
  started = time.monotonic()
  source = plant(root, fault)
  try:
    library = f'tests/{_PACKAGE}'
    others = ['tests', f'--ignore={library}']
    stages = [_own_tests(root, fault.path), [library], others]
    failures = (_first_failure(root, *tests) for tests in stages if tests)
    caught_by = next((x for x in failures if x), None)
  finally:
    (root / _PACKAGE / fault.path).write_text(source, encoding='utf-8')
  return Result(fault, caught_by, time.monotonic() - started)


def _try_all(faults: list[Fault], jobs: int) -> list[Result]:
  """Tries faults in so many copies of the checkout at a time."""
  with tempfile.TemporaryDirectory() as temporary:
    roots: queue.Queue[pathlib.Path] = queue.Queue()
    for job in range(jobs):
      roots.put(_copy_checkout(pathlib.Path(temporary) / str(job)))

    def try_one(fault: Fault) -> Result:
      root = roots.get()
      try:
        result = _try_fault(root, fault)
      finally:
        roots.put(root)
      caught_by = result.caught_by or 'SURVIVED'
      print(
        f'{fault.path}: {fault.effect}: {caught_by} ({result.seconds:.0f} s)',
        flush=True,
      )
      return result

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      return list(pool.map(try_one, faults))


def _check_unharmed() -> None:
  """Refuses tests that fail without a fault: they would catch all of them."""
  with tempfile.TemporaryDirectory() as temporary:
    failed = _first_failure(_copy_checkout(pathlib.Path(temporary)))
  if failed:
    raise SystemExit(f'Without any fault this fails: {failed}')


def _table(results: list[Result]) -> str:
  caught = sum(x.caught_by is not None for x in results)
  date = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d')
  lines = [
    f'`python tests/faults/plant.py`, {date}: {caught} of {len(results)} '
    'faults are caught.',
    '',
    '| file | fault | the first test that fails |',
    '|---|---|---|',
  ]
  for fault, caught_by, _ in results:
    name = (caught_by or '**none**').removeprefix('tests/')
    lines.append(f'| `{fault.path}` | {fault.effect} | {name} |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Tries the faults that the command line names."""
  parser = argparse.ArgumentParser(
    description=(__doc__ or '').partition('\n')[0]
  )
  parser.add_argument('--only', default='', help='Part of a path or an effect.')
  parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1)
  parser.add_argument('--table', type=pathlib.Path, help='Page to write to.')
  parser.add_argument('--skip_check', action='store_true')
  flags = parser.parse_args()
  faults = [x for x in read_faults() if flags.only in f'{x.path}: {x.effect}']
  if not flags.skip_check:
    _check_unharmed()
  results = _try_all(faults, flags.jobs)
  survivors = [x.fault for x in results if x.caught_by is None]
  print(f'{len(results) - len(survivors)} of {len(results)} faults are caught.')
  for fault in survivors:
    print(f'Survived: {fault.path}: {fault.effect}')
  if flags.table:
    head, _, _ = flags.table.read_text(encoding='utf-8').partition(_MARK)
    text = head + _MARK + _table(results)
    flags.table.write_text(text, encoding='utf-8')
  raise SystemExit(bool(survivors))


if __name__ == '__main__':
  main()
