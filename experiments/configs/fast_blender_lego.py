"""Blender lego at 1/8 size, in a minute on two CPU cores."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.field = 'hash'
  config.renderer = 'occupancy'
  config.density_activation = 'exp'
  config.last_interval = 'far'
  config.dataset_type = 'blender'
  config.shape = 'lego'
  config.down_factor = 8
  config.box = (-1.2, -1.2, -1.2, 1.2, 1.2, 1.2)
  config.white_bkgd = True
  config.pixel_center = True
  config.learning_rate = 1e-2
  config.lr_decay = 1
  config.adam_eps = 1e-15
  config.adam_b2 = 0.99
  config.num_rand = 8192
  config.batch_growth = 200
  config.num_steps = 1200
  config.i_img = 100000
  config.i_weights = 100000
  return config
