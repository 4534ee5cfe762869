"""Trains a NeRF, renders its test views and scores them.

With no flag it learns the built-in scene:

  python experiments/train.py

On Blender's lego, with the paper's settings:

  python experiments/train.py --data_dir=data \
      --config=experiments/configs/paper_blender_lego.py --model_dir=runs/lego

The same command goes on with a run that was stopped.
"""

import time

_START = time.perf_counter()  # Imports take seconds too.

import io
import math
import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from experiments import config as config_lib
from experiments import dry_run, folder, loop, process, signals

_QUICKSTART = pathlib.Path(__file__).parent / 'configs' / 'quickstart.py'

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Settings; --config.field=value changes one. Default: the quickstart.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Root of the data set, or the folder of the scene.'
)
_MODEL_DIR = flags.DEFINE_string(
  'model_dir', None, 'Where the run is kept; default: runs/NAME_OF_CONFIG.'
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Of everything random.', lower_bound=0, upper_bound=2**31 - 1
)
_INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'Folder of a run whose weights this one begins with.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Load, check, tell what the run would be, and stop.'
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Profile five steps, for TensorBoard or Perfetto.'
)
_CACHE = flags.DEFINE_string(
  'compilation_cache', process.default_cache(),
  "Folder of compiled functions, for the next run; '' for none.",
)  # fmt: skip


def main(argv: list[str]) -> None:
  """Checks the flags, trains, and says where the results lie."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
  if not flags.FLAGS['verbosity'].present:
    process.quiet_libraries()
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(line_buffering=True)  # Also into a pipe or a log.
  process.keep_freed_memory()
  process.keep_compiled(_CACHE.value)
  try:
    run(config_path())
  except signals.StoppedError as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
  except (ValueError, OSError) as error:
    if logging.level_info():  # With --verbosity=0: where it comes from.
      raise
    sys.exit(f'Error: {error}')
  except KeyboardInterrupt:
    print('Interrupted.', file=sys.stderr)
    sys.exit(130)  # As shells say it.


def run(path: pathlib.Path) -> None:
  """Does what the flags ask for, with the config of this file."""
  model_dir = pathlib.Path(_MODEL_DIR.value or f'runs/{path.stem}')
  model_dir = model_dir.expanduser()
  config_lib.check(_CONFIG.value, jax.local_device_count())
  if _DRY_RUN.value:
    print(dry_run.describe(_CONFIG.value, _DATA_DIR.value, _SEED.value))
    return
  content = loop.train(
    _CONFIG.value,
    data_dir=_DATA_DIR.value,
    model_dir=model_dir,
    seed=_SEED.value,
    start=_START,
    init_from=_INIT_FROM.value,
    profiled=_PROFILE.value,
  )
  psnr = content['psnr']
  print(
    f'PSNR {math.inf if psnr is None else psnr:.2f} dB over '
    f'{content["views"]} test views after {content["train_seconds"]:.0f} s of '
    f'training: {model_dir / folder.RESULTS}, picture: '
    f'{model_dir / folder.VIEWS / "overview.png"}'
  )


def config_path() -> pathlib.Path:
  """The file that `--config` names.

  Raises:
    ValueError: if there is none.
  """
  path = config_flags.get_config_filename(flags.FLAGS[_CONFIG.name])
  path = path.partition(':')[0]  # What follows is for get_config.
  if not pathlib.Path(path).is_file():
    raise ValueError(f'--config: there is no file {path}.')
  return pathlib.Path(path)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; an unknown field of the config is one line, no traceback."""
  sys.argv = config_first(argv)  # Where config_flags looks for fields.
  try:
    return flags.FLAGS(sys.argv)
  except flags.Error as error:
    # Of an error inside a config's file the last line says what it is.
    sys.exit(f'Error: {str(error).strip().splitlines()[-1]}')
  except AttributeError as error:
    cause = error.args[0]
    text = cause.args[0] if isinstance(cause, Exception) else cause
    text = str(text).replace('\n', '. ')
    if 'get_config' in text:
      sys.exit('Error: --config: the file defines no get_config().')
    sys.exit(f'Error: --config: there is no field {text}')


def config_first(argv: list[str]) -> list[str]:
  """Puts `--config` before its fields, and the quickstart where it is not."""
  for i, argument in enumerate(argv[1:], start=1):
    if argument.lstrip('-').split('=')[0] == 'config':
      end = i + (1 if '=' in argument else 2)
      return [argv[0], *argv[i:end], *argv[1:i], *argv[end:]]
  # A default in the flag's definition would be read, and fail, too early.
  return [argv[0], f'--config={_QUICKSTART}', *argv[1:]]


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
