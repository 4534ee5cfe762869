"""LLFF fern at the size of the paper, for one GPU.

Its rates and number of steps are not tuned.
"""

import ml_collections

from experiments.configs import fast_llff_fern


def get_config() -> ml_collections.ConfigDict:
  config = fast_llff_fern.get_config()
  config.down_factor = 4
  config.num_rand = 2**13
  config.hash.num_levels = 16
  config.hash.hashmap_size = 2**19
  config.hash.max_resolution = 1024
  config.hash.color_depth = 2
  config.occupancy.max_samples = 2**19
  config.occupancy.resolution = 128
  config.occupancy.step_size = 0.02
  config.num_steps = 20_000
  config.i_print = 500
  config.i_img = 5000
  config.i_weights = 5000
  return config
