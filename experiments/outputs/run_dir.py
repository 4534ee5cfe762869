"""The folder of a run: what lies where, and whose it is."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import ml_collections

from experiments.configs import default, schema
from experiments.outputs import json_files
from nerf_haiku import checkpoints

try:
  import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there.
  fcntl = None  # type: ignore[assignment]

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
RESULTS = 'results.json'
VIEWS = 'test'
VIDEO = 'video'
LOG = 'log.txt'
IDENTITY = 'render.json'  # What a folder of pictures is of.
TENSORBOARD = 'tensorboard'
LOCK = '.lock'  # Held by the process that trains.

# What may differ when a run goes on: fields that say how long, how often or
# where, and none that changes what is learnt.
MAY_CHANGE = (
  'num_steps',
  'i_print',
  'i_img',
  'i_weights',
  'i_testset',
  'i_video',
  'render_only',
  'render_test',
  'render_factor',
  'num_poses',
  'chunk',
  'microbatch',
  'remat',
  'data_dir',
)


def run_settings(
  config: ml_collections.ConfigDict,
  *,
  seed: int,
  data_dir: str | None,
  init_from: str | None,
) -> dict[str, Any]:
  """What makes a run what it is, as JSON holds it."""
  return json_files.to_json_types(
    {
      'seed': seed,
      'data_dir': _resolved(data_dir),
      'init_from': _resolved(init_from),
      'config': dict(schema.flatten(config)),
    }
  )


def _resolved(path: str | None) -> str | None:
  return path and str(pathlib.Path(path).expanduser().resolve())


def check_run_dir(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes sure that a folder is free, or holds a run of these settings.

  Raises:
    ValueError: names what differs.
  """
  if not (model_dir / CONFIG).exists():
    return
  there = json_files.read_json(model_dir / CONFIG, *settings)
  with checkpoints.Checkpoints(model_dir / CHECKPOINTS) as kept:
    begun = bool(kept.steps())
  if not begun and not (model_dir / RESULTS).exists():
    return  # Stopped before there was anything to keep.
  # Of a field that is newer than the run, the run had the default.
  known = json_files.to_json_types(dict(schema.flatten(default.get_config())))
  there = there | {'config': known | there['config']}
  differing = _differences(there, settings)
  if differing:
    raise ValueError(
      f'--model_dir: {model_dir} holds another run ({differing}). Choose '
      'another folder.'
    )


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
  """What two settings differ in, for the user; fields of the config too."""
  old, new = ({**x, **x['config'], 'config': 0} for x in (there, here))
  return '; '.join(
    f'{name} is {old.get(name)!r} there, {new.get(name)!r} here'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and name not in MAY_CHANGE
  )


def prepare_output_dir(
  where: pathlib.Path, identity: dict[str, Any], *, replace: bool = False
) -> None:
  """Makes a folder for what is drawn of a run, or sees that it is that.

  Args:
    where: the folder.
    identity: what the pictures depend on, with the fields of a config as
      `config`; plain values.
    replace: whether one with pictures of something else is emptied.

  Raises:
    ValueError: if it can not be written, or holds something else.
  """
  mark = where / IDENTITY
  if mark.exists():
    there = json_files.read_json(mark, 'config', option='--save_dir')
    differing = _differences(there, identity)
    if not differing:
      return
    if not replace:
      raise ValueError(
        f'--save_dir: {where} holds pictures of something else ({differing}). '
        'Choose another folder, or delete it.'
      )
    # First out of the way in one go: half of it would be refused next time.
    old = where.with_name(f'.{where.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    where.rename(old)
    shutil.rmtree(old)
  try:
    where.mkdir(parents=True, exist_ok=True)
    if any(not path.name.startswith('.') for path in where.iterdir()):
      raise ValueError(
        f'--save_dir: {where} holds files, and no {IDENTITY} that says of '
        'what. Choose another folder.'
      )
    json_files.write_json(mark, identity)
  except OSError as error:
    raise ValueError(
      f'--save_dir: {where} can not be written ({error.strerror}). Choose '
      'another folder.'
    ) from error


@contextlib.contextmanager
def prepare_run_dir(
  model_dir: pathlib.Path, settings: dict[str, Any]
) -> Iterator[None]:
  """Makes the folder of a run, writes its settings there, and holds it.

  Raises:
    ValueError: if nothing can be written there, or another process holds it.
  """
  with contextlib.ExitStack() as held:
    try:
      model_dir.mkdir(parents=True, exist_ok=True)
      held.enter_context(locked(model_dir))
      json_files.write_json(model_dir / CONFIG, settings)
    except OSError as error:
      raise ValueError(
        f'--model_dir: {model_dir} can not be written ({error.strerror}). '
        'Choose another folder.'
      ) from error
    yield


def check_not_locked(model_dir: pathlib.Path) -> None:
  """Sees early, before data are loaded, that nobody trains in a folder.

  Raises:
    ValueError: if another process does.
  """
  if (model_dir / LOCK).exists():
    # What can not be written is told by `prepare_run_dir`.
    with contextlib.suppress(OSError), locked(model_dir):
      pass


@contextlib.contextmanager
def locked(model_dir: pathlib.Path) -> Iterator[None]:
  """A context in which no other process trains in a folder.

  The system releases the lock when a process ends, however it does. Over NFS
  it holds for all hosts, if the server has locks; where a file system has none,
  nothing is noticed.

  Raises:
    ValueError: if another process holds it.
    OSError: if the folder can not be written.
  """
  with (model_dir / LOCK).open('a') as file:
    try:
      if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(
        f'--model_dir: another process trains in {model_dir}. Wait for it, or '
        'choose another folder.'
      ) from error
    except OSError:
      pass  # The file system has no locks.
    yield


def read_finished(
  model_dir: pathlib.Path, num_steps: int
) -> dict[str, Any] | None:
  """The results of a run that has done so many steps, if there are any."""
  if not (model_dir / RESULTS).exists():
    return None
  content = json_files.read_json(
    model_dir / RESULTS,
    'psnr',
    'steps',
    cure='Delete it: the same command scores the run again.',
  )
  return content if content['steps'] >= num_steps else None
