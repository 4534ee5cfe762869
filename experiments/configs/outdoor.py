"""The built-in scene outdoors, in unbounded space that is contracted."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.procedural.unbounded = True
  config.procedural.size = 128
  config.procedural.num_train = 80
  config.contraction = True
  config.gradient_scaling = 1.0  # Against what floats before the cameras.
  # Photographs show what is there up to the horizon, on no background.
  config.white_bkgd = False
  config.random_background = False
  config.last_interval = 'infinite'
  config.distortion_loss_weight = 0.002
  # Little of this space is empty: proposals cost less than marching through.
  config.renderer = 'proposal'
  config.num_rand = 1024
  config.num_samples = 16
  config.batch_warmup_steps = 0
  config.num_steps = 1_700
  config.hash.hashmap_size = 2**17
  config.i_img = 850
  config.i_weights = 1_700
  return config
