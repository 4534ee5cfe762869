"""The built-in scene with small versions of the paper's two networks."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.dataset_type = 'procedural'
  config.procedural.size = 100
  config.white_bkgd = True
  config.pixel_center = True
  config.num_steps = 1800
  # A small network trains best at a high rate that decays fast.
  config.learning_rate = 1e-2
  config.lr_decay = 1
  config.num_rand = 512
  config.num_samples = 24
  config.num_importance = 32
  config.emb.multires = 8
  # The coarse network only guides the samples of the fine one.
  config.model.net_depth = 4
  config.model.net_width = 32
  config.model.skips = (2,)
  config.model_fine.net_depth = 4
  config.model_fine.net_width = 64
  config.model_fine.skips = (2,)
  config.i_img = 450
  config.i_weights = 900
  # Its gradient never vanishes, so that no seed ends in an empty scene.
  config.density_activation = 'softplus'
  config.last_interval = 'far'
  return config
