"""What the programs share: flags, the start of the process, errors."""

import io
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path as config_path_lib

from experiments.configs import renamed_fields, schema
from experiments.outputs import run_dir, trained_run
from experiments.processes import environment, multihost, signals
from nerf_haiku import errors

CONFIGS = pathlib.Path(__file__).parent / 'configs'

# What a user can fix: printed as one line. All else keeps its traceback.
USER_ERRORS = (errors.UserError, errors.WriteError)

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file; --config.field=value overrides a field of it.'
)
DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Root folder of the data set, or the folder of the scene.'
)
MODEL_DIR = flags.DEFINE_string('model_dir', None, 'Folder of the run.')
_CACHE = flags.DEFINE_string(
  'compilation_cache',
  environment.default_cache(),
  "Folder that caches compiled functions between runs; '' disables it.",
)

_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'Address (host:port) of process 0, where it waits for the others; only for '
  'a run of several processes.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes.'
)
_PROCESS_INDEX = flags.DEFINE_integer(
  'process_index', None, 'Index of this process, from 0.'
)

# How config_flags begins the message of an error that a config file raised.
_IN_CONFIG_FILE = 'Error whilst parsing config file'

# Maps --model_dir, if it is given, to the config of a command line that names
# none.
DefaultConfig = Callable[[str | None], str]


def run(task: Callable[[], None], default_config: DefaultConfig) -> None:
  """Runs a program; an error that the user can fix is printed as one line."""

  def main(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
    if not flags.FLAGS['verbosity'].present:
      environment.quiet_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
      sys.stdout.reconfigure(line_buffering=True)  # Also into a pipe or a log.
    environment.retain_freed_memory()
    no_cache = environment.set_compilation_cache(_CACHE.value)
    try:
      signals.raise_on_sigterm()
      old_names = _rename_fields()
      multihost.initialize(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_INDEX.value
      )
      multihost.check_same(_shared_settings())
      if no_cache and multihost.is_main():
        print(no_cache, file=sys.stderr)
      if old_names and multihost.is_main():
        print(renamed_fields.describe(old_names), file=sys.stderr)
      task()
    except signals.StoppedError as stopped:
      if multihost.is_main():
        print(stopped, file=sys.stderr)
      multihost.exit_process(stopped.exit_code)
      sys.exit(stopped.exit_code)
    except (*USER_ERRORS, BrokenPipeError) as error:
      multihost.wait_for_failed_process(error)
      print(f'Error: {error}', file=sys.stderr)
      multihost.exit_process(1, str(error))
      sys.exit(1)
    except KeyboardInterrupt as error:
      text = 'Interrupted. Run the same command to resume.'
      print(text, file=sys.stderr)
      # The exit codes of shells.
      terminated = isinstance(error, signals.TerminatedError)
      code = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
      multihost.exit_process(code, 'interrupted')
      sys.exit(code)
    except Exception as error:
      multihost.exit_with_traceback(error)
      raise
    multihost.exit_process(0)

  app.run(main, flags_parser=lambda argv: _parse(argv, default_config))


def _rename_fields() -> list[str]:
  """Gives the config's fields their new names; returns the old ones used.

  Raises:
    UserError: if a field is given by both of its names.
  """
  overrides = config_flags.get_override_values(flags.FLAGS[CONFIG.name])
  renamed_fields.check_not_both(overrides, '--config.')
  return renamed_fields.rename_in_place(CONFIG.value)


def _shared_settings() -> dict[str, Any]:
  """Returns the settings that must be the same in all processes."""
  given = flags.FLAGS.flag_values_dict()
  fields = schema.flatten(CONFIG.value, 'config.')
  return dict(fields) | {
    f'--{x}': given[x] for x in ('seed', 'dry_run') if x in given
  }


def model_dir() -> pathlib.Path:
  """Returns the folder that `--model_dir` names.

  Raises:
    UserError: if it is not given.
  """
  if MODEL_DIR.value is None:
    raise errors.UserError('--model_dir is required: the folder of a run.')
  return pathlib.Path(MODEL_DIR.value).expanduser()


def load_trained_run(step: int | None) -> trained_run.TrainedRun:
  """Loads the run that the flags name.

  Args:
    step: of the checkpoint; None: the latest.

  Raises:
    UserError: if the config, the run or the data cannot be used.
  """
  schema.check(CONFIG.value, num_devices=1)  # No batch is divided.
  return trained_run.load(
    CONFIG.value, data_dir=DATA_DIR.value, model_dir=model_dir(), step=step
  )


def config_path() -> pathlib.Path:
  """Returns the config file that is used, by flag or by default."""
  path = config_flags.get_config_filename(flags.FLAGS[CONFIG.name])
  return _file_of(path)


def _file_of(config: str) -> pathlib.Path:
  """Returns the file of a config that may be given as `file:argument`."""
  return pathlib.Path(config.partition(':')[0])


def quickstart_config(folder: str | None) -> str:
  """Returns the default config of programs that need no run."""
  del folder
  return str(CONFIGS / 'quickstart.py')


def saved_config(folder: str | None) -> str:
  """Returns the config of the run in `--model_dir`.

  Raises:
    UserError: if there is no such folder.
  """
  if folder is None:
    raise errors.UserError('--model_dir is required: the folder of a run.')
  if not pathlib.Path(folder).expanduser().is_dir():
    raise errors.UserError(f'--model_dir: there is no folder {folder}.')
  return f'{CONFIGS / "saved.py"}:{folder}/{run_dir.CONFIG}'


def _parse(argv: list[str], default_config: DefaultConfig) -> list[str]:
  """Parses flags; a wrong flag or config field is printed as one line."""
  try:
    # config_flags, too, looks for the fields of the config there.
    sys.argv = _with_config_first(argv, default_config)
    return flags.FLAGS(sys.argv)
  except (errors.UserError, flags.Error) as error:
    cause = _user_error(error)
    if cause is None and _IN_CONFIG_FILE in str(error):
      raise  # A bug in that file.
    sys.exit(f'Error: {cause or error}')
  except (AttributeError, KeyError) as error:
    if _is_field_lookup(error):
      key_error = error.args[0] if isinstance(error, AttributeError) else error
      text = str(key_error.args[0]).replace('\n', '. ')
      sys.exit(f'Error: --config: there is no field {text}')
    if "no attribute 'get_config'" in str(error):
      sys.exit('Error: --config: the file defines no get_config().')
    raise


def _is_field_lookup(error: Exception) -> bool:
  """Returns whether config_flags, and no config file, looked for a field."""
  frames = traceback.extract_tb(error.__traceback__)
  return any(frame.filename == config_path_lib.__file__ for frame in frames)


def _user_error(error: BaseException | None) -> errors.UserError | None:
  """Returns the user error that led to an error, if there is one.

  config_flags wraps the error of a config file in one of the same type, with a
  traceback in its message, and absl wraps that.
  """
  while error is not None:
    wrapped = str(error).startswith(_IN_CONFIG_FILE)
    if isinstance(error, errors.UserError) and not wrapped:
      return error
    error = error.__context__
  return None


def _with_config_first(
  argv: list[str], default_config: DefaultConfig
) -> list[str]:
  """Puts `--config` before its fields, as config_flags needs it.

  Raises:
    flags.Error: if `--config` or `--model_dir` has no value.
    UserError: if there is no such file, or no default.
  """
  early = flags.FlagValues()
  early.set_gnu_getopt(True)  # Looks behind what it does not know.
  for name in ('config', 'model_dir'):
    flags.DEFINE_string(name, None, '', flag_values=early)
  program, *others = early(argv, known_only=True)
  if early.model_dir is not None:
    others.insert(0, f'--model_dir={early.model_dir}')
  config = early.config
  if config is None:
    if {'--help', '-h', '--helpfull', '--helpshort'} & set(argv):
      return argv
    config = default_config(early.model_dir)
  if not _file_of(config).is_file():
    raise errors.UserError(f'--config: there is no file {_file_of(config)}.')
  return [program, f'--config={config}', *others]
