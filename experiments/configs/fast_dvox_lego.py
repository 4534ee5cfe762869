"""DeepVoxels lego, in ten minutes on two CPU cores."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.dataset_type = 'deepvoxels'
  config.shape = 'lego'
  config.testskip = 1
  config.random_background = False  # Its images have no alpha.
  # Encloses the model: the grids spend no cells on what is outside.
  config.box = (-0.75, -0.75, -0.75, 0.75, 0.75, 0.75)
  config.num_steps = 4_000
  config.batch_warmup_steps = 200
  config.lr_schedule = 'constant * decay_every'
  config.lr_decay = 4
  config.decay_factor = 0.03
  config.hash.hashmap_size = 2**18
  config.occupancy.step_size = 0.0075  # About two pixels.
  config.occupancy.resolution = 96
  config.render_factor = 4
  config.i_print = 500
  config.i_img = 1000
  config.i_weights = 3000
  return config
