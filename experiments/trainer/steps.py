"""The steps of a run: watched, kept, and stopped without a trace."""

import collections
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from experiments.builders import training_step
from experiments.processes import multihost, signals
from experiments.trainer import profiling, progress, tensorboard, validation
from nerf_haiku import checkpoints, collapse, devices, errors, scenes, training
from nerf_haiku.renderers import hierarchical

# Steps that may be under way when the scalars of one are read.
_IN_FLIGHT = 2
# Updates left out one after the other, that a run does not recover from.
_MOST_SKIPPED = 100
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

# What is known of a run beside its state: the `seed` in use, `restarts` after
# a collapse, and `times`: `train_seconds` of the whole process,
# `step_seconds` of the steps alone, and `rays_per_second`.
RunMetadata = dict[str, Any]


# (what is known, `renderers.Learnt` replicated) draws what is learnt.
Show = Callable[[checkpoints.CheckpointInfo, Any], None]


class Outputs(NamedTuple):
  """Where a run leaves what it has to say, and how it is looked at."""

  kept: checkpoints.Checkpoints
  log: progress.Log
  board: tensorboard.SummaryWriter
  profile: profiling.Profile
  validate: validation.Validate
  test: Show
  film: Show


class _Due(NamedTuple):
  """What there is to do after a step."""

  validation: bool
  save: bool
  test: bool
  film: bool


def fit(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  renderer: hierarchical.Renderer,
  outputs: Outputs,
  *,
  seed: int,
  start: float,
  weights: hierarchical.Params | None = None,
) -> tuple[training.TrainState, RunMetadata]:
  """Does all steps that are left of a run.

  Args:
    config: of the run.
    scene: that is learnt.
    renderer: that learns it.
    outputs: where its states are kept and found, and what is told.
    seed: of a run that begins.
    start: `time.perf_counter()` when the process began.
    weights: what a run begins with; None: random ones.

  Returns:
    The state at the end, of host arrays, and what is known of the run.

  Raises:
    ValueError: if a loss or gradient is no finite number.
    signals.StoppedError: if a signal stopped it; the state is kept.
    OSError: if the last state can not be written.
  """
  steps = _Steps(config, scene, renderer, outputs, start)
  state = _begin(config, renderer, seed, weights)
  times = {'train_seconds': 0.0, 'step_seconds': 0.0, 'rays_per_second': 0}
  about: RunMetadata = {'seed': seed, 'restarts': 0, 'times': times}
  state, about = multihost.run_on_main(
    lambda: _go_on(state, about, outputs), like=(state, about)
  )
  with signals.Listener(
    only_between_images=multihost.is_multihost()
  ) as listener:
    while int(state.step) < config.num_steps:
      try:
        state, about = steps.run(state, about, listener)
      except collapse.CollapseError as error:
        about = _restart(error, about, outputs)
        state = _begin(config, renderer, about['seed'], weights)
  return state, about


def _go_on(
  state: training.TrainState, about: RunMetadata, outputs: Outputs
) -> tuple[training.TrainState, RunMetadata]:
  """The newest state that is kept, if there is one."""
  outputs.kept.set_damaged_aside()
  if outputs.kept.steps():
    state, about = outputs.kept.restore(state)
    outputs.log.say(f'Goes on from its checkpoint of step {state.step}.')
    outputs.board.go_on_from(int(state.step) + 1)
  return jax.tree.map(np.asarray, state), about


def _begin(
  config: ml_collections.ConfigDict,
  renderer: hierarchical.Renderer,
  seed: int,
  weights: hierarchical.Params | None,
) -> training.TrainState:
  init_key, _ = jax.random.split(jax.random.key(seed))
  state = training.init_state(
    renderer, training_step.make_optimizer(config), init_key
  )
  return state if weights is None else state._replace(params=weights)


def _restart(
  error: collapse.CollapseError, about: RunMetadata, outputs: Outputs
) -> RunMetadata:
  """Forgets a collapsed run; gives what is known of the one after it."""
  about = about | {
    'seed': collapse.next_seed(about['seed']),
    'restarts': about['restarts'] + 1,
  }
  outputs.log.say(
    f'{error} It starts again from step 0 with seed {about["seed"]} '
    f'(restart {about["restarts"]} of {collapse.MAX_RESTARTS}).'
  )
  multihost.run_on_main(outputs.kept.clear)
  outputs.board.go_on_from(0)
  return about


class _Steps:
  """Does steps, one after the other, and all that is to be done between."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    scene: scenes.Scene,
    renderer: hierarchical.Renderer,
    outputs: Outputs,
    start: float,
  ):
    self._config, self._scene = config, scene
    self._outputs, self._start = outputs, start
    self._learning_rate = training_step.make_schedule(config)
    state = jax.eval_shape(
      lambda key: training.init_state(
        renderer, training_step.make_optimizer(config), key
      ),
      jax.random.key(0),
    )
    self._names = training.checked_names(state.params)
    # Of the signals that came to processes: all stop after the same step.
    self._greatest: Callable[[int], Any] = int
    if multihost.is_multihost():
      self._greatest = training.make_global_max()
    # Compiled beside the initial weights and the start of TensorFlow.
    self._update = training_step.compile_ahead(
      training_step.make_update(config, scene, renderer), config, state
    )

  def run(
    self,
    state: training.TrainState,
    about: RunMetadata,
    listener: signals.Listener,
  ) -> tuple[training.TrainState, RunMetadata]:
    """Does the steps from a state of host arrays on, see `fit`.

    Raises:
      collapse.CollapseError: if the run is to start again.
    """
    self._about, first = about, int(state.step)
    self._faults = 0
    self._state = devices.replicate(state)
    self._progress = progress.Progress(
      self._outputs.log,
      first_step=first,
      num_steps=self._config.num_steps,
      num_rays=self._config.num_rand,
      every=self._config.i_print,
    )
    try:
      self._run(first, listener)
    finally:
      self._progress.close()
      self._outputs.profile.stop()
    return devices.unreplicate(self._state), self._about

  def _run(self, first: int, listener: signals.Listener) -> None:
    config = self._config
    _, key = jax.random.split(jax.random.key(self._about['seed']))
    # Several devices of one CPU deadlock when steps are queued up.
    in_turn = jax.device_count() > 1 and jax.default_backend() == 'cpu'
    pending: collections.deque = collections.deque()
    batches = training_step.make_batches(
      config,
      self._scene,
      seed=self._about['seed'],
      start_step=first,
      num_steps=config.num_steps,
    )
    for step, batch in enumerate(batches, first + 1):
      self._outputs.profile.before(step - 1 - first)
      self._state, scalars = self._update.result()(self._state, batch, key)
      asked = self._greatest(listener.signal_number or 0)
      pending.append((step, scalars, asked))
      due = self._due(step)
      waits = in_turn or any(due) or (not multihost.is_multihost() and asked)
      stopped = self._catch_up(pending, 0 if waits else _IN_FLIGHT)
      if stopped:
        self._catch_up(pending, 0)
        self._stop(step, stopped)
      if any(due):
        with self._progress.paused():
          interrupted = multihost.run_on_main(
            functools.partial(self._pause, step, due, listener),
            self._state.learnt(),
          )
        if interrupted:
          self._stop(step, interrupted)
    # It may have come while the last state was written.
    stopped = int(self._greatest(listener.signal_number or 0))
    if stopped:
      self._stop(config.num_steps, stopped)

  def _catch_up(self, pending: collections.deque, left: int) -> int:
    """Reads steps until so many are left; gives the signal to stop, or 0."""
    stopped = 0
    while len(pending) > left:
      step, scalars, asked = pending.popleft()
      self._read(step, scalars)
      stopped = int(asked) or stopped
    return stopped

  def _due(self, step: int) -> _Due:
    config = self._config
    last = step == config.num_steps
    return _Due(
      validation=step % config.i_img == 0,
      save=step % config.i_weights == 0 or last,
      # At the end all is tested anyway.
      test=step % config.i_testset == 0 and not last,
      film=step % config.i_video == 0,
    )

  def _pause(
    self, step: int, due: _Due, listener: signals.Listener
  ) -> int | None:
    """Looks at what is learnt and keeps it, as far as it is time to.

    Returns:
      The signal that cut this short, or None.
    """
    psnr = None
    try:
      with listener.interruptible():  # Views may take minutes.
        psnr = self._validate(step) if due.validation else None
      if due.save:
        self._save(psnr)
      with listener.interruptible():
        if due.test:
          self._show(step, self._outputs.test)
        if due.film:
          self._show(step, self._outputs.film)
    except KeyboardInterrupt:
      if listener.signal_number is None:
        raise
      return listener.signal_number
    return None

  def _show(self, step: int, show: Show) -> None:
    """Draws what is learnt; if that fails, the run goes on."""
    skipped = devices.unreplicate(self._state.skipped)
    about = self._about | {'times': self._times()}
    try:
      show(
        checkpoints.CheckpointInfo(step, int(skipped), about),
        self._state.learnt(),
      )
    except (errors.UserError, OSError) as error:
      self._outputs.log.say(f'step {step}  {error} Training goes on.')

  def _stop(self, step: int, signal_number: int) -> None:
    """Keeps the state.

    Raises:
      signals.StoppedError: always, but for
      OSError: if the state can not be written.
    """
    multihost.run_on_main(lambda: self._save(must=True))
    error = signals.StoppedError(step, signal_number)
    self._outputs.log.note(str(error))
    raise error

  def _read(self, step: int, scalars: training.Scalars) -> None:
    """Waits for a step, and shows what it says."""
    scalars = jax.device_get(scalars)
    self._check(step, int(scalars['fault']))
    self._progress.show(scalars)
    if step % self._config.i_print == 0 or step == self._config.num_steps:
      values = {f'train/{x}': scalars[x] for x in _SHOWN if x in scalars}
      values['train/learning_rate'] = self._learning_rate(step - 1)
      values['train/rays_per_second'] = self._progress.rays_per_second()
      self._outputs.board.scalars(step, values)
    if step % self._config.collapse_steps == 0:
      self._look_for_collapse(step, scalars['moments'])

  def _look_for_collapse(self, step: int, moments: training.ColorStats) -> None:
    """Says so if there is one.

    Raises:
      collapse.CollapseError: if the run is to start again.
    """
    found = collapse.describe_collapse(step, moments)
    if found:
      restarts = self._about['restarts']
      if self._config.restart_collapsed and restarts < collapse.MAX_RESTARTS:
        raise collapse.CollapseError(found)
      self._outputs.log.say(f'{found} It is not started again.')

  def _check(self, step: int, fault: int) -> None:
    """Stops at a fault, with the state from before it kept.

    Raises:
      ValueError: names the step, and the array with the fault.
    """
    self._faults = self._faults + 1 if fault else 0
    skips = self._config.skip_nonfinite
    if not fault or (skips and self._faults < _MOST_SKIPPED):
      return
    self._state = self._state._replace(fault=self._state.fault * 0)
    saved = multihost.run_on_main(self._save)
    kept = 'The state before it is kept. ' if saved else ''
    text = (
      f'Step {step}: {self._names[fault - 1]} holds a NaN or infinity'
      f'{f", as did {_MOST_SKIPPED} steps in a row" if skips else ""}. '
      f'{kept}A smaller config.learning_rate, '
      'config.grad_max_norm or config.skip_nonfinite=True may help.'
    )
    self._outputs.log.note(text)
    raise errors.UserError(text)

  def _validate(self, step: int) -> float:
    """Renders a validation view, and gives its PSNR."""
    psnr = self._outputs.validate(self._state.learnt(), step)
    width = len(str(self._config.num_steps))
    self._outputs.log.say(f'step {step:>{width}}  validation {psnr:.2f} dB')
    return psnr

  def _save(
    self, validation_psnr: float | None = None, *, must: bool = False
  ) -> bool:
    """Keeps the state, unless it is kept already; whether it is kept then.

    Raises:
      OSError: if it can not be written, and it must, or it is the last one.
    """
    state = devices.unreplicate(self._state)
    if int(state.step) in self._outputs.kept.steps():
      return True
    about = self._about | {'times': self._times()}
    last = int(state.step) == self._config.num_steps
    try:
      self._outputs.kept.save(state, about, validation_psnr=validation_psnr)
    except checkpoints.SaveError as error:
      if must or last:
        self._outputs.log.note(str(error))
        raise
      self._outputs.log.say(f'{error} Training goes on; the next is tried.')
      return False
    if last:
      self._about = about
    return True

  def _times(self) -> dict[str, float]:
    """Returns seconds of training so far, and rays per second."""
    before = self._about['times']
    seconds = time.perf_counter() - self._start
    times = {'train_seconds': round(before['train_seconds'] + seconds, 2)}
    # A run that an older version began did not measure them.
    if 'step_seconds' in before:
      seconds = self._progress.step_seconds()
      times['step_seconds'] = round(before['step_seconds'] + seconds, 2)
    return times | {'rays_per_second': round(self._progress.rays_per_second())}
