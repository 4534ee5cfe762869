"""Config fields that were renamed: their old names stay valid.

An old name may stand on the command line (`--config.hash.finest=64`), in a
config file (`config.hash.finest = 64`) and in the `config.json` of a run.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from nerf_haiku import errors

# Old and new names. No two sections have an old name in common.
NEW_NAMES = {
  'batch_growth': 'batch_warmup_steps',
  'distortion': 'distortion_loss_weight',
  'hash.coarsest': 'hash.base_resolution',
  'hash.colour_depth': 'hash.color_depth',
  'hash.colour_width': 'hash.color_width',
  'hash.finest': 'hash.max_resolution',
  'hash.num_features': 'hash.features_per_level',
  'hash.num_geometry': 'hash.geo_feat_dim',
  'hash.table_size': 'hash.hashmap_size',
  'occupancy.budget': 'occupancy.max_samples',
  'occupancy.decay': 'occupancy.ema_decay',
  'occupancy.every': 'occupancy.update_every',
  'occupancy.step': 'occupancy.step_size',
  'occupancy.threshold': 'occupancy.alpha_threshold',
  'occupancy.warmup': 'occupancy.warmup_steps',
}


def _last(name: str) -> str:
  return name.rpartition('.')[2]


_NEW_KEYS = {_last(old): _last(new) for old, new in NEW_NAMES.items()}


class Section(ml_collections.ConfigDict):
  """A config, or a section of one, that also answers to its old names.

  Fields are stored under their new names; `old_keys` collects the old ones
  that were used. Everything that sets or reads fields, the flags of
  `config_flags` too, comes through the three methods below.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    # Past ConfigDict's own `__setattr__`, which would make it a field.
    object.__setattr__(self, 'old_keys', set())
    super().__init__(*args, **kwargs)

  def __getitem__(self, key: str) -> Any:
    return super().__getitem__(self._new_key(key))

  def __setitem__(self, key: str, value: Any) -> None:
    super().__setitem__(self._new_key(key), value)

  def get_type(self, key: str) -> type:
    """Returns the type of a field, by its old or new name."""
    return super().get_type(self._new_key(key))

  def _new_key(self, key: str) -> str:
    new = _NEW_KEYS.get(key)
    if new is None or new not in self:
      return key
    self.old_keys.add(key)
    return new


def rename(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns fields by their new names, given `{'section.field': value}`.

  Raises:
    UserError: if a field is given by both of its names.
  """
  check_not_both(fields)
  return {NEW_NAMES.get(name, name): value for name, value in fields.items()}


def check_not_both(names: Iterable[str], prefix: str = '') -> None:
  """Checks that no field is given by both of its names.

  Args:
    names: as `'section.field'`.
    prefix: what stands before them where the user wrote them.

  Raises:
    UserError: names both.
  """
  given = set(names)
  for old, new in NEW_NAMES.items():
    if old in given and new in given:
      raise errors.UserError(
        f'{prefix}{old} and {prefix}{new} are the old and the new name of one '
        f'field: set {prefix}{new} only.'
      )


def rename_in_place(config: ml_collections.ConfigDict) -> list[str]:
  """Gives all fields of a config their new names.

  Only a config that is not made of `Section`s holds old ones: that of a file
  which defines all fields by itself.

  Returns:
    The old names that the config was set or read by.

  Raises:
    UserError: if a field is there by both of its names.
  """
  used = []
  for old, new in NEW_NAMES.items():
    path, _, old_key = old.rpartition('.')
    section = config.get(path) if path else config
    if not isinstance(section, ml_collections.ConfigDict):
      continue  # `schema.check` says so.
    if old_key in section:
      if _last(new) in section:
        check_not_both((old, new), 'config.')
      with section.unlocked():
        section[_last(new)] = section[old_key]
        del section[old_key]
      used.append(old)
    elif isinstance(section, Section) and old_key in section.old_keys:
      used.append(old)
  return used


def describe(used: Sequence[str]) -> str:
  """Returns a notice that lists old names beside their new ones."""
  pairs = ', '.join(f'{old} -> {NEW_NAMES[old]}' for old in used)
  return f'Renamed config fields: {pairs}. The old names still work.'
