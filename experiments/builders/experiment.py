"""An experiment: all that a config and a scene determine, built once."""

import concurrent.futures
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import optax

from experiments.builders import inputs as inputs_lib
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
  inputs: inputs_lib.Inputs  # what the updates read.
  update: training_step.Update  # takes one step, see `make_inputs`.
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

  def make_inputs(
    self, *, seed: int, start_step: int, num_steps: int
  ) -> Iterator[Any]:
    """Yields what `update` reads in the steps from `start_step` on."""
    return self.inputs.of_steps(
      seed=seed, start_step=start_step, num_steps=num_steps
    )

  def make_update(self, num_steps: int) -> training_step.Update:
    """Makes an update of some steps a call."""
    return training_step.make_update(
      self.config,
      self.scene,
      self.renderer,
      self.optimizer,
      feed=self.inputs.make_feed(),
      num_steps=num_steps,
    )

  def compile_update(
    self, num_steps: int = 1
  ) -> concurrent.futures.Future[training_step.Update]:
    """Compiles an update of some steps a call, in a thread of its own."""
    return training_step.compile_ahead(
      self.update if num_steps == 1 else self.make_update(num_steps),
      self.state_shapes(),
      self.inputs.shapes(num_steps),
    )


def make_experiment(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  *,
  drawn_on: str | None = None,
) -> Experiment:
  """Builds the experiment of a config that `schema.check` has passed.

  Args:
    config: the config.
    scene: the scene.
    drawn_on: where batches are drawn; None: see `inputs.choose`.

  Raises:
    UserError: if the config does not fit the scene.
  """
  kind = drawn_on or inputs_lib.choose(config, scene)
  inputs = inputs_lib.Inputs(config, scene, kind)
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
    inputs=inputs,
    update=training_step.make_update(
      config, scene, renderer, optimizer, feed=inputs.make_feed()
    ),
    render_image=model.make_render_image(config, scene, renderer),
    render_coarse=(
      model.make_render_image(config, scene, renderer, network=0)
      if has_coarse
      else None
    ),
  )
