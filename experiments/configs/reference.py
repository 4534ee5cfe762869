"""The options of the reference implementation (bmild/nerf), and files of them.

Use such a file as `--config=config_lego.txt`. Options that it does not set have
the defaults of the reference implementation.
"""

import dataclasses
import difflib
import operator
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from experiments.configs import default
from nerf_haiku import errors
from nerf_haiku.io import messages, safe_reading


class Option(NamedTuple):
  """An option of the reference implementation, and what it is called here."""

  type: type
  default: Any
  name: str  # `config.FIELD` or `--FLAG`; '': there is no counterpart.
  note: str = ''  # how values differ; without a counterpart, the cure.
  # Makes the field's value of the option's; None: it depends on other options.
  convert: Callable[[Any], Any] | None = lambda value: value


OPTIONS: dict[str, Option] = {
  'config': Option(str, None, '--config'),
  'expname': Option(
    str, None, '--model_dir', 'the folder `basedir/expname`', None
  ),
  'basedir': Option(
    str, './logs/', '--model_dir', 'the folder `basedir/expname`', None
  ),
  'datadir': Option(
    str,
    None,
    '--data_dir',
    'its last part is `config.shape`, except for `deepvoxels`',
    None,
  ),
  'netdepth': Option(int, 8, 'config.model.net_depth'),
  'netwidth': Option(int, 256, 'config.model.net_width'),
  'netdepth_fine': Option(int, 8, 'config.model_fine.net_depth'),
  'netwidth_fine': Option(int, 256, 'config.model_fine.net_width'),
  'N_rand': Option(int, 4096, 'config.num_rand'),
  'lrate': Option(float, 5e-4, 'config.learning_rate'),
  'lrate_decay': Option(int, 250, 'config.lr_decay'),
  'chunk': Option(int, 32768, 'config.chunk'),
  'netchunk': Option(
    int, 65536, '', '`config.microbatch` bounds memory, by whole rays', None
  ),
  'no_batching': Option(
    bool, False, 'config.batching', 'False for `no_batching`', operator.not_
  ),
  'no_reload': Option(
    bool, False, '', 'to start anew, choose another `--model_dir`', None
  ),
  'ft_path': Option(
    str, None, '--init_from', 'the folder of a run of this program', None
  ),
  'random_seed': Option(int, None, '--seed'),
  'precrop_iters': Option(
    int, 0, 'config.precrop_iters', 'only with `no_batching`', None
  ),
  'precrop_frac': Option(float, 0.5, 'config.precrop_frac'),
  'N_samples': Option(int, 64, 'config.num_samples'),
  'N_importance': Option(int, 0, 'config.num_importance'),
  'perturb': Option(
    float, 1.0, 'config.perturb', 'True if greater than 0', lambda x: x > 0
  ),
  'use_viewdirs': Option(bool, False, 'config.use_viewdirs'),
  'i_embed': Option(
    int, 0, 'config.emb.use_embed', 'False for -1', lambda x: x != -1
  ),
  'multires': Option(int, 10, 'config.emb.multires'),
  'multires_views': Option(int, 4, 'config.emb.multires_views'),
  'raw_noise_std': Option(float, 0.0, 'config.raw_noise_std'),
  'render_only': Option(bool, False, 'config.render_only'),
  'render_test': Option(bool, False, 'config.render_test'),
  'render_factor': Option(int, 0, 'config.render_factor'),
  'dataset_type': Option(str, 'llff', 'config.dataset_type'),
  'testskip': Option(int, 8, 'config.testskip'),
  'shape': Option(str, 'greek', 'config.shape', 'of `deepvoxels` only', None),
  'white_bkgd': Option(bool, False, 'config.white_bkgd'),
  'half_res': Option(
    bool, False, 'config.down_factor', '2 for `half_res`; Blender only', None
  ),
  'factor': Option(int, 8, 'config.down_factor', 'LLFF only', None),
  'no_ndc': Option(
    bool,
    False,
    'config.llff.spherify',
    'True for `no_ndc` together with `spherify`; LLFF only',
    None,
  ),
  'lindisp': Option(bool, False, 'config.llff.lindisp'),
  'spherify': Option(
    bool,
    False,
    'config.llff.spherify',
    'rays are then not in normalized device coordinates; LLFF only',
    None,
  ),
  'llffhold': Option(int, 8, 'config.llff.hold'),
  'i_print': Option(int, 100, 'config.i_print'),
  'i_img': Option(int, 500, 'config.i_img'),
  'i_weights': Option(int, 10_000, 'config.i_weights'),
  'i_testset': Option(int, 50_000, 'config.i_testset'),
  'i_video': Option(int, 50_000, 'config.i_video'),
}

_NUM_STEPS = 1_000_000
# Frames of the path of a video.
_NUM_POSES = {'blender': 40, 'llff': 120, 'deepvoxels': 40}

# As configargparse reads a line: `key = value`, `key: value`, `key value` or
# `key`, perhaps quoted, perhaps with a comment.
_LINE = re.compile(
  r'(?:--)?(?P<key>[^:=;#\s]+)\s*'
  r'(?:(?P<equal>[:=\s])\s*([\'"]?)(?P<value>.+?)?\3)?\s*(?:\s[;#].*)?'
)
_BOOLEANS = dict.fromkeys(('true', 'yes', 'on', '1'), True) | dict.fromkeys(
  ('false', 'no', 'off', '0'), False
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a file of options says, in our terms."""

  fields: dict[str, Any]  # of the config, by 'section.field'.
  flags: dict[str, Any]  # defaults of flags, by their names.
  notices: tuple[str, ...]  # for the user: options that have no effect.


def is_file_of_options(path: str) -> bool:
  """Returns whether a file named by `--config` is one for `get_config`."""
  return path.endswith('.txt')


def get_config(path: str) -> ml_collections.ConfigDict:
  """Returns the config that a file of options describes.

  Raises:
    UserError: see `read`.
  """
  config = default.get_config()
  config.update_from_flattened_dict(read(path).fields)
  return config


def read(path: str) -> Settings:
  """Reads a file of options.

  Raises:
    UserError: if it cannot be read, or names the line and the option that is
      unknown, has a wrong value, or cannot be expressed here.
  """
  lines = _parse_lines(path)
  given = {
    name: _parse_value(place, name, text)
    for name, (place, text) in lines.items()
  }
  options = {name: option.default for name, option in OPTIONS.items()} | given

  def refuse(name: str, cure: str) -> None:
    place = lines[name][0] if name in lines else path
    raise errors.UserError(f'{place}: {name}: {cure}.')

  _check_expressible(options, refuse)
  return Settings(
    _fields(options), _flags(path, options), tuple(_notices(path, given))
  )


def describe(option: str) -> str:
  """Returns what an option is called here, in a sentence for the user."""
  _, _, name, note, _ = OPTIONS[option]
  note = note.replace('`', '')
  text = f'--{option} is an option of the reference implementation'
  if not name:
    return f'{text} that does not exist here: {note}.'
  name = name if name.startswith('--') else f'--{name}'
  return f'{text}; write {name} here' + (f' ({note}).' if note else '.')


def _parse_lines(path: str) -> dict[str, tuple[str, str]]:
  """Returns place and text of each option of a file; the last one counts."""
  lines = {}
  text = safe_reading.read_text(safe_reading.expand_user(path))
  for number, line in enumerate(text.splitlines(), 1):
    line = line.strip()
    if not line or line[0] in '#;[' or line.startswith('---'):
      continue
    place = f'{path}, line {number}'
    match = _LINE.fullmatch(line)
    if match is None:
      raise errors.UserError(
        f'{place}: got {messages.shorten(line)}; must be OPTION = VALUE.'
      )
    name, value = match['key'], match['value']
    if name not in OPTIONS:
      close = difflib.get_close_matches(name, OPTIONS, 1)
      hint = f'; did you mean {close[0]}?' if close else '.'
      raise errors.UserError(
        f'{place}: {name} is no option of the reference implementation{hint}'
      )
    if value is None:  # A name alone switches an option on.
      value = '' if (match['equal'] or ' ').strip() else 'true'
    lines[name] = place, value
  return lines


def _parse_value(place: str, name: str, text: str) -> Any:
  """Returns the value of an option."""
  kind = OPTIONS[name].type
  try:
    return _BOOLEANS[text.lower()] if kind is bool else kind(text)
  except (KeyError, ValueError) as error:
    raise errors.UserError(
      f'{place}: {name}: got {messages.shorten(text)}; must be '
      f'{"True or False" if kind is bool else f"of type {kind.__name__}"}.'
    ) from error


def _check_expressible(
  options: dict[str, Any], refuse: Callable[[str, str], None]
) -> None:
  """Refuses options that have no counterpart here."""
  kind = options['dataset_type']
  if options['config'] is not None:
    refuse('config', 'a file of options cannot name another one; remove it')
  if options['no_reload']:
    refuse(
      'no_reload',
      'a run always resumes; remove it, and choose another expname to start '
      'anew',
    )
  if kind not in _NUM_POSES:
    refuse(
      'dataset_type',
      f'got {messages.shorten(kind)}; must be one of {", ".join(_NUM_POSES)}',
    )
  if kind == 'llff' and options['no_ndc'] and not options['spherify']:
    refuse(
      'no_ndc',
      'without spherify, LLFF scenes are always in normalized device '
      'coordinates here; remove it, or add spherify = True for cameras all '
      'around an object',
    )
  if kind == 'llff' and options['spherify'] and not options['no_ndc']:
    refuse(
      'spherify',
      'normalized device coordinates do not suit cameras all around an object; '
      'add no_ndc = True',
    )


def _fields(options: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of our config."""
  fields = {
    option.name.removeprefix('config.'): option.convert(options[name])
    for name, option in OPTIONS.items()
    if option.convert and option.name.startswith('config.')
  }
  kind = options['dataset_type']
  factor = {'llff': options['factor'], 'blender': 1 + options['half_res']}
  shape = options['shape']
  if kind != 'deepvoxels':
    folder = os.path.expanduser(options['datadir'] or 'fern')
    shape = os.path.basename(os.path.abspath(folder))
  for name in ('model', 'model_fine'):
    is_deep = fields[f'{name}.net_depth'] > 4
    fields[f'{name}.skips'] = (4,) if is_deep else ()
  return fields | {
    'num_steps': _NUM_STEPS,
    'num_poses': _NUM_POSES[kind],
    'video_path': 'original',
    'shape': shape,
    'down_factor': factor.get(kind, 1),
    'llff.spherify': kind == 'llff' and options['spherify'],
    'precrop_iters': options['precrop_iters'] * options['no_batching'],
  }


def _flags(path: str, options: dict[str, Any]) -> dict[str, Any]:
  """Returns the defaults of our flags; those that are not None."""
  folder = pathlib.Path('runs', pathlib.Path(path).stem)
  if options['expname']:
    folder = pathlib.Path(options['basedir'], options['expname'])
  flags = {
    'model_dir': str(folder),
    'data_dir': options['datadir'],
    'seed': options['random_seed'],
    'init_from': options['ft_path'],
  }
  return {name: x for name, x in flags.items() if x not in (None, 'None', '')}


def _notices(path: str, given: dict[str, Any]) -> list[str]:
  """Returns a sentence for each option of the file that has no effect."""
  notices = []
  if 'netchunk' in given:
    notices.append(
      f'{path}: netchunk has no effect here: config.microbatch bounds memory.'
    )
  if given.get('precrop_iters') and not given.get('no_batching'):
    notices.append(
      f'{path}: precrop_iters has no effect without no_batching = True.'
    )
  return notices
