"""Own photographs with cameras of COLMAP, instant-ngp or nerfstudio."""

import ml_collections

from experiments.configs import quickstart


def get_config() -> ml_collections.ConfigDict:
  config = quickstart.get_config()
  config.dataset_type = 'capture'
  config.shape = ''  # The folder that --data_dir names.
  config.down_factor = 0  # At most 1600 pixels.
  config.contraction = True
  config.white_bkgd = False
  config.random_background = False  # Photographs have no alpha.
  # What is at the end of a ray is opaque, however far it is.
  config.last_interval = 'infinite'
  config.num_steps = 1_500
  config.learning_rate = 1e-2
  config.batch_warmup_steps = 200
  # Without this loss there is haze, and twice as many samples.
  config.distortion_loss_weight = 0.002
  config.hash.max_resolution = 512
  # In contracted space, which is 4 wide: some 200 positions on a ray.
  config.occupancy.step_size = 0.02
  config.occupancy.resolution = 96
  config.occupancy.max_samples = 17_472
  config.num_poses = 120
  config.render_factor = 2
  config.i_print = 100
  config.i_img = 500
  config.i_weights = 500
  return config
