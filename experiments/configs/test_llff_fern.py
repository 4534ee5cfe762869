"""LLFF fern at an eighth of its size, the quick test of bmild/nerf."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.dataset_type = 'llff'
  config.shape = 'fern'
  config.down_factor = 8
  config.batching = True
  config.num_rand = 1024
  config.num_samples = 64
  config.num_importance = 64
  config.raw_noise_std = 1.0
  config.num_steps = 1_000_000
  config.lr_decay = 250
  config.llff.hold = 8
  config.num_poses = 120
  config.video_path = 'original'
  return config
