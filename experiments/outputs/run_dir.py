"""The folder of a run: its files, its settings and its lock."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from experiments.configs import default, renamed_fields, schema
from experiments.outputs import json_files
from experiments.processes import locks
from nerf_haiku import checkpoints, errors, models
from nerf_haiku.io import messages, safe_reading

CONFIG = 'config.json'
CHECKPOINTS = models.CHECKPOINTS
RESULTS = 'results.json'
VIEWS = 'test'
REFINED = 'cameras_refined.json'  # The training cameras, at the end.
VIDEO = 'video'
LOG = 'log.txt'
DIGEST = 'train_sha256'  # In the config: of the training views.
DRAWN_ON = 'drawn_on'  # In the config: see `builders.inputs`.
IDENTITY = 'render.json'  # Of a folder of pictures: what they depend on.
TENSORBOARD = 'tensorboard'
LOCK = '.lock'  # Held by the training process.
# As long as the path of any file below the folder of checkpoints.
_PROBE = f'.{"x" * 160}'

# Settings that may differ when a run resumes: how long, how often and where,
# none that changes the trained model.
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
  'occupancy.render_substeps',
  'num_poses',
  'video_path',
  'chunk',
  'microbatch',
  'remat',
  'steps_per_call',
  'data_dir',
  DIGEST,  # See `check_data`.
  DRAWN_ON,
)


def run_settings(
  config: ml_collections.ConfigDict,
  *,
  seed: int,
  data_dir: str | None,
  init_from: str | None,
) -> dict[str, Any]:
  """Returns the settings that define a run, as JSON gives them back."""
  return json_files.to_json_types(
    {
      'seed': seed,
      'data_dir': _resolved(data_dir),
      'init_from': _resolved(init_from),
      'config': dict(schema.flatten(config)),
    }
  )


def _resolved(path: str | None) -> str | None:
  return path and str(safe_reading.expand_user(path).resolve())


def check_run_dir(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Checks that a folder is free, or holds a run of the same settings.

  Raises:
    UserError: names the settings that differ, or the folder if its name is not
      valid Unicode.
  """
  try:
    os.fspath(model_dir).encode()
  except UnicodeEncodeError as error:
    raise errors.UserError(
      f'--model_dir: {messages.printable(model_dir)} is no valid text in this '
      'locale, as names of checkpoints must be. Choose another folder, or set '
      'LC_ALL=C.UTF-8.'
    ) from error
  if not os.path.exists(model_dir / CONFIG):  # pathlib's raises for some names.
    return
  existing = json_files.read_json(model_dir / CONFIG, *settings)
  if not _has_checkpoint(model_dir) and not (model_dir / RESULTS).exists():
    return  # Stopped before its first checkpoint.
  differing = _differences(existing, settings)
  if differing:
    raise errors.UserError(
      f'--model_dir: {model_dir} holds another run ({differing}). Choose '
      'another folder.'
    )


def _has_checkpoint(model_dir: pathlib.Path) -> bool:
  with checkpoints.Checkpoints(model_dir / CHECKPOINTS) as saved:
    return bool(saved.steps())


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
  """Describes how settings differ, those of the config included."""
  # What is older than a field had its default.
  defaults = json_files.to_json_types(
    dict(schema.flatten(default.get_config()))
  )
  old, new = (
    {**x, **defaults, **renamed_fields.rename(x['config']), 'config': 0}
    for x in (there, here)
  )
  return '; '.join(
    f'{name} is {old.get(name)!r} there, {new.get(name)!r} here'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and name not in MAY_CHANGE
  )


def check_data(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Checks that a run resumes with the data that it was begun with.

  Args:
    model_dir: the folder of the run.
    settings: those of the run, with the digest of its training views.

  Raises:
    UserError: if the digest differs from that in the folder.
  """
  if not os.path.exists(model_dir / CONFIG):
    return
  existing = json_files.read_json(model_dir / CONFIG)
  # Older runs have none: what they were trained on is not known.
  before, now = existing.get(DIGEST), settings[DIGEST]
  differs = before and now and before != now
  if differs and _has_checkpoint(model_dir):
    raise errors.UserError(
      f'--data_dir: the training views in {settings["data_dir"]} are not those '
      f'that the run in {model_dir} was begun with. Name the folder of those, '
      'or choose another --model_dir.'
    )


def drawn_on(model_dir: pathlib.Path) -> str | None:
  """Returns where a run that resumes has drawn its batches; None: it begins."""
  if not os.path.exists(model_dir / CONFIG) or not _has_checkpoint(model_dir):
    return None
  # Older runs had tf.data alone.
  return str(json_files.read_json(model_dir / CONFIG).get(DRAWN_ON, 'host'))


def prepare_output_dir(
  folder: pathlib.Path,
  identity: dict[str, Any],
  *,
  replace: bool = False,
  older: Mapping[str, Any] | None = None,
) -> None:
  """Makes a folder for pictures of a run, or checks that it is that folder.

  Args:
    folder: the folder.
    identity: the settings that the pictures depend on, as JSON gives them
      back; `config` holds the fields of the config.
    replace: whether a folder with other pictures is emptied.
    older: settings as older versions wrote them, which count as equal.

  Raises:
    UserError: if it cannot be written, or holds something else.
  """
  path = folder / IDENTITY
  if path.exists():
    existing = json_files.read_json(path, 'config', option='--save_dir')
    for name, value in (older or {}).items():
      if existing.get(name) == value:
        existing[name] = identity[name]
    differing = _differences(existing, identity)
    if not differing:
      return
    if not replace:
      raise errors.UserError(
        f'--save_dir: {folder} holds other pictures ({differing}). Choose '
        'another folder, or delete it.'
      )
    # Renamed before it is deleted: after a kill, a folder with half of its
    # files would be refused.
    old = folder.with_name(f'.{folder.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)
  claim_folder(
    folder, IDENTITY, identity, option='--save_dir', what='pictures of a run'
  )


@contextlib.contextmanager
def prepare_run_dir(
  model_dir: pathlib.Path, settings: dict[str, Any]
) -> Iterator[None]:
  """A context in which a run's folder has its settings, and is locked.

  Raises:
    UserError: if it cannot be written, or another process has locked it.
  """
  with contextlib.ExitStack() as stack:
    try:
      model_dir.mkdir(parents=True, exist_ok=True)
      stack.enter_context(locked(model_dir))
      json_files.write_json(model_dir / CONFIG, settings)
      # The end of the run needs them.
      for name in (CHECKPOINTS, VIEWS):
        _try_folder(model_dir / name)
    except OSError as error:
      raise errors.UserError(
        f'--model_dir: {model_dir} cannot be written ({error.strerror}). '
        'Choose another folder.'
      ) from error
    yield


def claim_folder(
  folder: pathlib.Path,
  index: str,
  content: dict[str, Any],
  *,
  option: str,
  what: str,
) -> None:
  """Makes a folder, or takes an empty one, and writes what it will hold.

  Args:
    folder: the folder.
    index: name of the JSON file that says what is in it.
    content: of that file.
    option: the flag that names the folder, for errors.
    what: the folder is to hold, for errors.

  Raises:
    UserError: if it cannot be written, or holds files.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    if any(not file.name.startswith('.') for file in folder.iterdir()):
      raise errors.UserError(
        f'{option}: {folder} holds files but no {index}, so they are not '
        f'{what}. Choose another folder.'
      )
    json_files.write_json(folder / index, content)
  except OSError as error:
    raise errors.UserError(
      f'{option}: {folder} cannot be written ({error.strerror}). Choose '
      'another folder.'
    ) from error


def _try_folder(folder: pathlib.Path) -> None:
  """Writes a file in a folder, and leaves no trace of it.

  Raises:
    UserError: if that is not possible.
  """
  is_new = not folder.exists()
  try:
    folder.mkdir(exist_ok=True)
    probe = folder / _PROBE
    try:
      probe.write_bytes(b'')
    finally:
      probe.unlink(missing_ok=True)
      if is_new:
        folder.rmdir()
  except OSError as error:
    raise errors.UserError(
      f'--model_dir: {folder} cannot be written ({error.strerror}). Remove '
      'what is there, or choose another folder.'
    ) from error


def check_not_locked(model_dir: pathlib.Path) -> None:
  """Checks, before data are loaded, that no process trains in a folder.

  Raises:
    UserError: if another process does.
  """
  if os.path.exists(model_dir / LOCK):
    # `prepare_run_dir` reports a folder that cannot be written.
    with contextlib.suppress(OSError), locked(model_dir):
      pass


def locked(model_dir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """Returns a context in which no other process trains in a folder.

  Raises, on entering it:
    UserError: if another process holds the lock.
    OSError: if the folder cannot be written.
  """
  return locks.locked(
    model_dir / LOCK,
    f'--model_dir: another process trains in {model_dir}. Wait until it ends, '
    'or choose another folder.',
  )


def read_finished(
  model_dir: pathlib.Path, num_steps: int
) -> dict[str, Any] | None:
  """Returns the results of a run, or None if it has done fewer steps."""
  if not os.path.exists(model_dir / RESULTS):
    return None
  content = json_files.read_json(
    model_dir / RESULTS,
    'psnr',
    'steps',
    cure='Delete it, and run the same command to score the run again.',
  )
  return content if content['steps'] >= num_steps else None
