"""The built-in scene in a minute or two: what `train.py` runs by itself."""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.dataset_type = 'procedural'
  config.procedural.size = 100
  config.white_bkgd = True
  config.pixel_center = True
  config.field = 'hash'
  config.renderer = 'occupancy'
  config.density_activation = 'exp'
  config.last_interval = 'far'
  # A hash grid learns best at a high rate that falls late; its gradients are
  # small, and forgotten soon.
  config.learning_rate = 2e-2
  config.lr_schedule = 'cosine'
  config.decay_factor = 0.03
  config.adam_b2 = 0.99
  config.adam_eps = 1e-15
  config.batch_warmup_steps = 130
  config.random_background = True
  config.num_steps = 260
  config.hash.color_depth = 1
  config.occupancy.resolution = 64
  # A ray has four to six samples once space is known to be empty: two pieces.
  config.occupancy.max_samples = 10_304
  config.i_img = 130
  config.i_weights = 260
  return config
