"""Records of models: plain values that fields and renderers are built from.

A record has what JSON has, so that a run can keep it and a program that knows
nothing of configs can build the same model again:

  {'renderer': {'kind': 'occupancy', 'contracted': False, ...},
   'fields': {'field': {'kind': 'hash', 'box': [[-1, -1, -1], [1, 1, 1]], ...}},
   'pixel_center': True}

`renderer` has the arguments of a function in `RENDERERS`, without its fields,
and `fields` those of `fields.make_mlp` or `fields.make_hash_grid`. The last
field is the one whose rendering is the result.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import numpy as np

from nerf_haiku import contraction, encodings, errors, fields
from nerf_haiku.io import files, safe_reading
from nerf_haiku.renderers import hierarchical, occupancy, proposal

Record = Mapping[str, Any]

Renderer = (
  hierarchical.HierarchicalRenderer
  | occupancy.OccupancyRenderer
  | proposal.ProposalRenderer
)

_PARTS = ('renderer', 'fields', 'pixel_center')


def make_renderer(record: Record) -> Renderer:
  """Makes the renderer of a record, with its fields.

  Raises:
    ValueError: if the record names a renderer or a field that there is not.
  """
  settings = dict(record['renderer'])
  kind = settings.pop('kind')
  if kind not in RENDERERS:
    raise ValueError(f'There is no renderer {kind!r}: {", ".join(RENDERERS)}.')
  made = {
    name: make_field(field, contracted=settings['contracted'])
    for name, field in record['fields'].items()
  }
  settings['background'] = tuple(settings['background'])
  return RENDERERS[kind](made, settings)


def make_field(record: Record, *, contracted: bool = False) -> hk.Transformed:
  """Makes a field.

  Args:
    record: `kind`, 'hash' or 'mlp', and arguments of the function that makes
      it; an encoding is the arguments of `encodings.positional`, or None.
    contracted: whether the field is of contracted space, see `contraction`.
  """
  settings = dict(record)
  kind = settings.pop('kind')
  if kind == 'hash':
    settings['box'] = np.asarray(settings['box'], np.float32)
    field = fields.make_hash_grid(**settings)
  elif kind == 'mlp':
    for name in ('encode_position', 'encode_direction'):
      settings[name] = _make_encoding(settings[name])
    field = fields.make_mlp(**settings)
  else:
    raise ValueError(f'There is no field {kind!r}: hash, mlp.')
  return contraction.contract_field(field) if contracted else field


def rays_that_fit(record: Record, activations: int) -> int:
  """Returns the number of rays with this many activations in a layer."""
  settings = record['renderer']
  if settings['kind'] == 'occupancy':
    return max(1, 2 * int(settings['march']['max_samples']))
  width = max(
    field['color_width'] if field['kind'] == 'hash' else field['net_width']
    for field in record['fields'].values()
    if field.get('has_color', True)
  )
  samples = settings['num_samples']
  if settings['kind'] == 'proposal':
    samples = samples[-1]
  samples += settings.get('num_importance', 0)
  return max(1, activations // int(width * samples))


def write(path: pathlib.Path, record: Record) -> None:
  """Writes a record, whole or not at all.

  Raises:
    WriteError: if the file cannot be written.
  """
  files.write(path, json.dumps(record, indent=1).encode())


def read(path: pathlib.Path) -> Record:
  """Reads a record.

  Raises:
    DataError: if the file is missing or is no record.
  """
  record: Any = safe_reading.read_json(path)
  if not isinstance(record, dict) or not all(x in record for x in _PARTS):
    raise errors.DataError(
      f'{path}: is no record of a model: it must have {", ".join(_PARTS)}. '
      "Train with the same --model_dir again, which writes a run's own."
    )
  return record


def _make_encoding(settings: Record | None) -> fields.Encoding:
  if settings is None:
    return lambda x: x
  return functools.partial(encodings.positional, **settings)


def _make_hierarchical(
  made: dict[str, hk.Transformed], settings: dict[str, Any]
) -> hierarchical.HierarchicalRenderer:
  return hierarchical.make_hierarchical(
    made['coarse'], made.get('fine'), **settings
  )


def _make_occupancy(
  made: dict[str, hk.Transformed], settings: dict[str, Any]
) -> occupancy.OccupancyRenderer:
  march = dict(settings.pop('march'))
  march['box'] = np.asarray(march['box'], np.float32)
  march['contracted'] = settings.pop('contracted')
  return occupancy.make_occupancy(
    made['field'], occupancy.Settings(**march), **settings
  )


def _make_proposal(
  made: dict[str, hk.Transformed], settings: dict[str, Any]
) -> proposal.ProposalRenderer:
  field = made.pop('field')
  return proposal.make_proposal(field, tuple(made.values()), **settings)


RENDERERS: dict[str, Callable[..., Renderer]] = {
  'hierarchical': _make_hierarchical,
  'occupancy': _make_occupancy,
  'proposal': _make_proposal,
}
