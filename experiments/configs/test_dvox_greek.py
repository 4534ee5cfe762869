"""DeepVoxels greek, the quick test of bmild/nerf."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.dataset_type = 'deepvoxels'
  config.shape = 'greek'
  config.batching = False
  config.num_rand = 1024
  config.num_samples = 64
  config.num_importance = 64
  config.num_steps = 1_000_000
  config.lr_decay = 250
  config.white_bkgd = True
  config.video_path = 'original'
  return config
