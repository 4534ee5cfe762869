"""How fast the viewer shows a run: frames while a camera moves, and at rest.

  python experiments/benchmarks/viewer.py --model_dir=runs/quickstart

A session renders for a screen that is not there, so that no browser takes part.
The first row is a camera that moves all the time; the second one at rest, with
the seconds until the view is sharp.
"""

import pathlib
import statistics
import sys
import time

import numpy as np
from absl import flags

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments import launch
from experiments.benchmarks import machine
from experiments.viewer import pictures, server, sessions
from nerf_haiku import cameras, models

_SIZE = flags.DEFINE_integer('size', 800, 'Height and width of the window.')
_SECONDS = flags.DEFINE_float('seconds', 10.0, 'For which a camera moves.')
_FOV = 0.7


class _Screen:
  """Notes when pictures come, and how large they are."""

  def __init__(self) -> None:
    self.shown: list[tuple[float, tuple[int, ...]]] = []

  def show(self, picture: np.ndarray, depth: np.ndarray) -> None:
    """See `sessions.Screen`."""
    del depth
    self.shown.append((time.perf_counter(), picture.shape[:2]))


def main() -> None:
  """Measures, and prints the table."""
  start = time.perf_counter()
  opened = models.open_run(launch.model_dir())
  scene = server.seen_from_anywhere(opened.scene)
  model = models.make_model(opened.record, scene, opened.variables, opened.step)
  model.render(cameras.take(scene.train.cameras, [0]))
  ready = time.perf_counter() - start
  renderer = sessions.Renderer(lambda: model, scene, shares_time=False)
  screen = _Screen()
  session = sessions.Session(renderer, screen)
  session.start()
  poses = np.asarray(scene.train.cameras.camera_to_world, np.float64)
  size = _SIZE.value
  end, frame = time.perf_counter() + _SECONDS.value, 0
  while time.perf_counter() < end:
    pose = poses[frame // 20 % len(poses)].copy()
    pose[:, 3] += 1e-3 * frame  # Every look is another one.
    session.look(sessions.Look(pose, _FOV, size, size, 'color'))
    frame += 1
    time.sleep(0.02)
  moving = [x for x in screen.shown if x[0] < end][1:]
  gaps = np.diff([x[0] for x in moving])
  sides = [x[1][0] for x in moving]
  while screen.shown[-1][1][0] < size:
    time.sleep(0.05)
  session.close()
  times: list[float] = []
  for _ in range(3):
    begin = time.perf_counter()
    model.render(pictures.make_camera(poses[0], _FOV, size, size))
    times.append(time.perf_counter() - begin)
  machine.print_table(
    ('what', 'median', 'from', 'to'),
    [
      ['model opened and compiled, s', f'{ready:.1f}', '', ''],
      [
        'frames a second, moving',
        f'{1 / np.median(gaps):.1f}',
        f'{1 / np.percentile(gaps, 90):.1f}',
        f'{1 / np.percentile(gaps, 10):.1f}',
      ],
      [
        'side of a frame, moving, pixels',
        f'{statistics.median(sides):.0f}',
        str(min(sides)),
        str(max(sides)),
      ],
      [
        f'{size} x {size} at once, s',
        f'{statistics.median(times):.1f}',
        f'{min(times):.1f}',
        f'{max(times):.1f}',
      ],
    ],
  )


if __name__ == '__main__':
  launch.run(main, launch.saved_config)
