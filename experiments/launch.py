"""What the programs share: flags, the start of the process, errors."""

import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import ml_collections
from absl import app, flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path as config_path_lib

from experiments.configs import (
  config_file,
  default,
  reference,
  renamed_fields,
  schema,
)
from experiments.outputs import run_dir, trained_run
from experiments.processes import command_line, environment, multihost, signals
from nerf_haiku import devices, errors
from nerf_haiku.io import safe_reading

CONFIGS = pathlib.Path(__file__).parent / 'configs'

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

_REFERENCE = str(CONFIGS / 'reference.py')

# Maps --model_dir, if it is given, to the config of a command line that names
# none.
DefaultConfig = Callable[[str | None], str]


def run(task: Callable[[], None], default_config: DefaultConfig) -> None:
  """Runs a program; an error that the user can fix is printed as one line."""

  def main(argv: list[str]) -> None:
    del argv
    if not flags.FLAGS['verbosity'].present:
      environment.quiet_libraries()
    environment.mend_atomics()
    no_cache = environment.set_compilation_cache(_CACHE.value)
    try:
      signals.raise_on_signals()
      old_names = _rename_fields()
      multihost.initialize(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_INDEX.value
      )
      multihost.check_same(_shared_settings())
      if devices.are_cpus():
        environment.retain_freed_memory()
      precision = CONFIG.value.get('matmul_precision')
      if precision in schema.PRECISIONS:  # Else `schema.check` says so.
        environment.set_matmul_precision(precision)
      if multihost.is_main():
        unused = environment.describe_unused_gpu()
        for notice in (no_cache, unused, *_config_notices(old_names)):
          if notice:
            print(notice, file=sys.stderr)
      task()
    except signals.StoppedError as stopped:
      if multihost.is_main():
        print(stopped, file=sys.stderr)
      multihost.exit_process(stopped.exit_code)
      sys.exit(stopped.exit_code)
    except (*command_line.USER_ERRORS, BrokenPipeError) as error:
      multihost.wait_for_failed_process(error)
      print(f'Error: {command_line.in_one_line(error)}', file=sys.stderr)
      multihost.exit_process(1, str(error))
      sys.exit(1)
    except KeyboardInterrupt as error:
      _exit_interrupted(error)
    except Exception as error:
      try:
        signals.raise_if_interrupted()
      except KeyboardInterrupt as interrupt:  # A library made it the error.
        _exit_interrupted(interrupt)
      multihost.exit_with_traceback(error)
      raise
    signals.exit_on_interrupt()
    multihost.exit_process(0)

  command_line.make_outputs_safe()
  app.run(main, flags_parser=lambda argv: _parse(argv, default_config))


def _exit_interrupted(error: KeyboardInterrupt) -> NoReturn:
  """Ends the process after Ctrl-C or SIGTERM, with the exit code of shells."""
  signals.exit_on_interrupt()  # Nothing is left to be done.
  print('Interrupted. Run the same command to resume.', file=sys.stderr)
  terminated = isinstance(error, signals.TerminatedError)
  code = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
  multihost.exit_process(code, 'interrupted')
  sys.exit(code)


def _rename_fields() -> list[str]:
  """Gives the config's fields their new names; returns the old ones used.

  Raises:
    UserError: if a field is given by both of its names.
  """
  overrides = config_flags.get_override_values(flags.FLAGS[CONFIG.name])
  renamed_fields.check_not_both(overrides, '--config.')
  return renamed_fields.rename_in_place(CONFIG.value)


def _config_notices(old_names: list[str]) -> list[str]:
  """Returns what the user should know of the config file."""
  config = config_flags.get_config_filename(flags.FLAGS[CONFIG.name])
  file, argument = config_file.split(config)
  notices = [renamed_fields.describe(old_names)] if old_names else []
  if file == _REFERENCE and argument is not None:
    notices += reference.read(argument).notices
  return notices


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
  return safe_reading.expand_user(MODEL_DIR.value)


def load_trained_run(
  step: int | None, *, images: bool = True, path: bool = True
) -> trained_run.TrainedRun:
  """Loads the run that the flags name.

  Args:
    step: of the checkpoint; None: the latest.
    images: whether the photographs are needed.
    path: whether the scene's own path is needed.

  Raises:
    UserError: if the config, the run or the data cannot be used.
  """
  schema.check(CONFIG.value, num_devices=1)  # No batch is divided.
  return trained_run.load(
    CONFIG.value,
    data_dir=DATA_DIR.value,
    model_dir=model_dir(),
    step=step,
    images=images,
    path=path,
  )


def config_path() -> pathlib.Path:
  """Returns the config file that is used, by flag or by default."""
  config = config_flags.get_config_filename(flags.FLAGS[CONFIG.name])
  return pathlib.Path(config_file.split(config)[0])


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
  if not os.path.isdir(os.path.expanduser(folder)):
    raise errors.UserError(f'--model_dir: there is no folder {folder}.')
  return f'{CONFIGS / "saved.py"}:{folder}/{run_dir.CONFIG}'


class _Loaded(flags.ArgumentParser):
  """Gives config_flags a config that is already loaded."""

  def __init__(self, config: ml_collections.ConfigDict):
    self._config = config

  def parse(self, argument: str) -> ml_collections.ConfigDict:
    """Returns the config; `argument` is its file."""
    del argument
    return self._config


def _parse(argv: list[str], default_config: DefaultConfig) -> list[str]:
  """Parses flags; a wrong flag or config field is printed as one line."""
  try:
    config, others = _find_config(argv, default_config)
    if config is not None:
      loaded = config_file.load(config)
      _check_field_names(others, loaded)
      flags.FLAGS[CONFIG.name].parser = _Loaded(loaded)
      # config_flags looks for its fields there, after the config.
      others = [others[0], f'--{CONFIG.name}={config}', *others[1:]]
    sys.argv = others
  except (errors.UserError, flags.Error) as error:
    sys.exit(f'Error: {command_line.in_one_line(error)}')
  try:
    remaining = flags.FLAGS(sys.argv)
    command_line.check_text_flags()
  except flags.UnrecognizedFlagError as error:
    sys.exit(f'Error: {_describe_unknown_flag(error)}')
  except (errors.UserError, flags.Error) as error:
    sys.exit(f'Error: {command_line.in_one_line(error)}')
  except Exception as error:
    if not _is_field_lookup(error):
      raise
    cause = error.args[0] if isinstance(error.args[0], KeyError) else error
    text = cause.args[0] if isinstance(cause, KeyError) else f'there ({cause})'
    sys.exit(
      f'Error: --config: there is no field {command_line.in_one_line(text)}'
    )
  if len(remaining) > 1:
    sys.exit(f'Error: {command_line.describe_unexpected(remaining[1])}')
  return remaining


def _is_field_lookup(error: Exception) -> bool:
  """Returns whether the error is of config_flags, which looked for a field."""
  frames = traceback.extract_tb(error.__traceback__)
  return any(frame.filename == config_path_lib.__file__ for frame in frames)


def _describe_unknown_flag(error: flags.UnrecognizedFlagError) -> str:
  """Returns an error, with the name that the user may have meant."""
  name, value = error.flagname, str(error.flagvalue).partition('=')[2]
  if name in reference.OPTIONS:
    return reference.describe(name)
  fields = [x for x, _ in schema.flatten(default.get_config())]
  for wanted, text in ((name, value), (name.removeprefix('no'), 'False')):
    meant = [
      f'--config.{field}={text or "VALUE"}'
      for field in (*fields, *renamed_fields.NEW_NAMES)
      if wanted in (field, field.rpartition('.')[2])
    ]
    if meant:
      return (
        f'--{name} is no flag, but a field of the config: write '
        f'{" or ".join(meant)}.'
      )
  text = command_line.in_one_line(error).rstrip(' ?.')
  return f'{text}. Fields of the config are written --config.FIELD=VALUE.'


def _check_field_names(
  arguments: list[str], config: ml_collections.ConfigDict
) -> None:
  """Checks the names of fields, of which config_flags evaluates more.

  Raises:
    UserError: names one that cannot be a field, or says what it is called here.
  """
  for argument in arguments:
    match = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if match and not re.fullmatch(r'\w+(\.\w+)*', match[1]):
      raise errors.UserError(
        f'--config.{match[1]}: there is no such field; fields are written '
        '--config.num_rand or --config.emb.multires.'
      )
    if match and match[1] in reference.OPTIONS and match[1] not in config:
      raise errors.UserError(reference.describe(match[1]))


def _find_config(
  argv: list[str], default_config: DefaultConfig
) -> tuple[str | None, list[str]]:
  """Finds the value of `--config`; sets the defaults of flags that it has.

  Returns:
    The config, and the arguments without it. None if only help is wanted.

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
      return None, argv
    config = default_config(early.model_dir)
  file, _ = config_file.split(config)
  if not os.path.isfile(file):
    raise errors.UserError(f'--config: there is no file {file}.')
  if reference.is_file_of_options(config):
    for name, value in reference.read(config).flags.items():
      if name in flags.FLAGS:  # Not all programs have all.
        flags.FLAGS.set_default(name, value)
    config = f'{_REFERENCE}:{config}'
  return config, [program, *others]
