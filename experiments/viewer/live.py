"""The viewer of a run while it trains."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import jax

from experiments.builders import experiment as experiment_lib
from experiments.builders import model
from experiments.configs import schema
from experiments.trainer import steps
from experiments.viewer import server
from nerf_haiku import devices, models
from nerf_haiku.renderers import base

# Seconds between models, so that a view at rest has the time to sharpen.
_EVERY = 8.0


class Page(Protocol):
  """What a watcher tells of newer models: `server.Viewer`."""

  @property
  def num_clients(self) -> int:
    """Returns how many look."""

  def refresh(self) -> None:
    """Tells that there is a newer model."""


class Watcher:
  """Hands the model that is trained to a viewer, now and then."""

  def __init__(
    self, first: models.Model, *, clock: Callable[[], float] = time.monotonic
  ):
    """Makes a watcher.

    Args:
      first: the model before training.
      clock: seconds.
    """
    self._model = first
    self._clock = clock
    self._taken_at = -float('inf')
    self.viewer: Page | None = None

  def model(self) -> models.Model:
    """Returns the model of some steps ago."""
    return self._model

  def __call__(
    self, step: int, get_variables: Callable[[], base.Variables]
  ) -> None:
    """Takes a copy of the variables, see `steps.Watch`."""
    viewer = self.viewer
    if viewer is None or not viewer.num_clients:
      return
    if self._clock() < self._taken_at + _EVERY:
      return
    self._taken_at = self._clock()
    variables = devices.unreplicate(get_variables())
    self._model = self._model.replace(variables, step)
    viewer.refresh()


@contextlib.contextmanager
def watch(
  experiment: experiment_lib.Experiment, *, host: str, port: int
) -> Iterator[steps.Watch]:
  """Serves a viewer, and yields what the training loop tells of its steps.

  Args:
    experiment: what is trained.
    host: address that the viewer listens at.
    port: its port.
  """
  config, scene = experiment.config, experiment.scene
  variables = jax.jit(experiment.renderer.init)(jax.random.key(0))
  record = model.make_record(config, scene)
  watcher = Watcher(
    models.make_model(record, server.seen_from_anywhere(scene), variables)
  )
  with server.Viewer(
    watcher.model, scene, host=host, port=port, shares_time=True
  ) as viewer:
    watcher.viewer = viewer
    viewer.show_photos(server.photos_of(scene.train, schema.background(config)))
    yield watcher
