"""Blender lego at 1/8 size: the paper's network at half its width, occupancy.

With `--config.renderer=hierarchical` it is rendered as in the paper, with 64
and 128 samples: the baseline for skipping empty space.
"""

import ml_collections

from experiments.configs import fast_blender_lego


def get_config() -> ml_collections.ConfigDict:
  config = fast_blender_lego.get_config()
  config.field = 'mlp'
  config.density_activation = 'softplus'
  config.learning_rate = 5e-4
  config.lr_schedule = 'constant * decay_every'
  config.lr_decay = 250
  config.decay_factor = 0.1
  config.adam_b2 = 0.999
  config.adam_eps = 1e-8
  config.batch_warmup_steps = 0
  config.random_background = False
  config.num_rand = 512
  config.num_samples = 64
  config.num_importance = 128
  for model in (config.model, config.model_fine):
    model.net_width = 128
  # Microbatches whose activations fit the cache of a CPU.
  config.occupancy.max_samples = 4096
  config.num_steps = 2_000
  config.i_img = 20
  config.i_weights = 2000
  return config
