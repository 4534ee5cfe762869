"""Blender lego at full size, for one GPU: the sizes of instant-ngp.

On an H100 it takes two minutes.
"""

import ml_collections

from experiments.configs import fast_blender_lego


def get_config() -> ml_collections.ConfigDict:
  config = fast_blender_lego.get_config()
  config.down_factor = 1
  # Rays of a few samples each, once empty space is known.
  config.num_rand = 2**15
  config.batch_warmup_steps = 1000
  config.hash.num_levels = 16
  config.hash.hashmap_size = 2**19
  config.hash.max_resolution = 1024
  config.hash.color_depth = 2
  config.occupancy.max_samples = 2**18
  config.occupancy.resolution = 128
  config.occupancy.step_size = 0.005
  config.num_steps = 20_000
  config.i_print = 500
  config.i_img = 5000
  config.i_weights = 5000
  return config
