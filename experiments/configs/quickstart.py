"""The built-in scene in a minute or two: what `train.py` runs by itself."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.dataset_type = 'procedural'
  config.shape = 'still_life'
  config.white_bkgd = True
  config.pixel_center = True
  config.density_activation = 'softplus'
  config.last_interval = 'far'
  for model in (config.model, config.model_fine):
    model.net_depth = 4
    model.net_width = 64
    model.skips = (2,)
  config.emb.multires = 8
  config.num_samples = 32
  config.num_importance = 32
  config.num_rand = 1024
  config.learning_rate = 2e-3
  config.num_steps = 1000
  config.lr_decay = 1
  return config
