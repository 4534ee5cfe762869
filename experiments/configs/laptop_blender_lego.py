"""Blender lego at 1/8 size, in about ten minutes on two CPU cores."""

import ml_collections

from experiments.configs import laptop_procedural


def get_config() -> ml_collections.ConfigDict:
  config = laptop_procedural.get_config()
  config.dataset_type = 'blender'
  config.shape = 'lego'
  config.down_factor = 8
  # Encloses the model: all samples are inside.
  config.box = (-1.2, -1.2, -1.2, 1.2, 1.2, 1.2)
  config.num_steps = 8_000
  config.lr_decay = 4
  config.num_samples = 32
  config.num_importance = 32
  config.model.net_width = 64
  config.i_print = 500
  config.i_img = 1000
  config.i_weights = 2000
  return config
