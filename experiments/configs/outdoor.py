"""The built-in scene outdoors, in unbounded space that is contracted."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.procedural.unbounded = True
  config.procedural.size = 128
  config.procedural.num_train = 80
  config.contraction = True
  # Photographs show what is there up to the horizon, on no background.
  config.white_bkgd = False
  config.random_background = False
  config.last_interval = 'infinite'
  config.distortion_loss_weight = 0.002
  config.num_steps = 600
  config.num_rand = 2048
  config.hash.hashmap_size = 2**17
  # Some three pixels: little of this space is empty, so that steps cost most.
  config.occupancy.step_size = 0.03
  config.occupancy.max_samples = 32768
  config.i_img = 300
  config.i_weights = 600
  return config
