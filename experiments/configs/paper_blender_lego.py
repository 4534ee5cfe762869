"""Blender lego at full size, as in the paper."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.dataset_type = 'blender'
  config.shape = 'lego'
  config.batching = False
  config.num_rand = 1024
  config.num_samples = 64
  config.num_importance = 128
  config.num_steps = 500_000
  config.lr_decay = 500
  config.white_bkgd = True
  config.video_path = 'original'
  return config
