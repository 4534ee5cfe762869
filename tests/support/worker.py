"""The program that `processes_test` starts as several processes of one run."""

import pathlib
import sys
import time

import jax
import numpy as np
import optax
from absl import app, flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.builders import model, scene_loader
from experiments.processes import environment, heartbeat, multihost
from nerf_haiku import checkpoints, devices, scenes, training
from tests.support import configs
from tests.support import environment as test_environment

_RAYS = 64


class Model:
  """A tiny model, and a step of it whose gradient the optimizer keeps."""

  def __init__(self) -> None:
    self.config = configs.small(
      width=16,
      num_train=3,
      num_test=1,
      num_rand=_RAYS,
      num_samples=8,
      num_importance=8,
      chunk=32,
      microbatch=16,
    )
    self.scene = scene_loader.load_scene(self.config, None)
    self.renderer = model.make_renderer(self.config, self.scene)
    self._optimizer = optax.trace(decay=0.0)

  def state(self) -> training.TrainState:
    return training.init_state(
      self.renderer, self._optimizer, jax.random.key(0)
    )

  def step(
    self, state: training.TrainState, part: slice, num_devices: int
  ) -> training.TrainState:
    """One step of the rays of a part of the batch; host arrays."""
    views = jax.tree.map(np.asarray, self.scene.train.cameras)
    cast = model.make_cast_fn(self.config, self.scene)
    update = training.make_update(
      self.renderer,
      self._optimizer,
      lambda camera, pixel: cast(views, camera, pixel),
      microbatch=8,
    )
    draw = np.random.default_rng(0)
    batch = scenes.Batch(
      camera=draw.integers(0, 3, _RAYS, dtype=np.int32),
      pixel=draw.integers(0, 16, (_RAYS, 2), dtype=np.int32),
      rgb=draw.random((_RAYS, 3), dtype=np.float32),
    )
    batch = devices.shard(jax.tree.map(lambda x: x[part], batch), num_devices)
    state = devices.replicate(state, num_devices)
    return devices.unreplicate(update(state, batch, jax.random.key(1))[0])

  def view(self, state: training.TrainState) -> np.ndarray:
    """Renders the test view, on all processes if there are several."""
    render = model.make_render_image(self.config, self.scene, self.renderer)
    variables = devices.replicate(state.variables())
    views = self.scene.test.cameras
    return multihost.run_on_main(
      lambda: render(variables, views, 0).rgb, variables
    )


def _step() -> None:
  """Restores a state, does a step and saves it; writes what each process has.

  The state is restored and saved by process 0 alone.
  """
  folder, index = pathlib.Path(flags.FLAGS.folder), jax.process_index()
  model, half = Model(), _RAYS // jax.process_count()
  with checkpoints.Checkpoints(folder / 'kept') as kept:
    template = model.state()
    state, _ = multihost.run_on_main(
      lambda: kept.restore(template), like=(template, {})
    )
    before = devices.unreplicate(devices.replicate(state))
    part = slice(index * half, (index + 1) * half)
    after = model.step(before, part, jax.local_device_count())
    multihost.run_on_main(lambda: kept.save(after, {'by': index}))
    shown = model.view(after)
  for name, tree in (('before', before), ('after', after), ('view', shown)):
    np.savez(folder / f'{name}_{index}.npz', *jax.tree.leaves(tree))


def _wait() -> None:
  """Communicates with the others for ever."""
  global_max = training.make_global_max()
  while int(global_max(jax.process_index())) == jax.process_count() - 1:
    print('together', flush=True)
    time.sleep(0.1)


def main(argv: list[str]) -> None:
  del argv
  waits = flags.FLAGS.task == 'wait'
  environment.quiet_libraries()
  environment.set_compilation_cache(test_environment.CACHE)
  multihost.initialize(
    flags.FLAGS.coordinator,
    flags.FLAGS.num_processes,
    flags.FLAGS.process_index,
    # Compilation may take longer than the silence that a test waits for.
    heartbeat_interval=0.25 if waits else heartbeat.INTERVAL,
    heartbeat_timeout=3.0 if waits else heartbeat.TIMEOUT,
  )
  try:
    _wait() if waits else _step()
  except Exception as error:
    multihost.exit_with_traceback(error)
    raise
  multihost.exit_process(0)


def _define_flags() -> None:
  """Defines the flags: on import they may clash with those of train.py."""
  flags.DEFINE_enum('task', None, ('wait', 'step'), 'What to do.')
  flags.DEFINE_string('folder', None, 'What `step` reads and writes.')
  flags.DEFINE_string('coordinator', None, 'host:port of process 0.')
  flags.DEFINE_integer('num_processes', None, 'Number of processes.')
  flags.DEFINE_integer('process_index', None, 'Index of this process.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
