"""What `processes_test` starts as one process of many.

python tests/support/worker.py --task=wait --coordinator=... (as of train.py)
"""

import pathlib
import sys
import time

import jax
import numpy as np
import optax
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.builders import model, scene_loader
from experiments.processes import multihost
from nerf_haiku import cameras, checkpoints, devices, scenes, training
from tests.support import configs

_TASK = flags.DEFINE_enum('task', 'wait', ('wait', 'step'), 'What to do.')
_FOLDER = flags.DEFINE_string('folder', None, 'What `step` reads and writes.')

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
      draw.integers(0, 3, _RAYS, dtype=np.int32),
      draw.integers(0, 16, (_RAYS, 2), dtype=np.int32),
      draw.random((_RAYS, 3), dtype=np.float32),
    )
    batch = devices.shard(jax.tree.map(lambda x: x[part], batch), num_devices)
    state = devices.replicate(state, num_devices)
    return devices.unreplicate(update(state, batch, jax.random.key(1))[0])

  def view(self, state: training.TrainState) -> np.ndarray:
    """Rendered by all processes, in `processes.once` if there are many."""
    render = model.make_render_view(self.config, self.scene, self.renderer)
    learnt = devices.replicate(state.learnt())
    taken: cameras.Cameras = self.scene.test.cameras
    return multihost.run_on_main(lambda: render(learnt, taken, 0).rgb, learnt)


def _step() -> None:
  """Reads a state, does a step, keeps it; each process tells what it has."""
  folder, index = pathlib.Path(_FOLDER.value), jax.process_index()
  model, half = Model(), _RAYS // jax.process_count()
  with checkpoints.Checkpoints(folder / 'kept') as kept:
    state, _ = multihost.run_on_main(lambda: kept.restore(model.state()))
    before = devices.unreplicate(devices.replicate(state))
    part = slice(index * half, (index + 1) * half)
    after = model.step(before, part, jax.local_device_count())
    multihost.run_on_main(lambda: kept.save(after, {'by': index}))
    shown = model.view(after)
  for name, tree in (('before', before), ('after', after), ('view', shown)):
    np.savez(folder / f'{name}_{index}.npz', *jax.tree.leaves(tree))


def main() -> None:
  """Does what `--task` asks for."""
  if _TASK.value == 'step':
    _step()
    return
  greatest = training.make_global_max()
  while int(greatest(jax.process_index())) == jax.process_count() - 1:
    print('together', flush=True)
    time.sleep(0.1)


if __name__ == '__main__':
  launch.run(main, launch.quickstart_config)
