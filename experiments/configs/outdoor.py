"""The built-in scene outdoors, in unbounded space that is contracted."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.procedural.unbounded = True
  config.procedural.size = 128
  config.procedural.num_train = 80
  config.contraction = True
  # Photographs show a background to the horizon, no other color.
  config.white_bkgd = False
  config.random_background = False
  config.num_steps = 600
  config.batch_warmup_steps = 300
  config.num_rand = 2048
  config.hash.hashmap_size = 2**18
  config.occupancy.max_samples = 32768
  config.i_img = 300
  config.i_weights = 600
  return config
