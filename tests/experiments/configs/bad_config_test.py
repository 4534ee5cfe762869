"""Configs with values that no field should have: refused in words, or fine."""

import pathlib

import chex
import hypothesis
import ml_collections
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from experiments.configs import default, laptop_procedural, quickstart, schema
from nerf_haiku import errors

_NAN, _INF = float('nan'), float('inf')
_VALUES = (
  None,
  True,
  False,
  0,
  1,
  -1,
  2,
  3,
  2**31,
  -(2**31),
  2**63,
  10**30,
  0.0,
  0.5,
  -0.5,
  1.5,
  1e-300,
  1e300,
  -1e300,
  _NAN,
  _INF,
  -_INF,
  '',
  'relu',
  'nonsense',
  'a\0b',
  '\ud800',
  '../..',
  (),
  (0,),
  (-1,),
  (_NAN,),
  ('sin',),
  ('tan',),
  (10**30,),
  (0.0,) * 6,
  (0.3, 0.4, 0.5),
  (-1, -1, -1, 1, 1, 1),
  (-_INF,) * 3 + (_INF,) * 3,
  (0,) * 10_000,
  (-1e300,) * 3 + (1e300,) * 3,
  (None,),
  ((0,),),
  ([],),
  [0],
  [],
  {},
  {'a': 1},
  b'1',
  1j,
  pathlib.Path('x'),
)
_DEFAULTS = dict(schema.flatten(default.get_config()))
_LARGEST = 2**31 - 1  # That TensorFlow, JAX and Python all count to.


def _set(config, name, value):
  *sections, field = name.split('.')
  section = config
  for part in sections:
    section = section[part]
  with section.ignore_type():
    section[field] = value


def _largest(value) -> float:
  """Of the numbers in a value; 0 where there are none."""
  if isinstance(value, tuple):
    return max(map(_largest, value), default=0)
  return abs(value) if isinstance(value, int | float) else 0


class BadConfigTest(chex.TestCase):
  def check(self, config, names):
    """Passes, and all is bounded; or is refused by the name of a field."""
    try:
      schema.check(config, num_devices=1)
    except errors.UserError as error:
      text = str(error)
      self.assertTrue(any(f'config.{x}' in text for x in names), text)
      self.assertLess(len(text), 3000)
      return
    for name, value in schema.flatten(config):
      if isinstance(_DEFAULTS[name], float):
        self.assertIn(type(value), (int, float), name)
      else:
        self.assertIs(type(value), type(_DEFAULTS[name]), name)
      # Fails for NaN too.
      self.assertLessEqual(_largest(value), _LARGEST, name)

  @parameterized.parameters(default, laptop_procedural, quickstart)
  def test_one_field(self, module):
    fields = [name for name, _ in schema.flatten(module.get_config())]
    sections = sorted({x.partition('.')[0] for x in fields if '.' in x})

    @hypothesis.settings(max_examples=25 * hypothesis.settings().max_examples)
    @hypothesis.given(
      st.sampled_from(fields + sections), st.sampled_from(_VALUES)
    )
    def check(name, value):
      config = module.get_config()
      _set(config, name, value)
      # Of fields that do not fit together, either may be named.
      self.check(config, (name, *fields))

    check()

  def test_several_fields(self):
    def values(name):
      """Some of the field's type, and some that are not."""
      kind = type(_DEFAULTS[name])
      same = [x for x in _VALUES if type(x) is kind]
      return st.tuples(st.just(name), st.sampled_from([*same, *same, *_VALUES]))

    @hypothesis.settings(max_examples=10 * hypothesis.settings().max_examples)
    @hypothesis.given(
      st.lists(st.sampled_from(sorted(_DEFAULTS)).flatmap(values), max_size=4)
    )
    def check(changes):
      config = laptop_procedural.get_config()
      for name, value in changes:
        _set(config, name, value)
      self.check(config, (*_DEFAULTS, *(name for name, _ in changes)))

    check()

  def test_every_field_and_value(self):
    """Each alone: a field with no rule is found whatever is drawn."""
    failures = []
    config = laptop_procedural.get_config()
    for name, valid in dict(schema.flatten(config)).items():
      for value in (*_VALUES, valid):
        _set(config, name, value)
        try:
          self.check(config, (name, *_PARTNERS.get(name, ())))
        except Exception as error:
          failures.append((name, str(value)[:40], error))
    self.assertEmpty(failures)

  def test_unknown_fields(self):
    for name in ('', 'x', '画像', 'a' * 1000, 'emb.x'):
      config = default.get_config()
      _set(config, name, 1)
      with self.assertRaisesRegex(errors.UserError, 'there is no such field'):
        schema.check(config, num_devices=1)

  def test_a_section_that_is_none(self):
    config = default.get_config()
    _set(config, 'near', ml_collections.ConfigDict({}))
    with self.assertRaisesRegex(errors.UserError, 'config.near: is missing'):
      schema.check(config, num_devices=1)


# What a field must fit, that an error may name instead.
_PARTNERS = {
  'near': ('far',),
  'num_importance': ('num_samples',),
  'density_activation': ('last_interval',),
  'white_bkgd': ('last_interval', 'background'),
  'dataset_type': (
    'white_bkgd',
    'background',
    'llff.lindisp',
    'box',
    'down_factor',
    'pixel_center',
  ),
  'renderer': ('llff.lindisp',),
  'batching': ('precrop_iters',),
  'model.net_depth': ('model.skips',),
  'model_fine.net_depth': ('model_fine.skips',),
}

if __name__ == '__main__':
  absltest.main()
