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
  config.num_steps = 2_700
  config.learning_rate = 1e-2
  # Few views leave the density ambiguous: without this loss there is haze, and
  # twice as many samples.
  config.distortion_loss_weight = 0.005
  # The views resolve depth less finely than the pixels.
  config.hash.max_resolution = 256
  config.num_poses = 120
  config.render_factor = 4
  # In normalized device coordinates: from the near plane to infinity is 2.
  config.occupancy.step_size = 0.04
  config.occupancy.max_samples = 17_472
  config.i_print = 100
  config.i_img = 900
  config.i_weights = 2700
  return config
