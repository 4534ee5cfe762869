"""The fields of every config, with the defaults of the flax version."""

import ml_collections

from experiments.configs import renamed_fields


def get_config() -> ml_collections.ConfigDict:
  """Returns all fields with their defaults."""
  config = renamed_fields.Section()

  # Optimization.
  config.learning_rate = 5e-4
  # 'constant * decay_every': exponential decay, see `lr_decay`; 'constant'; or
  # 'cosine': from the full rate to `decay_factor` times it at the last step.
  config.lr_schedule = 'constant * decay_every'
  config.lr_decay = 250  # Thousands of steps per factor of `decay_factor`.
  config.decay_factor = 0.1
  config.lr_warmup = 0  # Steps of linear warmup of the rate, from 0.
  config.num_steps = 1_000_000
  # Whether the rays of a step come from all images, or from one random image.
  config.batching = True
  config.num_rand = 4096  # Rays per step, over all devices.
  # Where the rays of a step are drawn: 'device', from images that each device
  # holds; 'host', by tf.data, as in the reference; or 'auto': on devices if the
  # images take at most a quarter of their free memory. A run that resumes
  # draws where it began.
  config.input = 'auto'
  # Steps that a device takes without waiting for the host, between outputs. 0:
  # 1 on a CPU; on an accelerator 16, where that many take less than 0.25
  # seconds, so that signals are answered soon.
  config.steps_per_call = 0
  # Data type of the network's activations: 'float32', or 'bfloat16' for GPUs
  # and TPUs. Parameters, encodings, densities and colors stay float32.
  config.dtype = 'float32'
  # Precision of matrix products of float32, by jax's names. 'default' is what
  # is fast on the device: TensorFloat-32 on GPUs, bfloat16 on TPUs; 'highest'
  # is float32.
  config.matmul_precision = 'default'
  config.grad_max_norm = 0.0  # Gradients are clipped to this norm; 0: not.
  # Adam's decay rate of the squared gradients, and the constant added to their
  # root. The small gradients of a hash grid need a small one.
  config.adam_b2 = 0.999
  config.adam_eps = 1e-8
  # Steps over which the number of rays per step grows, from 1/16 of num_rand to
  # num_rand; 0: none. Saves time with the occupancy renderer only.
  config.batch_warmup_steps = 0
  # Train on random background colors, for images with alpha: density cannot
  # imitate the true background. Images without alpha are opaque on them.
  config.random_background = False
  # Weight of the distortion loss (mip-NeRF 360), which reduces haze; 0: none.
  config.distortion_loss_weight = 0.0
  # Whether each training image has an affine transform of color, for photos of
  # differing exposure or white balance; and their learning rate, which falls as
  # that of the networks.
  config.exposure = False
  config.exposure_learning_rate = 1e-3
  # Whether the poses of the training cameras are corrected, see `refinement`.
  config.refine_cameras = False
  config.refinement = ml_collections.ConfigDict()
  # In radians by which a step may move what a camera sees; it falls as that of
  # the networks.
  config.refinement.learning_rate = 1e-3
  # First steps, over which this rate rises from 0: at first there is no scene
  # that poses could be compared with.
  config.refinement.warmup_steps = 500
  config.refinement.focal = False  # Whether focal lengths are corrected too.
  # Distance from a camera within which gradients are scaled by the squared
  # distance, so that nothing floats close to it (Philip and Deschaintre, 2023);
  # 0: none. In scene units; in contracted space 1 is the cameras' distance from
  # its middle.
  config.gradient_scaling = 0.0
  # Whether an update with a NaN or infinity in its loss or gradient is skipped
  # and counted, or stops the run.
  config.skip_nonfinite = False
  # Whether a run that has collapsed to one color is restarted with another
  # seed, at most three times; and the number of steps between checks.
  config.restart_collapsed = True
  config.collapse_steps = 500
  # Rays per device that are processed at a time, in training and in rendering:
  # bounds memory. 0: as many as fit the cache of a CPU; on an accelerator all
  # rays of a step, and many rays in rendering.
  config.microbatch = 0
  # Whether gradients recompute the activations of the networks instead of
  # storing them: less memory, more time.
  config.remat = False

  # The field: 'mlp', the network of the paper, or 'hash', a hash grid with
  # small networks. The renderer: 'hierarchical', the coarse and fine passes of
  # the paper; 'occupancy', which skips empty space; or 'proposal', for which
  # small networks place the samples. All pairs are possible.
  config.field = 'mlp'
  config.renderer = 'hierarchical'

  # The hash grid, with config.field='hash'.
  config.hash = renamed_fields.Section()
  config.hash.num_levels = 8
  config.hash.features_per_level = 2
  # Maximum number of entries per level: the size itself, a power of 2, not its
  # logarithm.
  config.hash.hashmap_size = 2**17
  # Cells along each side of the box, at the first level and at the last; 0: a
  # cell is as wide as a pixel.
  config.hash.base_resolution = 16
  config.hash.max_resolution = 0
  config.hash.density_width = 64  # Units of the density network's hidden layer.
  # Features that the density network passes to the color network.
  config.hash.geo_feat_dim = 15
  config.hash.color_width = 64  # Units of the color network's hidden layers.
  config.hash.color_depth = 2  # Hidden layers of the color network.

  # The occupancy grid, with config.renderer='occupancy'.
  config.occupancy = renamed_fields.Section()
  # Cells along each side of the box; 0: a cell is about two steps wide, with 32
  # to 128 cells.
  config.occupancy.resolution = 0
  # Distance between samples on a ray, in scene units; 0: the width of a pixel.
  config.occupancy.step_size = 0.0
  # Each step is divided into so many where views are rendered: positions are
  # not random there, and what lies between them is missed.
  config.occupancy.render_substeps = 1
  # Maximum number of samples that are evaluated at a time: bounds memory. Rays
  # with more are processed in several microbatches; no sample is dropped.
  config.occupancy.max_samples = 32768
  # A cell is occupied if a step through it would have at least this opacity.
  config.occupancy.alpha_threshold = 0.01
  config.occupancy.ema_decay = 0.8  # Of a cell's density, at each update of it.
  config.occupancy.update_every = 16  # Steps between updates of the grid.
  # First steps, in which each update covers all cells; later a quarter of them.
  config.occupancy.warmup_steps = 256

  # The proposal networks, with config.renderer='proposal': small hash grids of
  # densities, one after the other, that place the samples of the field.
  config.proposal = ml_collections.ConfigDict()
  # Samples per ray of each; those of the field are config.num_samples.
  config.proposal.num_samples = (64,)
  # Weight of the loss that they learn by (interlevel, of mip-NeRF 360).
  config.proposal.loss_weight = 1.0
  # As those of config.hash.
  config.proposal.num_levels = 5
  config.proposal.features_per_level = 1
  config.proposal.hashmap_size = 2**15
  config.proposal.base_resolution = 16
  config.proposal.max_resolution = 128
  config.proposal.density_width = 16

  # Positional encoding, with config.field='mlp'.
  config.emb = ml_collections.ConfigDict()
  config.emb.use_embed = True  # False: positions and directions as they are.
  config.emb.periodic_fns = ('sin', 'cos')
  config.emb.multires = 10  # Frequencies for a position.
  config.emb.multires_views = 4  # Frequencies for a viewing direction.
  config.emb.log_sampling = True  # Frequencies are powers of 2, or linear.
  config.emb.include_input = True  # Whether the input is part of its encoding.

  # The coarse network, and the fine one, with config.field='mlp'.
  for name in ('model', 'model_fine'):
    config[name] = ml_collections.ConfigDict()
    config[name].net_depth = 8  # Layers of the trunk.
    config[name].net_width = 256  # Units per layer.
    config[name].skips = (4,)  # Layers whose output the input is joined to.

  # The first steps may be limited to the center of the images: their number,
  # and the fraction of the height and width.
  config.precrop_iters = 0
  config.precrop_frac = 0.5

  # Rendering.
  # Coarse samples per ray; with config.renderer='proposal' all of the field's.
  config.num_samples = 64
  config.num_importance = 0  # Fine samples per ray; 0: no fine network.
  config.perturb = True  # Whether sample positions are random in training.
  config.use_viewdirs = True  # Whether color depends on the viewing direction.
  config.raw_noise_std = 0.0  # Standard deviation of noise added to densities.
  config.density_activation = 'relu'  # Or 'softplus', shifted by -1, or 'exp'.
  # Where the last interval of a ray ends: 'infinite', or 'far', with the ray.
  config.last_interval = 'infinite'
  config.white_bkgd = False  # A white background, or black.
  # Another constant background, as (red, green, blue) in [0, 1]; it needs
  # white_bkgd=False. Empty: that of white_bkgd.
  config.background = ()
  # Whether rays are cones as wide as their pixels, so that images of any size
  # are free of aliasing: with config.field='mlp' by mip-NeRF's integrated
  # encoding, with 'hash' by levels that fade where cells are smaller than a
  # pixel. Not in normalized device coordinates.
  config.cones = False
  # Whether rays pass through the centers of pixels, or through their corners.
  config.pixel_center = False
  config.chunk = 4096  # Rays that a device renders per call.
  # Rays through each pixel of a rendered view, along each of its sides: the
  # pixel is their mean. 0: as many as the largest training images have pixels
  # there, so that smaller views have no aliasing.
  config.rays_per_side = 1
  # The same in training, where the mean of a pixel's rays is compared with it:
  # photographs together show what is smaller than their pixels. num_rand counts
  # rays: it takes n * n of them to learn from one pixel.
  config.train_rays_per_side = 1
  config.render_only = False  # Do not train: render the video of a trained run.
  # With config.render_only: render and score the test views instead.
  config.render_test = False
  # Divides the height and width of videos; 0 is the same as 1.
  config.render_factor = 1

  # Data.
  # 'llff', 'blender', 'deepvoxels', 'tiny', or 'procedural': the built-in one.
  # Own photographs: 'transforms' (instant-ngp, nerfstudio), 'colmap', or
  # 'capture', whichever of the two is there.
  config.dataset_type = 'llff'
  config.shape = 'fern'  # Folder of the scene in the data set.
  # Divides the height and width of the images. 0, for own photographs: such
  # that the longer side is at most 1600.
  config.down_factor = 1
  # Only every N-th validation and test view is used; 0 is the same as 1. Not
  # for LLFF, which has `llff.hold`.
  config.testskip = 8
  # Sizes at which each training and test view is used: 1, or also 1/2, 1/4 and
  # so on, each pixel the mean of its area, as multi-scale Blender has them.
  config.num_scales = 1
  # Where the files have no validation and test views, every N-th training view
  # is for both, and not for training; 0, for own photographs: only one that is
  # in the middle. Not for LLFF, which has `llff.hold`.
  config.holdout = 8
  config.num_poses = 40  # Cameras of the path that videos follow.
  # That path: 'cameras', around what the training cameras look at, or for
  # Blender and tiny scenes 'original', the reference implementation's circle
  # of radius 4 around the origin.
  config.video_path = 'cameras'
  # Where near, far and box come from if they are not set below: 'data', as the
  # data set says, or 'cameras': what the training cameras look at.
  config.bounds = 'data'
  # Where rays begin and end, in scene units along the optical axis; 0: see
  # `bounds`. In normalized device coordinates: the depth of their near
  # plane (default: 1), and the depth that values are limited to.
  config.near = 0.0
  config.far = 0.0
  # Box that rays are clipped to: its lower and its upper corner, as (x, y, z,
  # x, y, z). Empty: see `bounds`.
  config.box = ()
  # Whether unbounded space is contracted (mip-NeRF 360, equation 10).
  config.contraction = False

  config.blender = ml_collections.ConfigDict()
  # Whether images may be symbolic links that lead out of the scene's folder.
  # The scene's folder, and the folders in it, may always be links.
  config.blender.follow_links = False

  config.llff = ml_collections.ConfigDict()
  config.llff.lindisp = False  # Samples are linear in disparity, not in depth.
  # For cameras all around an object. False: for cameras that face one way, with
  # rays in normalized device coordinates.
  config.llff.spherify = False
  # Every N-th view is for testing; 0: only the one in the middle.
  config.llff.hold = 8

  config.tiny = ml_collections.ConfigDict()
  # Views for training; those after them are for testing.
  config.tiny.num_train = 100

  # The built-in scene.
  config.procedural = ml_collections.ConfigDict()
  config.procedural.seed = 0
  config.procedural.size = 64  # Height and width of the images, in pixels.
  config.procedural.num_train = 100
  config.procedural.num_test = 25
  # Whether the scene is outdoors, with the ground, far objects and the sky: it
  # needs config.contraction=True.
  config.procedural.unbounded = False

  # Number of steps between outputs.
  config.i_print = 100  # Progress in the terminal, the log and TensorBoard.
  config.i_img = 5000  # A validation view.
  config.i_weights = 5000  # A checkpoint.
  config.i_testset = 1_000_000  # All test views, with their scores.
  config.i_video = 1_000_000  # A video.
  return config
