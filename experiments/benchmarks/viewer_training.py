"""What a viewer costs a run that trains: rays per second with and without it.

  python experiments/benchmarks/viewer_training.py

Trains the quickstart without a client, with one whose camera rests, and with
one whose camera moves all the time, in turns. A session renders for a screen
that is not there: what a browser on the same machine takes comes on top. A view
at rest is rendered anew whenever the page has newer parameters.
"""

import collections
import contextlib
import functools
import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import machine
from experiments.builders import experiment as experiment_lib
from experiments.builders import model, scene_loader
from experiments.configs import quickstart
from experiments.processes import environment
from experiments.viewer import live, server, sessions
from nerf_haiku import devices, models

_TURNS = flags.DEFINE_integer('turns', 3, 'Repetitions of each kind.')
_SECONDS = flags.DEFINE_float('seconds', 20.0, 'Of each measurement.')
_SIZE = flags.DEFINE_integer('size', 800, 'Height and width of the window.')
_FIRST = 130  # Steps before it is measured: those of a growing batch.
_FOV = 0.7


class _Screen:
  def show(self, picture: np.ndarray, depth: np.ndarray) -> None:
    """See `sessions.Screen`."""


class _Run:
  """A run that trains for some seconds at a time."""

  def __init__(self, experiment: experiment_lib.Experiment):
    init_key, self._key = jax.random.split(jax.random.key(0))
    self._update = experiment.compile_update().result()
    self._state = devices.replicate(experiment.init_state(init_key))
    (self._data,) = experiment.make_inputs(seed=0, start_step=0, num_steps=1)

  def variables(self) -> Any:
    """Returns the variables of the next step, see `steps.Watch`."""
    return self._state.variables()

  def train(self, until: Callable[[int], bool], watch: Any = None) -> int:
    """Takes steps, two of them in flight; returns how many."""
    in_flight: collections.deque[Any] = collections.deque()
    count = 0
    while not until(count):
      self._state, scalars = self._update(self._state, self._data, self._key)
      in_flight.append(scalars)
      if len(in_flight) > 2:
        jax.device_get(in_flight.popleft())
      if watch is not None:
        watch(count, self.variables)
      count += 1
    jax.block_until_ready(in_flight)
    return count


class _Page:
  """Stands for a viewer with one client."""

  num_clients: int = 1

  def __init__(self, session: sessions.Session):
    self.refresh = session.refresh


@contextlib.contextmanager
def _client(
  experiment: experiment_lib.Experiment, run: _Run, *, moving: bool
) -> Iterator[live.Watcher]:
  """A client at work, and what hands it the parameters."""
  scene = server.seen_from_anywhere(experiment.scene)
  record = model.make_record(experiment.config, experiment.scene)
  variables = devices.unreplicate(run.variables())
  watcher = live.Watcher(models.make_model(record, scene, variables))
  renderer = sessions.Renderer(watcher.model, scene, shares_time=True)
  session = sessions.Session(renderer, _Screen())
  watcher.viewer = _Page(session)
  poses = np.asarray(scene.train.cameras.camera_to_world, np.float64)
  size, ended = _SIZE.value, threading.Event()

  def look() -> None:
    frame = 0
    while not ended.wait(0.02):
      pose = poses[frame // 20 % len(poses)].copy()
      pose[:, 3] += 1e-3 * frame  # Every look is another one.
      session.look(sessions.Look(pose, _FOV, size, size, 'color'))
      frame += 1
      if not moving:
        return

  thread = threading.Thread(target=look)
  session.start()
  thread.start()
  time.sleep(2.0)  # Its functions are compiled, and its rate is known.
  try:
    yield watcher
  finally:
    ended.set()
    thread.join()
    session.close()
    session.join()


def _is_past(end: float, count: int) -> bool:
  del count
  return time.perf_counter() > end


def main(argv: list[str]) -> None:
  """Measures in turns, and prints the table."""
  del argv
  environment.quiet_libraries()
  environment.retain_freed_memory()
  config = quickstart.get_config()
  experiment = experiment_lib.make_experiment(
    config, scene_loader.load_scene(config, None)
  )
  run = _Run(experiment)
  run.train(lambda count: count == _FIRST)
  kinds = ('none', 'at rest', 'moving')
  rates: dict[str, list[float]] = {x: [] for x in kinds}
  for _ in range(_TURNS.value):
    for kind in kinds:
      with contextlib.ExitStack() as stack:
        watcher = None
        if kind != 'none':
          moving = kind == 'moving'
          watcher = stack.enter_context(_client(experiment, run, moving=moving))
        start = time.perf_counter()
        end = start + _SECONDS.value
        count = run.train(functools.partial(_is_past, end), watcher)
        seconds = time.perf_counter() - start
        rates[kind].append(count * config.num_rand / seconds)
  base = statistics.median(rates['none'])
  machine.print_table(
    ('client', 'rays a second of training', 'of those without'),
    [
      [
        kind,
        f'{statistics.median(rates[kind]):,.0f}',
        machine.format_range([x / base for x in rates[kind]]),
      ]
      for kind in kinds
    ],
  )


if __name__ == '__main__':
  app.run(main)
