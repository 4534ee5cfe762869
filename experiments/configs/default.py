"""The fields of every config, with the defaults of the flax version."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """All fields. The first value of each line is the original's choice."""
  config = ml_collections.ConfigDict()

  # Optimisation.
  config.learning_rate = 5e-4
  # Or 'constant', or 'cosine': to `decay_factor` of it at the last step.
  config.lr_schedule = 'constant * decay_every'
  config.lr_decay = 250  # thousands of steps per factor of `decay_factor`.
  config.decay_factor = 0.1
  config.num_steps = 1_000_000
  config.batching = True  # rays of a step from all images, else from one.
  config.num_rand = 4096  # rays of a step, on all devices together.
  # Of the networks' features, or 'bfloat16' for GPUs and TPUs; parameters,
  # encodings, densities and colours stay float32.
  config.dtype = 'float32'
  config.lr_warmup = 0  # steps over which the rate rises evenly from 0.
  config.grad_max_norm = 0.0  # gradients are scaled down to it; 0: not.
  # Of Adam: how long squares of gradients are remembered, and what is added to
  # their root. The small gradients of a hash grid need a small one.
  config.adam_b2 = 0.999
  config.adam_eps = 1e-8
  # Steps over which the rays of a step grow from a sixteenth of num_rand to all
  # of it; 0: all at once.
  config.batch_growth = 0
  # Rays are compared on random backgrounds: nothing can hide in the true one.
  # For images with alpha; others are opaque all over.
  config.random_background = False
  # Of the loss on how far apart the weights of a ray lie: less haze.
  config.distortion = 0.0
  # A NaN or infinity in a loss or gradient stops the run; or its step is left
  # out and counted.
  config.skip_nonfinite = False
  # A run that has collapsed into one colour starts again with another seed, at
  # most three times. It is looked for every so many steps.
  config.restart_collapsed = True
  config.collapse_steps = 500
  # Rays that a device handles at a time, in training and in rendering: what
  # bounds the memory. 0: on a CPU as many as fit its cache; elsewhere all rays
  # of a step, and many when rendering.
  config.microbatch = 0
  # Gradients compute the networks again rather than keep what they computed:
  # less memory, more time.
  config.remat = False

  # What is learnt: 'mlp', the network of the paper, or 'hash', a grid of
  # features with small networks; and how it is rendered: 'hierarchical', the
  # paper's two passes, or 'occupancy', which leaves out empty space. Any pair.
  config.field = 'mlp'
  config.renderer = 'hierarchical'

  # The hash grid (field 'hash').
  config.hash = ml_collections.ConfigDict()
  config.hash.num_levels = 8
  config.hash.num_features = 2  # of a level.
  config.hash.table_size = 2**17  # most rows of a level, a power of 2.
  config.hash.coarsest = 16  # cells along a side of the box at the first level.
  config.hash.finest = 0  # at the last; 0: so that a cell is a pixel.
  config.hash.density_width = 64
  config.hash.num_geometry = 15  # features that colour knows of density.
  config.hash.colour_width = 64
  config.hash.colour_depth = 2

  # The occupancy renderer.
  config.occupancy = ml_collections.ConfigDict()
  # Cells along a side of the box; 0: so that a cell is two steps, 32 to 128.
  config.occupancy.resolution = 0
  # Scene units between positions on a ray; 0: as wide as a pixel.
  config.occupancy.step = 0.0
  # Samples asked at a time: bounds the memory, leaves none out.
  config.occupancy.budget = 32768
  config.occupancy.threshold = 0.01  # least opacity of a step in a full cell.
  config.occupancy.decay = 0.8  # of a cell's density, whenever looked at.
  config.occupancy.every = 16  # steps between looks at the cells.
  config.occupancy.warmup = 256  # first steps: each look is at all cells.

  # Positional encoding.
  config.emb = ml_collections.ConfigDict()
  config.emb.use_embed = True
  config.emb.periodic_fns = ('sin', 'cos')
  config.emb.multires = 10  # octaves of a position.
  config.emb.multires_views = 4  # octaves of a viewing direction.
  config.emb.log_sampling = True
  config.emb.include_input = True

  # The coarse network, and the fine one.
  for name in ('model', 'model_fine'):
    config[name] = ml_collections.ConfigDict()
    config[name].net_depth = 8
    config[name].net_width = 256
    config[name].skips = (4,)  # layers after which the position is joined.

  # The first steps may see only the middle of images.
  config.precrop_iters = 0
  config.precrop_frac = 0.5

  # Rendering.
  config.num_samples = 64  # coarse samples of a ray.
  config.num_importance = 0  # fine samples; 0: no fine network.
  config.perturb = True  # random positions in training.
  config.use_viewdirs = True
  config.raw_noise_std = 0.0  # noise on densities in training.
  config.density_activation = 'relu'  # or 'softplus', shifted by -1, or 'exp'.
  config.last_interval = 'infinite'  # or 'far': ends where the ray does.
  config.white_bkgd = False
  config.pixel_center = False  # rays meet pixels' centres, not corners.
  config.chunk = 4096  # rays that a device renders per call, whole pieces.
  config.render_only = False  # draw the video of what is learnt; no training.
  config.render_test = False  # with it: draw and score the test views instead.
  config.render_factor = 1  # videos are smaller by it; 0 is 1.

  # Data.
  # 'llff', 'blender', 'deepvoxels', 'tiny', or 'procedural', the built-in one.
  config.dataset_type = 'llff'
  config.shape = 'fern'  # the scene's folder.
  config.down_factor = 1
  # Every 8th validation and test view; 0 or 1: all. LLFF has `llff.hold`.
  config.testskip = 8
  config.num_poses = 40  # cameras of the render path.
  # Where rays begin and end, scene units along the optical axis. 0: where the
  # data set says. In normalised device coordinates: the depth of their near
  # plane (1), and what depths are limited to.
  config.near = 0.0
  config.far = 0.0
  # Lower and upper corner (x, y, z, x, y, z) that rays are clipped to. Empty:
  # the scene's own box, if it has one.
  config.box = ()

  config.blender = ml_collections.ConfigDict()
  # Images may be symbolic links out of the scene's folder, or lie beyond one.
  # The scene and the folders in it may be links anyway.
  config.blender.follow_links = False

  config.llff = ml_collections.ConfigDict()
  config.llff.lindisp = False  # samples spread evenly in disparity.
  # For cameras all around. False: they face one way, and rays are in normalised
  # device coordinates.
  config.llff.spherify = False
  config.llff.hold = 8  # every 8th view is for testing; 0: the middle one.

  config.tiny = ml_collections.ConfigDict()
  config.tiny.num_train = 100  # the views after these are for testing.

  # The built-in scene.
  config.procedural = ml_collections.ConfigDict()
  config.procedural.seed = 0
  config.procedural.size = 64  # pixels, height and width.
  config.procedural.num_train = 100
  config.procedural.num_test = 25

  # Steps between outputs.
  config.i_print = 100
  config.i_img = 5000
  config.i_weights = 5000
  config.i_testset = 1_000_000
  config.i_video = 1_000_000
  return config
