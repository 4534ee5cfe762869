"""The folder of a run: what lies where, and whose it is."""

import json
import pathlib
import shutil
from typing import Any

import ml_collections

from experiments import config as config_lib
from experiments import results
from experiments.configs import default
from nerf_haiku import checkpoints

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
RESULTS = 'results.json'
VIEWS = 'test'
VIDEO = 'video'
LOG = 'log.txt'
IDENTITY = 'render.json'  # What a folder of pictures is of.
TENSORBOARD = 'tensorboard'

# What may differ when a run goes on: fields that say how long, how often or
# where, and none that changes what is learnt.
MAY_CHANGE = (
  'num_steps', 'i_print', 'i_img', 'i_weights', 'i_testset', 'i_video',
  'render_only', 'render_test', 'render_factor', 'num_poses', 'chunk',
  'microbatch', 'remat', 'data_dir',
)  # fmt: skip


def describe(
  config: ml_collections.ConfigDict,
  *,
  seed: int,
  data_dir: str | None,
  init_from: str | None,
) -> dict[str, Any]:
  """What makes a run what it is, as JSON holds it."""
  return plain({
    'seed': seed,
    'data_dir': _resolved(data_dir),
    'init_from': _resolved(init_from),
    'config': dict(config_lib.flatten(config)),
  })  # fmt: skip


def plain(content: dict[str, Any]) -> dict[str, Any]:
  """Settings as JSON gives them back."""
  return json.loads(json.dumps(content))


def _resolved(path: str | None) -> str | None:
  return path and str(pathlib.Path(path).expanduser().resolve())


def check(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes sure that a folder is free, or holds a run of these settings.

  Raises:
    ValueError: names what differs.
  """
  if not (model_dir / CONFIG).exists():
    return
  there = read_json(model_dir / CONFIG, *settings)
  with checkpoints.Checkpoints(model_dir / CHECKPOINTS) as kept:
    begun = bool(kept.steps())
  if not begun and not (model_dir / RESULTS).exists():
    return  # Stopped before there was anything to keep.
  # Of a field that is newer than the run, the run had the default.
  known = plain(dict(config_lib.flatten(default.get_config())))
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


def claim_output(
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
    there = read_json(mark, 'config', option='--save_dir')
    differing = _differences(there, identity)
    if not differing:
      return
    if not replace:
      raise ValueError(
        f'--save_dir: {where} holds pictures of something else ({differing}). '
        'Choose another folder, or delete it.'
      )
    shutil.rmtree(where)
  try:
    where.mkdir(parents=True, exist_ok=True)
    if any(not path.name.startswith('.') for path in where.iterdir()):
      raise ValueError(
        f'--save_dir: {where} holds files, and no {IDENTITY} that says of '
        'what. Choose another folder.'
      )
    results.write_json(mark, identity)
  except OSError as error:
    raise ValueError(
      f'--save_dir: {where} can not be written ({error.strerror}). Choose '
      'another folder.'
    ) from error


def claim(model_dir: pathlib.Path, settings: dict[str, Any]) -> None:
  """Makes the folder of a run, and writes its settings there.

  Raises:
    ValueError: if nothing can be written there.
  """
  try:
    model_dir.mkdir(parents=True, exist_ok=True)
    results.write_json(model_dir / CONFIG, settings)
  except OSError as error:
    raise ValueError(
      f'--model_dir: {model_dir} can not be written ({error.strerror}). '
      'Choose another folder.'
    ) from error


def finished(model_dir: pathlib.Path, num_steps: int) -> dict[str, Any] | None:
  """The results of a run that has done so many steps, if there are any."""
  if not (model_dir / RESULTS).exists():
    return None
  content = read_json(model_dir / RESULTS, 'psnr', 'steps')
  return content if content['steps'] >= num_steps else None


def read_json(
  path: pathlib.Path, *fields: str, option: str = '--model_dir'
) -> dict[str, Any]:
  """Reads what a run wrote; `option` is the flag that an error names.

  Raises:
    ValueError: if the file is not one that a run wrote, with such fields.
  """
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    content = error
  if not isinstance(content, dict) or not all(x in content for x in fields):
    raise ValueError(
      f'{option}: {path} is none that a run wrote, or it is damaged. '
      'Choose another folder.'
    )
  return content
