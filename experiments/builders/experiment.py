"""An experiment: all that a config and a scene determine, built once."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import ml_collections
import optax

from experiments.builders import model, training_step
from nerf_haiku import image_rendering, scenes, training


class Experiment(NamedTuple):
  """A scene, and the functions that fit a model to it and render it.

  Nothing of it is compiled before it is called.
  """

  config: ml_collections.ConfigDict
  scene: scenes.Scene
  renderer: model.Renderer
  schedule: optax.Schedule  # the learning rate of a step.
  optimizer: optax.GradientTransformation
  update: training_step.Update
  render_image: image_rendering.RenderImage
  # Renders with the coarse network; None where there is one network only.
  render_coarse: image_rendering.RenderImage | None

  def init_state(self, key: jax.Array) -> training.TrainState:
    """Returns the state before the first update."""
    return training.init_state(
      self.renderer,
      self.optimizer,
      key,
      training_step.init_image_params(self.config, self.scene),
    )

  def state_shapes(self) -> training.TrainState:
    """Returns the shapes of a state's arrays."""
    return jax.eval_shape(self.init_state, jax.random.key(0))

  def make_batches(
    self, *, seed: int, start_step: int, num_steps: int
  ) -> Iterator[scenes.Batch]:
    """Yields this process's batches of the steps from `start_step` on."""
    return training_step.make_batches(
      self.config,
      self.scene,
      seed=seed,
      start_step=start_step,
      num_steps=num_steps,
    )


def make_experiment(
  config: ml_collections.ConfigDict, scene: scenes.Scene
) -> Experiment:
  """Builds the experiment of a config that `schema.check` has passed.

  Raises:
    UserError: if the config does not fit the scene.
  """
  renderer = model.make_renderer(config, scene)
  schedule = training_step.make_schedule(config)
  optimizer = training_step.make_optimizer(config, schedule)
  has_coarse = config.renderer == 'hierarchical' and config.num_importance
  return Experiment(
    config=config,
    scene=scene,
    renderer=renderer,
    schedule=schedule,
    optimizer=optimizer,
    update=training_step.make_update(config, scene, renderer, optimizer),
    render_image=model.make_render_image(config, scene, renderer),
    render_coarse=(
      model.make_render_image(config, scene, renderer, network=0)
      if has_coarse
      else None
    ),
  )
