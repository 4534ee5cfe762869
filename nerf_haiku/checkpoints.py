"""The state of a run on disk."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from nerf_haiku import training


def save(
  folder: pathlib.Path, state: training.TrainState, about: dict[str, Any]
) -> None:
  """Writes a state, whole or not at all, and what is to be known of it.

  Args:
    folder: of the run's checkpoints; made if need be.
    state: one replica, of host arrays (`devices.unreplicate`).
    about: what JSON can hold.

  Raises:
    RuntimeError: if the folder has this step already.
  """
  with _manager(folder) as manager:
    saved = manager.save(
      int(state.step),
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state._asdict()),
        about=ocp.args.JsonSave(about),
      ),
    )
    if not saved:
      raise RuntimeError(f'{folder} has a checkpoint of step {state.step}.')


def restore(
  folder: pathlib.Path, template: training.TrainState
) -> tuple[training.TrainState, dict[str, Any]]:
  """Reads the newest state of a folder, and what was written of it.

  Args:
    folder: of the run's checkpoints.
    template: a state, or its `jax.eval_shape`: shapes and dtypes to expect.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if what is there is of another shape.
  """
  template = jax.eval_shape(lambda: template)
  with _manager(folder) as manager:
    step = manager.latest_step()
    if step is None:
      raise FileNotFoundError(f'There is no checkpoint in {folder}.')
    kept = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(template._asdict()),
        about=ocp.args.JsonRestore(),
      ),
    )
  # Orbax gives what is stored, of whatever shape, without a word.
  wanted, found = _shapes(template._asdict()), _shapes(kept.state)
  for path in sorted(wanted.keys() | found.keys()):
    if wanted.get(path) != found.get(path):
      raise ValueError(
        f'Checkpoint {folder / str(step)} is of another network: {path} is '
        f'{found.get(path)} there, {wanted.get(path)} here.'
      )
  return training.TrainState(**kept.state), kept.about


def latest_step(folder: pathlib.Path) -> int | None:
  """The newest step that a folder holds a state of."""
  if not folder.exists():
    return None
  with _manager(folder) as manager:
    return manager.latest_step()


def _shapes(tree: Any) -> dict[str, str]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{x.dtype}{list(x.shape)}'
    )
    for path, x in leaves
  }


def _manager(folder: pathlib.Path) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(folder.absolute(), item_names=('state', 'about'))
