"""Blender lego at full size, in an hour on two CPU cores."""

import ml_collections

from experiments.configs import fast_blender_lego


def get_config() -> ml_collections.ConfigDict:
  config = fast_blender_lego.get_config()
  config.down_factor = 1
  # The larger the table, the more rays are worth its update.
  config.num_rand = 8192
  config.batch_warmup_steps = 800
  config.hash.num_levels = 8
  config.hash.max_resolution = 0  # As fine as the pixels.
  config.hash.hashmap_size = 2**19
  config.occupancy.step_size = 0.0125  # About three pixels.
  config.occupancy.resolution = 128
  config.num_steps = 17_000
  config.i_print = 500
  config.i_img = 2000
  config.i_weights = 5000
  return config
