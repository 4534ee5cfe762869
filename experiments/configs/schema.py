"""The rules of config fields: types, ranges, and what fits together."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections
import numpy as np

from experiments.configs import default
from nerf_haiku import backgrounds, camera_checks, encodings, errors, volume
from nerf_haiku.io import messages

LR_SCHEDULES = ('constant * decay_every', 'constant', 'cosine')
DTYPES = ('float32', 'bfloat16')
PRECISIONS = ('default', 'high', 'highest')
INPUTS = ('auto', 'device', 'host')
# Of people's own captures; 'capture' is whichever of the others is there.
CAPTURE_TYPES = ('capture', 'transforms', 'colmap')
DATASET_TYPES = (
  'llff',
  'blender',
  'deepvoxels',
  'tiny',
  'procedural',
  *CAPTURE_TYPES,
)
FIELDS = ('mlp', 'hash')
RENDERERS = ('hierarchical', 'occupancy', 'proposal')
LAST_INTERVALS = ('infinite', 'far')
BOUNDS = ('data', 'cameras')
VIDEO_PATHS = ('cameras', 'original')

# Whether a value is allowed, and what a value must be, for the user.
_Rule = tuple[Callable[[Any], bool], str]


def _between(low: int, high: int) -> _Rule:
  return lambda x: low <= x <= high, f'{low} to {high}'


def _zero_or(low: float) -> _Rule:
  return (
    lambda x: x == 0 or low <= x <= _LARGEST,
    f'0, or {low:g} to {_LARGEST}',
  )


def _at_least(low: int) -> _Rule:
  """Returns the rule of a count."""
  return _between(low, _MAX_COUNT)


def _one_of(*allowed: str) -> _Rule:
  return lambda x: x in allowed, f'one of {", ".join(map(repr, allowed))}'


_MAX_COUNT = 2**31 - 1  # The largest integer of TensorFlow's and JAX's int32.
_SMALLEST = 1e-30  # Far from where float32 rounds to 0.
_LARGEST = int(camera_checks.MAX_MAGNITUDE)  # Its square fits in a float32.
_FRACTION: _Rule = (
  lambda x: _SMALLEST <= x <= 1,
  'greater than 0, up to 1 (1e-30 to 1)',
)
_OPEN_FRACTION: _Rule = (lambda x: 0 < x < 1, 'greater than 0, less than 1')
_MAX_WIDTH = 2**14  # Units of a layer.
# Features of a hash grid, 4 GB; a training state holds them three times.
_MAX_FEATURES = 2**30
_MAX_PIXELS = 2**31  # Of all views of the built-in scene.
_RULES: dict[str, _Rule] = {
  'learning_rate': _FRACTION,
  'lr_schedule': _one_of(*LR_SCHEDULES),
  'lr_decay': _at_least(1),
  'lr_warmup': _at_least(0),
  'grad_max_norm': _zero_or(_SMALLEST),
  'collapse_steps': _at_least(1),
  'dtype': _one_of(*DTYPES),
  'matmul_precision': _one_of(*PRECISIONS),
  'input': _one_of(*INPUTS),
  'steps_per_call': _between(0, 1024),
  'num_scales': _between(1, 16),
  'rays_per_side': _between(0, 64),
  'train_rays_per_side': _between(1, 16),
  'decay_factor': _FRACTION,
  'num_steps': _at_least(1),
  'num_rand': _between(1, 2**24),
  'adam_b2': (lambda x: 0 <= x < 1, '0 or more, less than 1'),
  'adam_eps': _FRACTION,
  'batch_warmup_steps': _at_least(0),
  'distortion_loss_weight': _zero_or(_SMALLEST),
  'exposure_learning_rate': _FRACTION,
  'refinement.learning_rate': _FRACTION,
  'refinement.warmup_steps': _at_least(0),
  'gradient_scaling': _zero_or(_SMALLEST),
  'field': _one_of(*FIELDS),
  'renderer': _one_of(*RENDERERS),
  'hash.max_resolution': (
    lambda x: 0 <= x <= 2**16,
    '0 (the width of a pixel), or 1 to 65536',
  ),
  'hash.geo_feat_dim': _between(1, _MAX_WIDTH),
  'hash.color_width': _between(1, _MAX_WIDTH),
  'hash.color_depth': _between(0, 64),
  'proposal.num_samples': (
    lambda x: (
      1 <= len(x) <= 4 and all(type(i) is int and 1 <= i <= 2**14 for i in x)
    ),
    '1 to 4 whole numbers of 1 to 16384',
  ),
  'proposal.loss_weight': _FRACTION,
  'proposal.max_resolution': _between(1, 2**16),
  'occupancy.resolution': (
    lambda x: x == 0 or 4 <= x <= 512,
    '0 (two steps per cell), or 4 to 512',
  ),
  'occupancy.step_size': _zero_or(1e-6),
  'occupancy.render_substeps': _between(1, 64),
  'occupancy.max_samples': _between(1, 2**26),
  'occupancy.alpha_threshold': _OPEN_FRACTION,
  'occupancy.ema_decay': _OPEN_FRACTION,
  'occupancy.update_every': _at_least(1),
  'occupancy.warmup_steps': _at_least(0),
  'microbatch': _at_least(0),
  'emb.periodic_fns': (
    lambda x: (
      0 < len(x) <= len(encodings.PERIODIC_FNS)
      and all(fn in tuple(encodings.PERIODIC_FNS) for fn in x)
    ),
    f'one or more of {tuple(encodings.PERIODIC_FNS)}',
  ),
  'emb.multires': (lambda x: 1 <= x <= 32, '1 to 32'),
  'emb.multires_views': (lambda x: 1 <= x <= 32, '1 to 32'),
  'precrop_iters': _at_least(0),
  'precrop_frac': (lambda x: 0 < x <= 1, 'greater than 0, up to 1'),
  'num_samples': _between(2, 2**14),
  'num_importance': _between(0, 2**14),
  'raw_noise_std': _between(0, _LARGEST),
  'density_activation': _one_of(*volume.DENSITY_ACTIVATIONS),
  'last_interval': _one_of(*LAST_INTERVALS),
  'background': (
    lambda x: (
      len(x) in (0, 3) and all(_is_number(v) and 0 <= v <= 1 for v in x)
    ),
    'empty, or 3 numbers in [0, 1]: red, green, blue',
  ),
  'chunk': _between(1, 2**24),
  'dataset_type': _one_of(*DATASET_TYPES),
  'down_factor': _at_least(0),
  'testskip': _at_least(0),
  'holdout': (lambda x: x == 0 or 2 <= x <= _MAX_COUNT, '0, or at least 2'),
  'bounds': _one_of(*BOUNDS),
  'video_path': _one_of(*VIDEO_PATHS),
  'num_poses': _between(1, camera_checks.MAX_POSES),
  'near': _zero_or(1 / camera_checks.MAX_MAGNITUDE),
  'far': _zero_or(1 / camera_checks.MAX_MAGNITUDE),
  'box': (
    lambda x: (
      len(x) in (0, 6)
      and all(_is_number(v) and abs(v) <= _LARGEST for v in x)
      and all(
        np.float32(a) < np.float32(b) for a, b in zip(x[:3], x[3:], strict=True)
      )
    ),
    'empty, or 6 numbers: x, y, z of the lower corner, then of the upper, '
    f'at most {_LARGEST} in magnitude',
  ),
  'procedural.seed': _at_least(0),
  'procedural.size': (lambda x: 4 <= x <= 4096, '4 to 4096'),
  'procedural.num_train': _at_least(1),
  'procedural.num_test': _at_least(1),
  'i_print': _at_least(1),
  'i_img': _at_least(1),
  'i_weights': _at_least(1),
  'i_testset': _at_least(1),
  'i_video': _at_least(1),
  'render_factor': _at_least(0),
  'llff.hold': _at_least(0),
  'tiny.num_train': _at_least(1),
} | {
  f'{model}.{field}': rule
  for model in ('model', 'model_fine')
  for field, rule in {
    'net_depth': _between(1, 256),
    'net_width': _between(2, _MAX_WIDTH),
    'skips': (
      lambda x: all(type(i) is int and i >= 0 for i in x),
      'indices of layers, from 0',
    ),
  }.items()
}
_RULES |= {
  f'{grid}.{field}': rule
  for grid in ('hash', 'proposal')
  for field, rule in {
    'num_levels': (lambda x: 1 <= x <= 32, '1 to 32'),
    'features_per_level': (lambda x: 1 <= x <= 16, '1 to 16'),
    'hashmap_size': (
      lambda x: x >= 2 and not x & (x - 1) and x <= 2**26,
      'a power of 2, up to 2**26',
    ),
    'base_resolution': (lambda x: 1 <= x <= 1024, '1 to 1024'),
    'density_width': _between(1, _MAX_WIDTH),
  }.items()
}


def flatten(
  config: ml_collections.ConfigDict, prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """Yields all fields of a config as `('section.field', value)`."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
  """Checks that fields exist, their types and ranges, and that they fit.

  Args:
    config: must have the fields of `configs/default.py`.
    num_devices: number of devices that share a batch.

  Raises:
    UserError: names a field, its value and what it must be.
  """
  fields = dict(flatten(config))
  _check_types(fields, dict(flatten(default.get_config())))
  for name, (is_allowed, allowed) in _RULES.items():
    if not is_allowed(fields[name]):
      raise _error(name, fields[name], allowed)
  _check_batch(config, num_devices)
  _check_networks(config)
  _check_rendering(config)
  _check_data(config)


def background(config: ml_collections.ConfigDict) -> backgrounds.Color:
  """Returns the background's color."""
  if config.background:
    red, green, blue = map(float, config.background)
    return red, green, blue
  return backgrounds.WHITE if config.white_bkgd else backgrounds.BLACK


def notices(
  config: ml_collections.ConfigDict, shown: backgrounds.Color | None = None
) -> list[str]:
  """Returns what the user should know of a config that is valid.

  Args:
    config: the config.
    shown: the background of training photos without alpha, if they have one.
  """
  texts = []
  if config.batch_warmup_steps and config.renderer != 'occupancy':
    texts.append(
      f'config.batch_warmup_steps={config.batch_warmup_steps} saves no time '
      f"with config.renderer='{config.renderer}', which renders all rays of a "
      "batch: use it with config.renderer='occupancy', or set it to 0."
    )
  if shown is not None:
    texts += _background_notices(config, shown)
  return texts


def _background_notices(
  config: ml_collections.ConfigDict, shown: backgrounds.Color
) -> list[str]:
  """Says which flags fit photos that show a background, if any must change."""
  if config.dataset_type == 'deepvoxels' and shown != backgrounds.WHITE:
    return []  # No other color is allowed.
  flags = []
  if not backgrounds.same(shown, background(config)):
    flags = _background_flags(config, shown)
  used = backgrounds.describe(background(config))
  if config.random_background:  # Photos without alpha are opaque on it.
    flags.append('--config.random_background=False')
    used = 'random'
  if not flags:
    return []
  return [
    f'The borders of most training photos are {backgrounds.describe(shown)}, '
    f'the background of this run is {used}: if they show an object before that '
    f'color, use {" ".join(flags)}, or the model has to fill empty space with '
    'it.'
  ]


def _background_flags(
  config: ml_collections.ConfigDict, color: backgrounds.Color
) -> list[str]:
  """Returns the flags that make a color the background."""
  if not config.background and color in (backgrounds.BLACK, backgrounds.WHITE):
    return [f'--config.white_bkgd={color == backgrounds.WHITE}']
  off = ['--config.white_bkgd=False'] if config.white_bkgd else []
  return [*off, f'--config.background={",".join(f"{x:g}" for x in color)}']


def _check_types(fields: dict[str, Any], defaults: dict[str, Any]) -> None:
  for name in fields.keys() - defaults.keys():
    raise errors.UserError(
      f'config.{name}: there is no such field. The fields are '
      f'{", ".join(defaults)}.'
    )
  for name, expected in defaults.items():
    if name not in fields:
      raise errors.UserError(
        f'config.{name}: is missing; the default is {expected!r}.'
      )
    value = fields[name]
    if isinstance(expected, float):
      if not _is_number(value):
        raise _error(name, value, 'a finite number')
    elif type(value) is not type(expected):
      raise _error(name, value, f'a value of type {type(expected).__name__}')


def _check_batch(config: ml_collections.ConfigDict, num_devices: int) -> None:
  per_pixel = config.train_rays_per_side**2
  if config.num_rand % (num_devices * per_pixel) and per_pixel > 1:
    raise _error(
      'num_rand',
      config.num_rand,
      f'a multiple of {num_devices * per_pixel}: {per_pixel} rays through a '
      f'pixel (config.train_rays_per_side) on each of {num_devices} devices',
    )
  if config.num_rand % num_devices:
    raise _error(
      'num_rand', config.num_rand, f'a multiple of the {num_devices} devices'
    )
  if config.batching and config.precrop_iters:
    raise _error(
      'precrop_iters',
      config.precrop_iters,
      '0 with config.batching=True: only a step of a single image is cropped',
    )


def _check_networks(config: ml_collections.ConfigDict) -> None:
  if config.num_importance and config.num_samples < 3:
    raise _error(
      'num_samples', config.num_samples, '3 or more with config.num_importance'
    )
  for name in ('model', 'model_fine') if config.num_importance else ('model',):
    depth, skips = config[name].net_depth, config[name].skips
    if any(i >= depth for i in skips):
      raise _error(
        f'{name}.skips', skips, f'in layers 0 to {depth - 1}, of {depth}'
      )
  if config.field == 'hash':
    _check_grid('hash', config.hash)
  if config.renderer == 'proposal':
    _check_grid('proposal', config.proposal)


def _check_grid(name: str, grid: ml_collections.ConfigDict) -> None:
  if (
    grid.num_levels * grid.features_per_level * grid.hashmap_size
    > _MAX_FEATURES
  ):
    raise _error(
      f'{name}.hashmap_size',
      grid.hashmap_size,
      f'so small that config.{name}.num_levels={grid.num_levels} levels of '
      f'config.{name}.features_per_level={grid.features_per_level} have at '
      f'most {_MAX_FEATURES} features',
    )


def _check_rendering(config: ml_collections.ConfigDict) -> None:
  if config.white_bkgd and background(config) != backgrounds.WHITE:
    raise _error(
      'background',
      config.background,
      '() or (1, 1, 1) with config.white_bkgd=True; set '
      'config.white_bkgd=False for another color',
    )
  if config.renderer != 'hierarchical' and config.llff.lindisp:
    raise _error(
      'llff.lindisp',
      True,
      f"False with config.renderer='{config.renderer}', whose steps are even "
      'in depth',
    )
  if config.far and config.near >= config.far:
    raise _error('far', config.far, f'greater than config.near={config.near}')
  if (
    config.density_activation == 'softplus'
    and config.last_interval == 'infinite'
    and background(config) != backgrounds.BLACK
  ):
    raise _error(
      'last_interval',
      config.last_interval,
      "'far' with config.density_activation='softplus' and a background that "
      'is not black (config.white_bkgd, config.background): a softplus is '
      'never 0, so an infinite interval is opaque and hides the background',
    )


def _check_data(config: ml_collections.ConfigDict) -> None:
  """Checks fields that some kinds of data sets exclude."""
  in_ndc = config.dataset_type == 'llff' and not config.llff.spherify
  if in_ndc and config.llff.lindisp:
    raise _error(
      'llff.lindisp',
      True,
      'False without config.llff.spherify=True: normalized device coordinates '
      'are already linear in disparity',
    )
  if in_ndc and config.gradient_scaling:
    raise _error(
      'gradient_scaling',
      config.gradient_scaling,
      '0 without config.llff.spherify=True: normalized device coordinates '
      'begin beyond the cameras',
    )
  if in_ndc and config.cones:
    raise _error(
      'cones',
      True,
      'False without config.llff.spherify=True: in normalized device '
      'coordinates a pixel is no cone',
    )
  for name in ('num_scales', 'rays_per_side', 'train_rays_per_side'):
    if config[name] != 1 and not config.pixel_center:
      raise _error(
        name,
        config[name],
        '1 without config.pixel_center=True: the corners of pixels of '
        'different sizes are not the same places',
      )
  if in_ndc and config.box:
    raise _error(
      'box',
      config.box,
      '() without config.llff.spherify=True: rays in normalized device '
      'coordinates are already bounded',
    )
  if in_ndc and config.bounds == 'cameras':
    raise _error(
      'bounds',
      config.bounds,
      "'data' without config.llff.spherify=True: normalized device coordinates "
      'are bounded by the depths of the data set',
    )
  if config.contraction:
    _check_contraction(config, in_ndc=in_ndc)
  _check_captures(config)
  if (
    config.dataset_type == 'deepvoxels'
    and background(config) != backgrounds.WHITE
  ):
    name = 'background' if config.background else 'white_bkgd'
    white = '(1, 1, 1)' if config.background else 'True'
    raise _error(
      name, config[name], f'{white} with DeepVoxels: its background is white'
    )
  scene = config.procedural
  pixels = scene.size**2 * (scene.num_train + scene.num_test)
  if config.dataset_type == 'procedural' and pixels > _MAX_PIXELS:
    raise _error(
      'procedural.num_train',
      scene.num_train,
      f'so small that all views have at most {_MAX_PIXELS} pixels',
    )
  if config.dataset_type == 'procedural' and config.down_factor != 1:
    raise _error(
      'down_factor',
      config.down_factor,
      '1 with the built-in scene; set config.procedural.size instead',
    )


def _check_captures(config: ml_collections.ConfigDict) -> None:
  """Checks fields that have a value for captures alone, or none for them."""
  captures = ', '.join(map(repr, CAPTURE_TYPES))
  is_capture = config.dataset_type in CAPTURE_TYPES
  for name, least in (('down_factor', 1), ('holdout', 2)):
    if not (config[name] or is_capture):
      raise _error(
        name, 0, f'at least {least}, but for dataset_type {captures}'
      )
  if is_capture and not config.pixel_center:
    raise _error(
      'pixel_center',
      False,
      f'True with config.dataset_type={config.dataset_type!r}: positions in '
      'its images count to the centers of pixels',
    )


def _check_contraction(
  config: ml_collections.ConfigDict, *, in_ndc: bool
) -> None:
  """Checks fields of a scene whose unbounded space is contracted."""
  if in_ndc:
    raise _error(
      'contraction',
      True,
      'False without config.llff.spherify=True: rays in normalized device '
      'coordinates are already bounded',
    )
  if config.box:
    raise _error(
      'box', config.box, '() with config.contraction=True: space is unbounded'
    )
  if config.bounds == 'cameras':
    raise _error(
      'bounds',
      config.bounds,
      "'data' with config.contraction=True: space is unbounded",
    )
  if config.llff.lindisp:
    raise _error(
      'llff.lindisp',
      True,
      'False with config.contraction=True, whose samples are even in disparity '
      'already',
    )


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _error(name: str, value: Any, allowed: str) -> errors.UserError:
  return errors.UserError(
    f'config.{name}: got {messages.shorten(value)}; must be {allowed}.'
  )
