"""LLFF fern at 1/8 size, in about fifteen minutes on two CPU cores."""

import ml_collections

from experiments.configs import laptop_procedural


def get_config() -> ml_collections.ConfigDict:
  config = laptop_procedural.get_config()
  config.dataset_type = 'llff'
  config.shape = 'fern'
  config.down_factor = 8
  config.white_bkgd = False
  # The background is opaque, however far it is.
  config.last_interval = 'infinite'
  config.learning_rate = 5e-3
  config.num_steps = 8_000
  config.lr_decay = 5
  config.num_samples = 32
  config.num_importance = 32
  config.model_fine.net_width = 128
  config.num_poses = 120
  config.render_factor = 4
  config.i_print = 500
  config.i_img = 2000
  config.i_weights = 2000
  return config
