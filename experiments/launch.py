"""What the programs share: flags, their errors, the start of the process."""

import io
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.configs import schema
from experiments.outputs import trained_run
from experiments.processes import environment, multihost, signals

CONFIGS = pathlib.Path(__file__).parent / 'configs'

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Settings; --config.field=value changes one.'
)
DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Root of the data set, or the folder of the scene.'
)
MODEL_DIR = flags.DEFINE_string('model_dir', None, 'Where the run is kept.')
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  environment.default_cache(),
  "Folder of compiled functions, for the next run; '' for none.",
)

_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Of many processes: host:port where process 0 waits for the others.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Of many processes: how many there are.'
)
_PROCESS_INDEX = flags.DEFINE_integer(
  'process_index', None, 'Of many processes: which one this is, from 0.'
)

# The config of a command line that names none.
Default = Callable[[list[str]], str]


def run(task: Callable[[], None], default: Default) -> None:
  """Runs a program: what goes wrong for a user's reason is one line."""

  def main(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
    if not flags.FLAGS['verbosity'].present:
      environment.quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
      sys.stdout.reconfigure(line_buffering=True)  # Also into a pipe or a log.
    environment.retain_freed_memory()
    environment.set_compilation_cache(_CACHE.value)
    try:
      signals.raise_on_sigterm()
      config_path()  # One that is not there is told before it is asked for.
      multihost.initialize(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_INDEX.value
      )
      multihost.check_same(_same_everywhere())
      task()
    except signals.StoppedError as stopped:
      if multihost.is_main():
        print(stopped, file=sys.stderr)
      multihost.exit_process(stopped.exit_code)
      sys.exit(stopped.exit_code)
    except (ValueError, OSError) as error:
      # With --verbosity=0: where it comes from.
      if logging.level_info() and not multihost.is_multihost():
        raise
      multihost.wait_for_failed_process(error)
      print(f'Error: {error}', file=sys.stderr)
      multihost.exit_process(1, str(error))
      sys.exit(1)
    except KeyboardInterrupt as error:
      text = 'Interrupted: what was kept is there; the same command goes on.'
      print(text, file=sys.stderr)
      # As shells say it.
      terminated = isinstance(error, signals.TerminatedError)
      code = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
      multihost.exit_process(code, 'interrupted')
      sys.exit(code)
    except Exception as error:
      multihost.exit_with_traceback(error)
      raise
    multihost.exit_process(0)

  app.run(main, flags_parser=lambda argv: _parse(argv, default))


def _same_everywhere() -> dict[str, Any]:
  """What many processes can not differ in."""
  given = flags.FLAGS.flag_values_dict()
  fields = schema.flatten(CONFIG.value, 'config.')
  return dict(fields) | {
    f'--{x}': given[x] for x in ('seed', 'dry_run') if x in given
  }


def model_dir() -> pathlib.Path:
  """The folder of the run that `--model_dir` names.

  Raises:
    ValueError: if it names none.
  """
  if MODEL_DIR.value is None:
    raise ValueError('--model_dir: say which run, by its folder.')
  return pathlib.Path(MODEL_DIR.value).expanduser()


def load_trained_run(step: int | None) -> trained_run.TrainedRun:
  """The run that the flags name, at a step, or at its newest.

  Raises:
    ValueError: if the config, the run or the data can not be used.
  """
  schema.check(CONFIG.value, num_devices=1)  # No batch is divided.
  return trained_run.load(
    CONFIG.value, data_dir=DATA_DIR.value, model_dir=model_dir(), step=step
  )


def config_path() -> pathlib.Path:
  """The file that `--config` names.

  Raises:
    ValueError: if there is none.
  """
  path = config_flags.get_config_filename(flags.FLAGS[CONFIG.name])
  path = path.partition(':')[0]  # What follows is for get_config.
  if not pathlib.Path(path).is_file():
    raise ValueError(f'--config: there is no file {path}.')
  return pathlib.Path(path)


def quickstart(_: list[str]) -> str:
  """The default of what needs no run: the built-in scene."""
  return str(CONFIGS / 'quickstart.py')


def of_the_run(argv: list[str]) -> str:
  """The default of what works on a run: the config it was made with."""
  folder = _argument(argv, 'model_dir')
  if folder is None:
    sys.exit('Error: --model_dir: say which run, by its folder.')
  if not pathlib.Path(folder).expanduser().is_dir():
    sys.exit(f'Error: --model_dir: {folder} is no folder of a run.')
  return f'{CONFIGS / "saved.py"}:{folder}/config.json'


def _parse(argv: list[str], default: Default) -> list[str]:
  """Parses flags; an unknown field of the config is one line, no traceback."""
  sys.argv = _config_first(argv, default)  # Where config_flags looks for it.
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


def _config_first(argv: list[str], default: Default) -> list[str]:
  """Puts `--config` before its fields, and the default where it is not."""
  for i, argument in enumerate(argv[1:], start=1):
    if argument.lstrip('-').split('=')[0] == 'config':
      end = i + (1 if '=' in argument else 2)
      return [argv[0], *argv[i:end], *argv[1:i], *argv[end:]]
  if {'--help', '-h', '--helpfull', '--helpshort'} & set(argv):
    return argv
  # A default in the flag's definition would be read, and fail, too early.
  return [argv[0], f'--config={default(argv)}', *argv[1:]]


def _argument(argv: list[str], name: str) -> str | None:
  """The value of a flag before flags are parsed."""
  for i, argument in enumerate(argv[1:], start=1):
    flag, equals, value = argument.lstrip('-').partition('=')
    if flag == name:
      return value if equals else next(iter(argv[i + 1 :]), None)
  return None
