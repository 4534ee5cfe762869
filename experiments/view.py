"""Shows a trained run in the browser, from wherever you look.

  python experiments/view.py --model_dir=runs/lego

A run that another process trains is shown by its newest checkpoint.
"""

import os
import sys

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from experiments.processes import signals

if __name__ == '__main__':
  signals.exit_on_interrupt()  # Before the imports that take seconds.

import pathlib
import signal
import threading
import time

from absl import flags

from experiments import launch
from experiments.builders import scene_loader
from experiments.configs import schema
from experiments.outputs import json_files, run_dir
from experiments.viewer import server, viewer_flags
from nerf_haiku import cameras, checkpoints, errors, models
from nerf_haiku.io import safe_reading

_STEP = flags.DEFINE_integer(
  'step', None, 'Checkpoint step; default: the latest, and newer ones later.'
)
_PHOTOS = flags.DEFINE_bool(
  'photos', True, 'Whether to show the photographs of the training cameras.'
)
_CAMERAS = flags.DEFINE_string(
  'cameras', None, 'JSON file with cameras, which the page has as a path.'
)
_SAVE_PATH = flags.DEFINE_string(
  'save_path',
  None,
  'JSON file that the page may write the cameras of a path to, for '
  'render.py --cameras.',
)
# Seconds between looks for a newer checkpoint.
_POLL = 5.0


class _Newest:
  """The model of a run, by its newest checkpoint."""

  def __init__(self, model_dir: pathlib.Path, step: int | None):
    self._folder = model_dir
    opened = models.open_run(model_dir, step)
    self.scene = opened.scene
    self._model = models.make_model(
      opened.record,
      server.seen_from_anywhere(opened.scene),
      opened.variables,
      opened.step,
    )

  def __call__(self) -> models.Model:
    return self._model

  def update(self) -> bool:
    """Reads a newer checkpoint, if there is one."""
    with checkpoints.Checkpoints(self._folder / models.CHECKPOINTS) as existing:
      steps = existing.steps()
    if not steps or steps[-1] <= self._model.step:
      return False
    try:
      newer = models.open_run(self._folder)
    except (errors.UserError, OSError):
      return False  # It is being written, or deleted: later.
    self._model = self._model.replace(newer.variables, newer.step)
    return True


def main() -> None:
  """Serves the page until it is interrupted."""
  try:
    _serve()
  except KeyboardInterrupt as error:
    # At once: threads of the web server would abort the end of Python.
    terminated = isinstance(error, signals.TerminatedError)
    sys.stdout.flush()
    os._exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))


def _serve() -> None:
  model_dir = launch.model_dir()
  newest = _Newest(model_dir, _STEP.value)
  # Compiles, so that the first picture does not wait for it.
  newest().render(cameras.take(newest().scene.train.cameras, [0]))
  with server.Viewer(
    newest,
    newest.scene,
    host=viewer_flags.HOST.value,
    port=viewer_flags.PORT.value,
    path_file=_expand(_SAVE_PATH.value),
    cameras_file=_expand(_CAMERAS.value),
  ) as viewer:
    print(viewer_flags.describe())
    if _PHOTOS.value:
      threading.Thread(
        target=_show_photos, args=(viewer, model_dir), daemon=True
      ).start()
    while True:
      time.sleep(_POLL)
      signals.raise_if_interrupted()
      if _STEP.value is None and newest.update():
        viewer.refresh()


def _expand(path: str | None) -> pathlib.Path | None:
  return None if path is None else safe_reading.expand_user(path)


def _show_photos(viewer: server.Viewer, model_dir: pathlib.Path) -> None:
  """Reads the photographs; without the data set the page has none."""
  try:
    stored = json_files.read_json(model_dir / run_dir.CONFIG, 'data_dir')
    data_dir = launch.DATA_DIR.value or stored['data_dir']
    config = scene_loader.resolve(launch.CONFIG.value, data_dir)
    train = scene_loader.load_scene(config, data_dir).train
  except errors.UserError as error:
    print(f'Without photographs: {error}')
    return
  viewer.show_photos(server.photos_of(train, schema.background(config)))


if __name__ == '__main__':
  launch.run(main, launch.saved_config)
