"""Blender lego at half size, in half an hour on two CPU cores."""

import ml_collections

from experiments.configs import fast_blender_lego


def get_config() -> ml_collections.ConfigDict:
  config = fast_blender_lego.get_config()
  config.down_factor = 2
  config.random_background = False
  config.lr_schedule = 'constant * decay_every'
  config.lr_decay = 14
  config.decay_factor = 0.05
  config.hash.num_levels = 8
  config.hash.max_resolution = 0  # As fine as the pixels.
  config.hash.hashmap_size = 2**18
  # Two pixels: half the samples at the same quality.
  config.occupancy.step_size = 0.0145
  config.occupancy.resolution = 128
  config.batch_warmup_steps = 400
  config.num_steps = 14_000
  config.i_print = 500
  config.i_img = 1000
  config.i_weights = 5000
  return config
