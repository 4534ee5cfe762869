"""DeepVoxels lego, in about ten minutes on two CPU cores."""

import ml_collections

from experiments.configs import laptop_procedural


def get_config() -> ml_collections.ConfigDict:
  config = laptop_procedural.get_config()
  config.dataset_type = 'deepvoxels'
  config.shape = 'lego'
  config.testskip = 1
  # Encloses the model: all samples are inside.
  config.box = (-0.75, -0.75, -0.75, 0.75, 0.75, 0.75)
  config.num_steps = 8_000
  config.lr_decay = 4
  config.num_samples = 32
  config.num_importance = 32
  config.render_factor = 4
  config.i_print = 500
  config.i_img = 2000
  config.i_weights = 2000
  return config
