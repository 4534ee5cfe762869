"""The states of a run on disk."""

import pathlib
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from nerf_haiku import renderers, training

# The newest states that are kept, beside the best one.
_KEPT = 3
_METRIC = 'psnr'


class Kept(NamedTuple):
  """What is known of a run at one of its states, but for the state."""

  step: int
  skipped: int  # updates left out so far.
  about: dict[str, Any]  # what was written beside the state.


class Checkpoints:
  """The last three states of a run, and the best on validation.

  A context manager; a folder that is not there is made by the first `save`.
  Of many processes one, whichever, reads and writes.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._opened: ocp.CheckpointManager | None = None

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def steps(self) -> list[int]:
    """The steps that states are kept of, from the first to the last."""
    if not self._folder.exists():
      return []
    return sorted(self._manager().all_steps())

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
    """
    saved = self._manager().save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state._asdict()),
        about=ocp.args.JsonSave(about),
      ),
      metrics=(None if validation_psnr is None else {_METRIC: validation_psnr}),
    )
    if not saved:
      raise RuntimeError(
        f'{self._folder} has a checkpoint of step {state.step} or a later one.'
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
      ValueError: if what is there is of another shape.
    """
    template = jax.eval_shape(lambda: template)
    step = self._step(step)
    kept = self._manager().restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(template._asdict()),
        about=ocp.args.JsonRestore(),
      ),
    )
    _check_shapes(self._folder / str(step), template._asdict(), kept.state)
    return training.TrainState(**kept.state), kept.about

  def read(
    self, template: renderers.Learnt, step: int | None = None
  ) -> tuple[renderers.Learnt, Kept]:
    """Reads what a state has learnt, host arrays, whatever optimizer it had.

    Args:
      template: parameters and memory, or their `jax.eval_shape`.
      step: which state; None: the newest.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if they are of another shape.
    """
    step = self._step(step)
    kept = self._manager().restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore()
      ),
    )
    found = {name: kept.state.get(name) for name in template._fields}
    template = jax.eval_shape(lambda: template)
    _check_shapes(self._folder / str(step), template._asdict(), found)
    # Stored as dicts, whose order is another: each array by its name.
    arrays = _by_name(found)
    names = _by_name(template._asdict())
    learnt = renderers.Learnt(*(
      jax.tree.unflatten(
        jax.tree.structure(part),
        [arrays[name] for name in names if name.split('/')[0] == field],
      )
      for field, part in template._asdict().items()
    ))  # fmt: skip
    return learnt, Kept(step, int(kept.state['skipped']), kept.about)

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

  def _manager(self) -> ocp.CheckpointManager:
    if self._opened is None:
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
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()} if many else None,
          ),
        ),
      )
    return self._opened


def _check_shapes(where: pathlib.Path, template: Any, kept: Any) -> None:
  """Orbax gives what is stored, of whatever shape, without a word."""
  wanted, found = _shapes(template), _shapes(kept)
  for path in sorted(wanted.keys() | found.keys()):
    if wanted.get(path) != found.get(path):
      raise ValueError(
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
