"""The built-in scene in a minute or two: the default config of `train.py`."""

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
  # A hash grid trains best at a high rate that decays late, and with a short
  # memory of its gradients, which are small.
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
  # Once empty space is known, a ray has four to six samples: a batch is two
  # microbatches.
  config.occupancy.max_samples = 10_304
  config.occupancy.render_substeps = 2
  config.i_img = 130
  config.i_weights = 260
  return config
