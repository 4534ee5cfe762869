"""The states of a run on disk: written whole, and checked when read."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from nerf_haiku import errors, training
from nerf_haiku.io import files
from nerf_haiku.renderers import hierarchical

# The newest states that are kept, beside the best one.
_KEPT = 3
_METRIC = 'psnr'
# Folders of states that were not written to their end.
_UNFINISHED = '*.orbax-checkpoint-tmp*'
# What may be wrong with a disk, to be found in a library's long message.
_DISK = (
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


class SaveError(errors.WriteError):
  """A state could not be written; those of before are there."""


class DamagedError(errors.DataError):
  """What is on disk is not what was written."""


class CheckpointInfo(NamedTuple):
  """What is known of a run at one of its states, but for the state."""

  step: int
  skipped: int  # updates left out so far.
  about: dict[str, Any]  # what was written beside the state.


class Checkpoints:
  """The last three states of a run, and the best on validation.

  A context manager; a folder that is not there is made by the first `save`.
  One process at a time may write, whichever of many; any may `restore` and
  `read`.
  """

  def __init__(
    self, folder: pathlib.Path, say: Callable[[str], None] | None = None
  ):
    """Makes nothing yet; `say` is told which states are damaged."""
    self._folder = folder
    self._say = say or (lambda text: None)
    self._opened: ocp.CheckpointManager | None = None

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def steps(self) -> list[int]:
    """The steps that states are kept of, from the first to the last."""
    if not self._folder.is_dir():
      return []
    names = [x.name for x in self._folder.iterdir() if x.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())

  def save(
    self,
    state: training.TrainState,
    about: dict[str, Any],
    *,
    validation_psnr: float | None = None,
  ) -> None:
    """Writes a state, whole or not at all, and what is to be known of it.

    Args:
      state: one replica, of host arrays (`devices.unreplicate`).
      about: what JSON can hold.
      validation_psnr: dB, what makes a state the best; None: not known.

    Raises:
      RuntimeError: if this step, or a later one, is there already.
      SaveError: if it can not be written; another try may succeed.
    """
    step = int(state.step)
    try:
      saved = self._manager().save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state._asdict()),
          about=ocp.args.JsonSave(about),
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
    # It is there whole by now: without a seal it is only checked less well.
    with contextlib.suppress(OSError):
      files.write_digests(self._folder / str(step))

  def set_damaged_aside(self) -> None:
    """Moves damaged states beside the folder: their steps are free again.

    Raises:
      DamagedError: if there is no other state; nothing is moved then.
    """
    faults = {step: self._fault(step) for step in self.steps()}
    damaged = {step: fault for step, fault in faults.items() if fault}
    if damaged and len(damaged) == len(faults):
      raise self._all_damaged(damaged)
    for step, fault in damaged.items():
      aside = self._folder.with_name(f'{self._folder.name}_damaged')
      aside.mkdir(exist_ok=True)
      names = [str(step), *(f'{step}_{i}' for i in range(2, 99))]
      target = next(aside / x for x in names if not (aside / x).exists())
      (self._folder / str(step)).rename(target)
      self._say(
        f'The checkpoint of step {step} is damaged ({fault}): it is moved to '
        f'{target}.'
      )

  def restore(
    self, template: training.TrainState, step: int | None = None
  ) -> tuple[training.TrainState, dict[str, Any]]:
    """Reads a state of the folder, and what was written of it.

    Args:
      template: a state, or its `jax.eval_shape`: shapes and dtypes to expect.
      step: which one; None: the newest.

    Raises:
      FileNotFoundError: if there is none.
      DamagedError: if it is damaged, see `set_damaged_aside`.
      UserError: if what is there is of another shape.
    """
    template = jax.eval_shape(lambda: template)
    step = self._step(step)
    self._check(step)
    kept = self._load(step, ocp.args.StandardRestore(template._asdict()))
    _check_shapes(self._folder / str(step), template._asdict(), kept.state)
    return training.TrainState(**kept.state), kept.about

  def read(
    self, template: hierarchical.Learnt, step: int | None = None
  ) -> tuple[hierarchical.Learnt, CheckpointInfo]:
    """Reads what a state has learnt, host arrays, whatever optimizer it had.

    Args:
      template: parameters and memory, or their `jax.eval_shape`.
      step: which state; None: the newest that is not damaged.

    Raises:
      FileNotFoundError: if there is none.
      DamagedError: if it is damaged, or all are.
      UserError: if they are of another shape.
    """
    if step is None:
      step = self._newest_whole()
    else:
      self._check(self._step(step))
    kept = self._load(step, ocp.args.StandardRestore())
    found = {name: kept.state.get(name) for name in template._fields}
    template = jax.eval_shape(lambda: template)
    _check_shapes(self._folder / str(step), template._asdict(), found)
    # Stored as dicts, whose order is another: each array by its name.
    arrays = _by_name(found)
    names = _by_name(template._asdict())
    learnt = hierarchical.Learnt(
      *(
        jax.tree.unflatten(
          jax.tree.structure(part),
          [arrays[name] for name in names if name.split('/')[0] == field],
        )
        for field, part in template._asdict().items()
      )
    )
    return learnt, CheckpointInfo(step, int(kept.state['skipped']), kept.about)

  def clear(self) -> None:
    """Deletes all states."""
    for step in self.steps():
      self._manager().delete(step)

  def close(self) -> None:
    """Gives free what the folder's manager holds."""
    if self._opened is not None:
      self._opened.close()
      self._opened = None

  def _step(self, step: int | None) -> int:
    steps = self.steps()
    if not steps or (step is not None and step not in steps):
      asked = '' if step is None else f' of step {step}'
      there = f', but of {", ".join(map(str, steps))}' if steps else ''
      raise FileNotFoundError(
        f'There is no checkpoint{asked} in {self._folder}{there}.'
      )
    return steps[-1] if step is None else step

  def _load(self, step: int, how: ocp.args.StandardRestore) -> Any:
    """A state and what is known of it, unchecked."""
    # Without the manager, which reads the PSNR of all states, damaged or not.
    handler = ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(multiprocessing_options=_alone())
    )
    with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
      return reader.restore(
        (self._folder / str(step)).absolute(),
        args=ocp.args.Composite(state=how, about=ocp.args.JsonRestore()),
      )

  def _check(self, step: int) -> None:
    fault = self._fault(step)
    if fault:
      raise DamagedError(f'{self._folder / str(step)} is damaged: {fault}.')

  def _fault(self, step: int) -> str | None:
    """What is wrong with a state on disk, if anything is."""
    folder = self._folder / str(step)
    if files.has_digests(folder):
      return files.find_corruption(folder)
    # Of an older version, or its process was killed just then: orbax finds
    # most that may be wrong, but no flipped bit of a large array.
    try:
      self._load(step, ocp.args.StandardRestore())
    except Exception as error:  # Orbax has many.
      return f'it can not be read ({_reason(error)})'
    return None

  def _newest_whole(self) -> int:
    """The newest step that is not damaged; says which are skipped for it."""
    self._step(None)
    faults: dict[int, str] = {}
    for step in reversed(self.steps()):
      fault = self._fault(step)
      if fault is None:
        for damaged, text in faults.items():
          self._say(
            f'The checkpoint of step {damaged} in {self._folder} is damaged '
            f'({text}): that of step {step} is used.'
          )
        return step
      faults[step] = fault
    raise self._all_damaged(faults)

  def _all_damaged(self, faults: dict[int, str]) -> DamagedError:
    texts = '; '.join(f'step {x}: {text}' for x, text in faults.items())
    return DamagedError(
      f'No checkpoint in {self._folder} can be used, all are damaged ({texts}).'
      ' Nothing was deleted. Put back a copy of one, or begin in another '
      'folder.'
    )

  def _give_up(self) -> None:
    """Forgets a save that failed, and what it has left on disk."""
    with contextlib.suppress(Exception):
      self.close()
    self._opened = None
    self._sweep()

  def _sweep(self) -> None:
    """Deletes what was not written to its end."""
    for path in self._folder.glob(_UNFINISHED):
      shutil.rmtree(path, ignore_errors=True)

  def _describe_failure(self, step: int, error: Exception) -> str:
    steps = self.steps()
    there = f'that of step {steps[-1]}' if steps else 'none'
    return (
      f'The checkpoint of step {step} could not be written to {self._folder} '
      f'({_reason(error)}); the last that is kept is {there}.'
    )

  def _manager(self) -> ocp.CheckpointManager:
    if self._opened is None:
      self._sweep()  # Its process was killed.
      policy = checkpoint_managers.AnyPreservationPolicy(
        [
          checkpoint_managers.LatestN(_KEPT),
          checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      )
      many = jax.process_count() > 1
      if many:  # Orbax is to wait for no other process: see below.
        self._folder.mkdir(parents=True, exist_ok=True)
      self._opened = ocp.CheckpointManager(
        self._folder.absolute(),
        item_names=('state', 'about'),
        options=ocp.CheckpointManagerOptions(
          best_fn=lambda metrics: metrics[_METRIC],
          preservation_policy=policy,
          # What is saved is on disk when `save` returns.
          enable_async_checkpointing=False,
          create=not many,
          multiprocessing_options=_alone(),
        ),
      )
    return self._opened


def _alone() -> ocp.options.MultiprocessingOptions:
  """Of many processes this one saves or reads, and orbax waits for no other."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index,
    active_processes={index} if jax.process_count() > 1 else None,
  )


def _reason(error: BaseException) -> str:
  """What the system said, without a library's words around it."""
  text = str(error)
  known = [os.strerror(code) for code in _DISK if os.strerror(code) in text]
  if known:
    return known[0]
  lines = text.strip().splitlines() or [type(error).__name__]
  return lines[0][:160]


def _check_shapes(where: pathlib.Path, template: Any, kept: Any) -> None:
  """Orbax gives what is stored, of whatever shape, without a word."""
  wanted, found = _shapes(template), _shapes(kept)
  for path in sorted(wanted.keys() | found.keys()):
    if wanted.get(path) != found.get(path):
      raise errors.UserError(
        f'Checkpoint {where} is of another network: {path} is '
        f'{found.get(path)} there, {wanted.get(path)} here.'
      )


def _shapes(tree: Any) -> dict[str, str]:
  return {
    name: f'{x.dtype}{list(x.shape)}' for name, x in _by_name(tree).items()
  }


def _by_name(tree: Any) -> dict[str, Any]:
  """The arrays of a tree by their paths, in the tree's own order."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in leaves
  }
