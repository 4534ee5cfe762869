"""The scene of the tiny NeRF notebook, in a few minutes on two CPU cores."""

import ml_collections

from experiments.configs import laptop_procedural


def get_config() -> ml_collections.ConfigDict:
  config = laptop_procedural.get_config()
  config.dataset_type = 'tiny'
  config.shape = 'tiny_nerf_data'
  config.testskip = 1
  config.white_bkgd = False
  config.num_steps = 4_000
  config.lr_decay = 2
  config.num_samples = 32
  config.num_importance = 32
  config.i_img = 1000
  config.i_weights = 1000
  return config
