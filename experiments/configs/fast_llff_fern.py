"""LLFF fern at 1/8 size, in ten minutes on two CPU cores."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.dataset_type = 'llff'
  config.shape = 'fern'
  config.down_factor = 8
  config.white_bkgd = False
  config.random_background = False  # Photographs have no alpha.
  # The background is opaque, however far it is.
  config.last_interval = 'infinite'
  config.num_steps = 1_800
  config.num_rand = 2048
  config.num_poses = 120
  config.render_factor = 4
  # In device coordinates: from near plane to infinity is 2.
  config.occupancy.step = 0.04
  config.occupancy.budget = 65_536
  config.i_print = 100
  config.i_img = 300
  config.i_weights = 1800
  return config
