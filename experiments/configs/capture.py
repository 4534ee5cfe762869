"""Own photographs with cameras of COLMAP, instant-ngp or nerfstudio."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.dataset_type = 'capture'
  config.shape = ''  # The folder that --data_dir names.
  config.down_factor = 0  # At most 1600 pixels.
  config.contraction = True
  config.gradient_scaling = 1.0  # Against what floats before the cameras.
  config.white_bkgd = False
  config.random_background = False  # Photographs have no alpha.
  # What is at the end of a ray is opaque, however far it is.
  config.last_interval = 'infinite'
  # Little of unbounded space is empty: proposals cost less than marching.
  config.renderer = 'proposal'
  config.num_rand = 1024
  config.num_samples = 16
  config.batch_warmup_steps = 0
  config.num_steps = 2_500
  config.learning_rate = 1e-2
  # Without this loss there is haze.
  config.distortion_loss_weight = 0.002
  config.hash.hashmap_size = 2**18
  config.hash.max_resolution = 1024
  config.num_poses = 120
  config.render_factor = 2
  config.i_print = 100
  config.i_img = 500
  config.i_weights = 500
  return config
