"""Checkpoints of a run: written as a whole, and checked when read."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from nerf_haiku import errors, training
from nerf_haiku.io import files
from nerf_haiku.renderers import base

# The newest checkpoints that are kept, beside the best one.
_NUM_KEPT = 3
_METRIC = 'psnr'
# Folders of checkpoints that were not written to their end.
_UNFINISHED = '*.orbax-checkpoint-tmp*'
# Errors of a disk, to be found in a library's long message.
_DISK_ERRORS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EIO,
  errno.EMFILE,
  errno.ESTALE,
)


T = TypeVar('T')


class SaveError(errors.WriteError):
  """A checkpoint could not be written; earlier ones are unharmed."""


class DamagedError(errors.DataError):
  """A checkpoint on disk is not what was written."""


class CheckpointInfo(NamedTuple):
  """A checkpoint without its arrays."""

  step: int
  skipped: int  # updates skipped so far.
  metadata: dict[str, Any]  # written beside the state, as JSON.


class Checkpoints:
  """The last three checkpoints of a run, and the best on validation.

  A context manager. The folder is made by the first `save`. One process at a
  time may write; any may `restore` and `read`.
  """

  def __init__(
    self, folder: pathlib.Path, say: Callable[[str], None] | None = None
  ):
    """Opens a folder; `say` reports which checkpoints are damaged."""
    self._folder = folder
    self._say = say or (lambda text: None)
    self._opened: ocp.CheckpointManager | None = None

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Returns the steps of the checkpoints, in increasing order."""
    if not self._folder.is_dir():
      return []
    names = [x.name for x in self._folder.iterdir() if x.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())

  def save(
    self,
    state: training.TrainState,
    metadata: dict[str, Any],
    *,
    validation_psnr: float | None = None,
  ) -> None:
    """Writes a checkpoint as a whole, or not at all.

    Args:
      state: one replica, of host arrays (`devices.unreplicate`).
      metadata: what JSON can hold.
      validation_psnr: dB, by which the best checkpoint is chosen; None: not
        known.

    Raises:
      RuntimeError: if there is one of this step, or of a later one.
      SaveError: if it cannot be written; another try may succeed.
    """
    step = int(state.step)
    try:
      saved = self._manager().save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state._asdict()),
          about=ocp.args.JsonSave(metadata),
        ),
        metrics=(
          None if validation_psnr is None else {_METRIC: validation_psnr}
        ),
      )
    except Exception as error:  # Orbax has many.
      self._give_up()
      raise SaveError(self._describe_failure(step, error)) from error
    if not saved:
      raise RuntimeError(
        f'{self._folder} has a checkpoint of step {step} or a later one.'
      )
    # It is complete by now: without digests it is only checked less well.
    with contextlib.suppress(OSError):
      files.write_digests(self._folder / str(step))

  def quarantine_damaged(self) -> None:
    """Moves damaged checkpoints out of the folder, to one beside it.

    Raises:
      DamagedError: if all are damaged; nothing is moved then.
    """
    steps = self.steps()
    damaged = {step: text for step in steps if (text := self._damage(step))}
    if damaged and len(damaged) == len(steps):
      raise self._all_damaged(damaged)
    for step, damage in damaged.items():
      aside = self._folder.with_name(f'{self._folder.name}_damaged')
      aside.mkdir(exist_ok=True)
      names = [str(step), *(f'{step}_{i}' for i in range(2, 99))]
      target = next(aside / x for x in names if not (aside / x).exists())
      (self._folder / str(step)).rename(target)
      self._say(
        f'The checkpoint of step {step} is damaged ({damage}). It was moved to '
        f'{target}.'
      )

  def restore(
    self, template: training.TrainState, step: int | None = None
  ) -> tuple[training.TrainState, dict[str, Any]]:
    """Reads a checkpoint's state and metadata.

    Args:
      template: a state, or its `jax.eval_shape`: shapes and dtypes to expect.
      step: of the checkpoint; None: the newest.

    Raises:
      FileNotFoundError: if there is none.
      DamagedError: if it is damaged, see `quarantine_damaged`.
      UserError: if its arrays have other names or shapes.
    """
    step = self._find_step(step)
    self._check(step)
    content = self._load(step)
    path = self._folder / str(step)
    return _fill(template, content.state, path), content.about

  def read(
    self, template: base.Variables, step: int | None = None
  ) -> tuple[base.Variables, CheckpointInfo]:
    """Reads a checkpoint's variables, host arrays, whatever its optimizer.

    Args:
      template: variables of a renderer, or their `jax.eval_shape`.
      step: of the checkpoint; None: the newest that is not damaged.

    Raises:
      FileNotFoundError: if there is none.
      DamagedError: if it is damaged, or all are.
      UserError: if its arrays have other names or shapes.
    """
    if step is None:
      step = self._newest_undamaged()
    else:
      self._check(self._find_step(step))
    content = self._load(step)
    for name in training.IMAGE_PARAMS:
      content.state['params'].pop(name, None)
    # A state holds the variables under these names.
    wanted: dict[str, Any] = {
      'params': template.params,
      'renderer_state': template.state,
    }
    filled = _fill(wanted, content.state, self._folder / str(step))
    variables = base.Variables(
      params=filled['params'], state=filled['renderer_state']
    )
    return variables, CheckpointInfo(
      step=step, skipped=int(content.state['skipped']), metadata=content.about
    )

  def clear(self) -> None:
    """Deletes all checkpoints."""
    for step in self.steps():
      self._manager().delete(step)

  def close(self) -> None:
    """Releases what the folder's manager holds."""
    if self._opened is not None:
      self._opened.close()
      self._opened = None

  def _find_step(self, step: int | None) -> int:
    steps = self.steps()
    if not steps or (step is not None and step not in steps):
      wanted = '' if step is None else f' of step {step}'
      existing = f'; there are {", ".join(map(str, steps))}' if steps else ''
      raise FileNotFoundError(
        f'There is no checkpoint{wanted} in {self._folder}{existing}.'
      )
    return steps[-1] if step is None else step

  def _load(self, step: int) -> Any:
    """Reads `state` and `about` of a checkpoint, unchecked."""
    # Without the manager, which reads the PSNR of all, damaged or not.
    handler = ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(multiprocessing_options=_alone())
    )
    with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
      return reader.restore(
        (self._folder / str(step)).absolute(),
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
        ),
      )

  def _check(self, step: int) -> None:
    damage = self._damage(step)
    if damage:
      raise DamagedError(f'{self._folder / str(step)} is damaged: {damage}.')

  def _damage(self, step: int) -> str | None:
    """Describes the damage to a checkpoint on disk; None: there is none."""
    folder = self._folder / str(step)
    if files.has_digests(folder):
      return files.find_corruption(folder)
    # From an older version, or its process was killed just then: orbax finds
    # most damage, but no flipped bit of a large array.
    try:
      self._load(step)
    except Exception as error:  # Orbax has many.
      return f'it cannot be read ({_reason(error)})'
    return None

  def _newest_undamaged(self) -> int:
    """Returns the newest undamaged step; reports the damaged ones after it."""
    self._find_step(None)
    damaged: dict[int, str] = {}
    for step in reversed(self.steps()):
      damage = self._damage(step)
      if damage is None:
        for other, text in damaged.items():
          self._say(
            f'The checkpoint of step {other} in {self._folder} is damaged '
            f'({text}). That of step {step} is used.'
          )
        return step
      damaged[step] = damage
    raise self._all_damaged(damaged)

  def _all_damaged(self, damaged: dict[int, str]) -> DamagedError:
    texts = '; '.join(f'step {x}: {text}' for x, text in damaged.items())
    return DamagedError(
      f'All checkpoints in {self._folder} are damaged ({texts}). Nothing was '
      'deleted. Restore a copy of one, or start in another folder.'
    )

  def _give_up(self) -> None:
    """Cleans up after a save that failed, also on disk."""
    with contextlib.suppress(Exception):
      self.close()
    self._opened = None
    self._sweep()

  def _sweep(self) -> None:
    """Deletes checkpoints that were not written to their end."""
    for path in self._folder.glob(_UNFINISHED):
      shutil.rmtree(path, ignore_errors=True)

  def _describe_failure(self, step: int, error: Exception) -> str:
    steps = self.steps()
    last = f'that of step {steps[-1]}' if steps else 'none'
    return (
      f'The checkpoint of step {step} could not be written to {self._folder} '
      f'({_reason(error)}). The last one on disk: {last}.'
    )

  def _manager(self) -> ocp.CheckpointManager:
    if self._opened is None:
      self._sweep()  # After a process that was killed.
      policy = checkpoint_managers.AnyPreservationPolicy(
        [
          checkpoint_managers.LatestN(_NUM_KEPT),
          checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      )
      is_multihost = jax.process_count() > 1
      if is_multihost:  # Orbax must not wait for other processes: see below.
        self._folder.mkdir(parents=True, exist_ok=True)
      self._opened = ocp.CheckpointManager(
        self._folder.absolute(),
        item_names=('state', 'about'),
        options=ocp.CheckpointManagerOptions(
          best_fn=lambda metrics: metrics[_METRIC],
          preservation_policy=policy,
          # What is saved is on disk when `save` returns.
          enable_async_checkpointing=False,
          create=not is_multihost,
          multiprocessing_options=_alone(),
        ),
      )
    return self._opened


def _alone() -> ocp.options.MultiprocessingOptions:
  """Lets this process save or read without waiting for any other."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index,
    active_processes={index} if jax.process_count() > 1 else None,
  )


def _reason(error: BaseException) -> str:
  """Returns the system's message without a library's words around it."""
  text = str(error)
  known = [
    os.strerror(code) for code in _DISK_ERRORS if os.strerror(code) in text
  ]
  if known:
    return known[0]
  lines = text.strip().splitlines() or [type(error).__name__]
  return lines[0][:160]


# Arrays of a state in version 0.1.0, and what they are called now.
_RENAMED = {
  'fault': 'nonfinite',
  'memory': 'renderer_state',
  'moments/true': 'color_stats/target',
  'moments/true_square': 'color_stats/target_square',
  'moments/seen': 'color_stats/predicted',
  'moments/seen_square': 'color_stats/predicted_square',
  'moments/mse': 'color_stats/mse',
}


def _fill(template: T, stored: dict[str, Any], path: pathlib.Path) -> T:
  """Returns a tree like `template` with the stored arrays of the same names.

  Orbax returns dicts, whose order is another; and it returns what is stored,
  of whatever shape.

  Args:
    template: a tree of arrays or of their shapes.
    stored: the arrays of a checkpoint; others than the template's are ignored
      if they belong to another field of the state.
    path: of the checkpoint, for the message.

  Raises:
    UserError: if an array is missing, is too many, or has another shape.
  """
  shapes = _by_name(jax.eval_shape(lambda: template))
  found = {_current_name(name): x for name, x in _by_name(stored).items()}
  fields = {name.partition('/')[0] for name in shapes}
  for name in sorted(shapes.keys() | found.keys()):
    if name.partition('/')[0] not in fields:
      continue
    if (
      name in shapes and name in found and _was_flat(found[name], shapes[name])
    ):
      found[name] = found[name].reshape(shapes[name].shape)
    wanted, actual = _describe(shapes.get(name)), _describe(found.get(name))
    if wanted != actual:
      raise errors.UserError(
        f'Checkpoint {path} is of another network: {name} is {actual} in the '
        f'checkpoint, but {wanted} in this config.'
      )
  leaves = [found[name] for name in shapes]
  filled: T = jax.tree.unflatten(jax.tree.structure(template), leaves)
  return filled


def _current_name(name: str) -> str:
  """Returns today's name of an array that may have an old one."""
  for old, new in _RENAMED.items():
    if name == old or name.startswith(f'{old}/'):
      return new + name[len(old) :]
  return name


def _was_flat(array: Any, shape: Any) -> bool:
  """Whether this is an occupancy grid of version 0.1.0, `[G * G * G]`."""
  return array.ndim == 1 and len(shape.shape) == 3 and array.size == shape.size


def _describe(array: Any) -> str:
  return 'missing' if array is None else f'{array.dtype}{list(array.shape)}'


def _by_name(tree: Any) -> dict[str, Any]:
  """Returns the arrays of a tree by their paths, in the tree's own order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in leaves
  }
