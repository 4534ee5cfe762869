"""The training loop: steps, and what is due between them."""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.builders import bounds
from experiments.builders import experiment as experiment_lib
from experiments.processes import multihost, signals
from experiments.trainer import (
  blocks,
  out_of_memory,
  progress,
  tensorboard,
  validation,
)
from nerf_haiku import checkpoints, collapse, devices, errors, training
from nerf_haiku.renderers import base

# Calls of the update that may be in flight when the scalars of one are read.
_IN_FLIGHT = 2
# A run does not recover from this many skipped updates in a row.
_MAX_SKIPPED = 100
# Scalars of a step that TensorBoard shows.
_SHOWN = (
  'loss',
  'psnr',
  'psnr_coarse',
  'grad_norm',
  'skipped',
  'samples',
  'pieces',
)

# The `seed` in use, `restarts` after a collapse, and `times`: `train_seconds`
# of the whole process, `step_seconds` of the steps alone, `rays_per_second`.
RunMetadata = dict[str, Any]

# (a checkpoint's metadata, variables replicated `[D, ...]`) renders them.
RenderFn = Callable[[checkpoints.CheckpointInfo, base.Variables], None]

# (step, a function that returns the variables after it) looks at a run. The
# variables, replicated `[D, ...]`, are those of the next step once it returns.
Watch = Callable[[int, Callable[[], base.Variables]], None]


class Outputs(NamedTuple):
  """The outputs of a run."""

  checkpoints: checkpoints.Checkpoints
  log: progress.Log
  writer: tensorboard.SummaryWriter
  profile: progress.Profile
  validate: validation.Validate
  render_test: RenderFn  # renders and scores the test views.
  render_video: RenderFn
  watch: Watch | None = None


class RunState(NamedTuple):
  """A run between two steps."""

  state: training.TrainState  # replicated `[D, ...]`.
  metadata: RunMetadata
  num_nonfinite: int = 0  # consecutive steps with a NaN or infinity.


class _Due(NamedTuple):
  """What is due after a step."""

  validation: bool
  checkpoint: bool
  test: bool
  video: bool


def fit(
  experiment: experiment_lib.Experiment,
  outputs: Outputs,
  *,
  seed: int,
  start: float,
  init_params: base.Params | None = None,
) -> tuple[training.TrainState, RunMetadata]:
  """Trains until the last step, from the newest checkpoint if there is one.

  Args:
    experiment: what is trained.
    outputs: of the run.
    seed: of a run that begins.
    start: `time.perf_counter()` when the process began.
    init_params: parameters that a run begins with; None: random ones.

  Returns:
    The state at the end, of host arrays, and the run's metadata.

  Raises:
    UserError: if a loss or gradient is not finite, if the run collapses and
      hardly any ray meets the scene's box, or if a device's memory is not
      enough.
    signals.StoppedError: if a signal stopped the run; it has a checkpoint then.
    checkpoints.SaveError: if the last checkpoint cannot be written.
  """
  trainer = _Trainer(experiment, outputs, start)
  times = {'train_seconds': 0.0, 'step_seconds': 0.0, 'rays_per_second': 0}
  metadata: RunMetadata = {'seed': seed, 'restarts': 0, 'times': times}
  state = _init_state(experiment, seed, init_params)
  state, metadata = multihost.run_on_main(
    lambda: _resume(state, metadata, outputs), like=(state, metadata)
  )
  with signals.Listener(
    only_between_images=multihost.is_multihost()
  ) as listener:
    while int(state.step) < experiment.config.num_steps:
      try:
        state, metadata = trainer.run(state, metadata, listener)
      except jax.errors.JaxRuntimeError as error:
        if not out_of_memory.is_out_of_memory(error):
          raise
        config = experiment.config
        raise out_of_memory.explain(config, trainer.memory()) from error
      except collapse.CollapseError as error:
        bounds.check_restart(experiment.scene)
        metadata = _restart(error, metadata, outputs)
        state = _init_state(experiment, metadata['seed'], init_params)
  return state, metadata


def _init_state(
  experiment: experiment_lib.Experiment,
  seed: int,
  init_params: base.Params | None,
) -> training.TrainState:
  init_key, _ = jax.random.split(jax.random.key(seed))
  state = experiment.init_state(init_key)
  return state._replace(params={**state.params, **(init_params or {})})


def _resume(
  state: training.TrainState, metadata: RunMetadata, outputs: Outputs
) -> tuple[training.TrainState, RunMetadata]:
  """Returns the newest checkpoint, or the given state if there is none."""
  outputs.checkpoints.quarantine_damaged()
  if outputs.checkpoints.steps():
    state, metadata = outputs.checkpoints.restore(state)
    outputs.log.info(f'Resuming from the checkpoint of step {state.step}.')
    outputs.writer.resume_from(int(state.step) + 1)
  return jax.tree.map(np.asarray, state), metadata


def _restart(
  error: collapse.CollapseError, metadata: RunMetadata, outputs: Outputs
) -> RunMetadata:
  """Deletes a collapsed run; returns the metadata of the next one."""
  metadata = metadata | {
    'seed': collapse.next_seed(metadata['seed']),
    'restarts': metadata['restarts'] + 1,
  }
  outputs.log.info(
    f'{error} Restarting from step 0 with seed {metadata["seed"]} '
    f'(restart {metadata["restarts"]} of {collapse.MAX_RESTARTS}).'
  )
  multihost.run_on_main(outputs.checkpoints.clear)
  outputs.writer.resume_from(0)
  return metadata


class _Trainer:
  """Takes steps, and produces what is due between them."""

  def __init__(
    self, experiment: experiment_lib.Experiment, outputs: Outputs, start: float
  ):
    self._experiment, self._config = experiment, experiment.config
    self._outputs, self._start = outputs, start
    shapes = experiment.state_shapes()
    self._checked_names = training.checked_names(shapes.params)
    # The signals of all processes: all stop after the same step.
    self._global_max: Callable[[int], Any] = int
    if multihost.is_multihost():
      self._global_max = training.make_global_max()
    self._blocks = blocks.Blocks(experiment)

  def memory(self) -> Any:
    """Returns what a step takes of the memory; None if that is not known."""
    return self._blocks.memory()

  def run(
    self,
    state: training.TrainState,
    metadata: RunMetadata,
    listener: signals.Listener,
  ) -> tuple[training.TrainState, RunMetadata]:
    """Takes all steps from a state of host arrays on, see `fit`.

    Raises:
      collapse.CollapseError: if the run must restart.
    """
    first = int(state.step)
    self._progress = progress.Progress(
      self._outputs.log,
      first_step=first,
      num_steps=self._config.num_steps,
      num_rays=self._config.num_rand,
      every=self._config.i_print,
    )
    self._has_read = False  # The first call, which compiles.
    run = RunState(devices.replicate(state), metadata)
    try:
      run = self._take_steps(run, first, listener)
    finally:
      self._progress.close()
      self._outputs.profile.stop()
    return devices.unreplicate(run.state), run.metadata

  def _take_steps(
    self, run: RunState, first: int, listener: signals.Listener
  ) -> RunState:
    num_steps, seed = self._config.num_steps, run.metadata['seed']
    _, key = jax.random.split(jax.random.key(seed))
    # Several devices of one CPU deadlock when steps are queued up.
    in_turn = jax.device_count() > 1 and jax.default_backend() == 'cpu'
    pending: collections.deque[Any] = collections.deque()
    inputs = self._experiment.make_inputs(
      seed=seed, start_step=first, num_steps=num_steps
    )
    step = first
    while step < num_steps:
      self._outputs.profile.before(step - first)
      block = self._blocks.at(step, self._progress.seconds_per_step())
      data = self._blocks.data(inputs, block.num_steps)
      state, scalars = block.update(run.state, data, key)
      step += block.num_steps
      run = run._replace(state=state)
      signal_number = self._global_max(listener.signal_number or 0)
      pending.append((step, block.split(scalars), signal_number))
      due = self._due(step)
      is_stopping = not multihost.is_multihost() and signal_number
      waits = in_turn or any(due) or is_stopping
      run, stopped = self._read_pending(
        run, pending, 0 if waits else _IN_FLIGHT
      )
      if self._outputs.watch is not None:
        self._outputs.watch(step, run.state.variables)
      if stopped:
        run, _ = self._read_pending(run, pending, 0)
        self._stop(run, step, stopped)
      if any(due):
        run = self._pause(run, step, due, listener)
    # A signal may have come while the last checkpoint was written.
    stopped = int(self._global_max(listener.signal_number or 0))
    if stopped:
      self._stop(run, num_steps, stopped)
    return run

  def _read_pending(
    self, run: RunState, pending: collections.deque[Any], num_left: int
  ) -> tuple[RunState, int]:
    """Reads the scalars of calls until `num_left` are in flight.

    Returns:
      The run, and the signal to stop, or 0.
    """
    stopped = 0
    while len(pending) > num_left:
      last, read, signal_number = pending.popleft()
      of_steps = read()
      for step, scalars in enumerate(of_steps, last - len(of_steps) + 1):
        run = self._read(run, step, scalars)
      self._has_read = True
      stopped = int(signal_number) or stopped
    return run, stopped

  def _read(
    self, run: RunState, step: int, scalars: training.Scalars
  ) -> RunState:
    """Checks the scalars of a step, host arrays, and shows them."""
    run = self._check_finite(run, step, int(scalars['nonfinite']))
    self._progress.show(scalars, is_of_first_call=not self._has_read)
    if step % self._config.i_print == 0 or step == self._config.num_steps:
      values = {f'train/{x}': scalars[x] for x in _SHOWN if x in scalars}
      values['train/learning_rate'] = self._experiment.schedule(step - 1)
      values['train/rays_per_second'] = self._progress.rays_per_second()
      self._outputs.writer.scalars(step, values)
    if step % self._config.collapse_steps == 0:
      self._check_collapse(run, step, scalars['color_stats'])
    return run

  def _check_finite(self, run: RunState, step: int, nonfinite: int) -> RunState:
    """Stops at a NaN or infinity, with a checkpoint from before it.

    Raises:
      UserError: names the step, and the array with the value.
    """
    skips = self._config.skip_nonfinite
    run = run._replace(num_nonfinite=run.num_nonfinite + 1 if nonfinite else 0)
    if not nonfinite or (skips and run.num_nonfinite < _MAX_SKIPPED):
      return run
    state = run.state._replace(nonfinite=run.state.nonfinite * 0)
    run = run._replace(state=state)
    saved = multihost.run_on_main(lambda: self._save(run) is not None)
    text = (
      f'Step {step}: {self._checked_names[nonfinite - 1]} holds a NaN or '
      f'infinity{f", as did {_MAX_SKIPPED} steps in a row" if skips else ""}. '
      f'{"The state before it is saved. " if saved else ""}A smaller '
      'config.learning_rate, config.grad_max_norm or '
      'config.skip_nonfinite=True may help.'
    )
    self._outputs.log.write(text)
    raise errors.UserError(text)

  def _check_collapse(
    self, run: RunState, step: int, stats: training.ColorStats
  ) -> None:
    """Reports a collapse.

    Raises:
      collapse.CollapseError: if the run must restart.
    """
    text = collapse.describe_collapse(step, stats)
    if text is None:
      return
    restarts = run.metadata['restarts']
    if self._config.restart_collapsed and restarts < collapse.MAX_RESTARTS:
      raise collapse.CollapseError(text)
    self._outputs.log.info(f'{text} It is not restarted.')

  def _due(self, step: int) -> _Due:
    config = self._config  # `blocks` ends calls at these steps.
    is_last = step == config.num_steps
    return _Due(
      validation=step % config.i_img == 0,
      checkpoint=step % config.i_weights == 0 or is_last,
      # At the end the test views are scored anyway.
      test=step % config.i_testset == 0 and not is_last,
      video=step % config.i_video == 0,
    )

  def _pause(
    self, run: RunState, step: int, due: _Due, listener: signals.Listener
  ) -> RunState:
    """Produces what is due; stops if a signal interrupts it."""
    with self._progress.paused():
      interrupted, metadata = multihost.run_on_main(
        functools.partial(self._produce, run, step, due, listener),
        run.state.variables(),
        like=(None, run.metadata),
      )
    run = run._replace(metadata=metadata)
    if interrupted:
      self._stop(run, step, interrupted)
    return run

  def _produce(
    self, run: RunState, step: int, due: _Due, listener: signals.Listener
  ) -> tuple[int | None, RunMetadata]:
    """Validates, saves and renders, on the main process.

    Returns:
      The signal that interrupted it, or None; and the run's metadata.
    """
    psnr, metadata = None, run.metadata
    try:
      with listener.interruptible():  # Images may take minutes.
        psnr = self._validate(run, step) if due.validation else None
      if due.checkpoint:
        metadata = self._save(run, psnr) or metadata
      with listener.interruptible():
        if due.test:
          self._render(run, step, self._outputs.render_test)
        if due.video:
          self._render(run, step, self._outputs.render_video)
    except KeyboardInterrupt:
      if listener.signal_number is None:
        raise
      return listener.signal_number, metadata
    return None, metadata

  def _validate(self, run: RunState, step: int) -> float:
    """Renders a validation view, and returns its PSNR in dB."""
    psnr = self._outputs.validate(run.state.variables(), step)
    width = len(str(self._config.num_steps))
    self._outputs.log.info(f'step {step:>{width}}  validation {psnr:.2f} dB')
    return psnr

  def _render(self, run: RunState, step: int, render_fn: RenderFn) -> None:
    """Renders what the user wants to see; if that fails, training continues."""
    info = checkpoints.CheckpointInfo(
      step=step,
      skipped=int(devices.unreplicate(run.state.skipped)),
      metadata=run.metadata | {'times': self._times(run)},
    )
    try:
      render_fn(info, run.state.variables())
    except (errors.UserError, OSError) as error:
      self._outputs.log.info(f'step {step}  {error} Training continues.')

  def _stop(self, run: RunState, step: int, signal_number: int) -> None:
    """Saves a checkpoint.

    Raises:
      signals.StoppedError: always, but for
      checkpoints.SaveError: if it cannot be written.
    """
    multihost.run_on_main(lambda: self._save(run, must=True))
    error = signals.StoppedError(step, signal_number)
    self._outputs.log.write(str(error))
    raise error

  def _save(
    self,
    run: RunState,
    validation_psnr: float | None = None,
    *,
    must: bool = False,
  ) -> RunMetadata | None:
    """Saves a checkpoint unless there is one of this step.

    Returns:
      The run's metadata, that of the checkpoint if it is the last one; None if
      it could not be written.

    Raises:
      checkpoints.SaveError: if it cannot be written, and must be, or is the
        last one.
    """
    state = devices.unreplicate(run.state)
    if int(state.step) in self._outputs.checkpoints.steps():
      return run.metadata
    metadata = run.metadata | {'times': self._times(run)}
    is_last = int(state.step) == self._config.num_steps
    try:
      self._outputs.checkpoints.save(
        state, metadata, validation_psnr=validation_psnr
      )
    except checkpoints.SaveError as error:
      if must or is_last:
        self._outputs.log.write(str(error))
        raise
      self._outputs.log.info(f'{error} Training continues.')
      return None
    return metadata if is_last else run.metadata

  def _times(self, run: RunState) -> dict[str, float]:
    """Returns the seconds of training so far, and rays per second."""
    before = run.metadata['times']
    seconds = time.perf_counter() - self._start
    times = {'train_seconds': round(before['train_seconds'] + seconds, 2)}
    # A run that an older version began did not measure them.
    if 'step_seconds' in before:
      seconds = self._progress.step_seconds()
      times['step_seconds'] = round(before['step_seconds'] + seconds, 2)
    return times | {'rays_per_second': round(self._progress.rays_per_second())}
