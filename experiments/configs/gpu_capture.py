"""Own photographs, as `capture.py`, for one GPU.

Its rates and number of steps are not tuned.
"""

import ml_collections

from experiments.configs import capture


def get_config() -> ml_collections.ConfigDict:
  config = capture.get_config()
  config.num_rand = 2**14
  config.num_samples = 32
  config.proposal.num_samples = (128,)
  config.hash.num_levels = 16
  config.hash.hashmap_size = 2**19
  config.hash.max_resolution = 4096
  config.hash.color_depth = 2
  config.num_steps = 20_000
  config.i_print = 500
  config.i_img = 5000
  config.i_weights = 5000
  return config
