import ml_collections
from absl.testing import absltest, parameterized

from experiments.configs import (
  default,
  laptop_procedural,
  quickstart,
  renamed_fields,
  schema,
)
from nerf_haiku import errors

_PAIRS = tuple(renamed_fields.NEW_NAMES.items())


def _plain(config):
  """A config as a file builds it that does not start from `default`."""
  fields = config.to_dict()
  for old, new in _PAIRS:
    *path, new_key = new.split('.')
    section = fields[path[0]] if path else fields
    section[old.rpartition('.')[2]] = section.pop(new_key)
  return ml_collections.ConfigDict(fields)


class NamesTest(parameterized.TestCase):
  def test_new_names_are_fields_and_old_ones_are_not(self):
    fields = dict(schema.flatten(default.get_config()))
    self.assertContainsSubset(renamed_fields.NEW_NAMES.values(), fields)
    self.assertNoCommonElements(renamed_fields.NEW_NAMES, fields)
    keys = [old.rpartition('.')[2] for old, _ in _PAIRS]
    self.assertLen(set(keys), len(keys))

  def test_no_preset_uses_an_old_name(self):
    for config in (default, laptop_procedural, quickstart):
      self.assertEmpty(renamed_fields.rename_in_place(config.get_config()))


class SectionTest(parameterized.TestCase):
  @parameterized.parameters(*_PAIRS)
  def test_a_field_is_set_and_read_by_both_names(self, old, new):
    config = default.get_config()
    value = 2 * config[new] + 1
    config.update_from_flattened_dict({old: value})
    self.assertEqual((config[old], config[new]), (value, value))
    path, _, key = old.rpartition('.')
    section = config[path] if path else config
    self.assertEqual(section.get_type(key), type(value))
    config.update_from_flattened_dict({new: 3 * value})
    self.assertEqual(config[old], 3 * value)
    self.assertNotIn(old, dict(schema.flatten(config)))

  def test_as_a_config_file_sets_fields(self):
    config = quickstart.get_config()
    config.batch_growth = 7
    config.hash.finest = 64
    config.hash.coarsest //= 2
    config.hash.update(table_size=512, colour_width=8)
    config.update({'occupancy': {'step': 0.5}, 'distortion': 0.25})
    config.update_from_flattened_dict({'occupancy.budget': 99})
    self.assertEqual(
      (
        config.batch_warmup_steps,
        config.hash.max_resolution,
        config.hash.base_resolution,
        config.hash.hashmap_size,
        config.hash.color_width,
        config.occupancy.step_size,
        config.distortion_loss_weight,
        config.occupancy.max_samples,
      ),
      (7, 64, 8, 512, 8, 0.5, 0.25, 99),
    )
    self.assertIsNone(schema.check(config, num_devices=1))
    self.assertEqual(
      renamed_fields.rename_in_place(config),
      [
        'batch_growth',
        'distortion',
        'hash.coarsest',
        'hash.colour_width',
        'hash.finest',
        'hash.table_size',
        'occupancy.budget',
        'occupancy.step',
      ],
    )

  def test_the_last_value_counts_whatever_its_name(self):
    config = default.get_config()
    config.hash.finest = 64
    config.hash.max_resolution = 32
    self.assertEqual(config.hash.finest, 32)
    config.hash.finest = 16
    self.assertEqual(config.hash.max_resolution, 16)

  def test_types_and_locks_hold_for_old_names(self):
    config = default.get_config().lock()
    config.hash.finest = 64
    with self.assertRaises(TypeError):
      config.hash.finest = 'large'
    with self.assertRaises(AttributeError):
      config.emb.finest = 64
    with self.assertRaises(AttributeError):
      config.finest = 64

  def test_a_copy_answers_to_old_names(self):
    config = default.get_config().copy_and_resolve_references()
    config.occupancy.every = 3
    self.assertEqual(config.occupancy.update_every, 3)


class RenameTest(parameterized.TestCase):
  def test_a_config_that_does_not_start_from_the_default(self):
    config = _plain(quickstart.get_config()).lock()
    with self.assertRaisesRegex(errors.UserError, 'there is no such field'):
      schema.check(config, num_devices=1)
    self.assertEqual(
      renamed_fields.rename_in_place(config), list(renamed_fields.NEW_NAMES)
    )
    self.assertEqual(config.to_dict(), quickstart.get_config().to_dict())
    self.assertIsNone(schema.check(config, num_devices=1))

  def test_fields_of_a_file(self):
    fields = {'hash.finest': 64, 'batch_growth': 0, 'num_rand': 8}
    self.assertEqual(
      renamed_fields.rename(fields),
      {'hash.max_resolution': 64, 'batch_warmup_steps': 0, 'num_rand': 8},
    )

  def test_both_names_are_refused(self):
    fields = {'hash.finest': 64, 'hash.max_resolution': 32}
    message = 'hash.finest and hash.max_resolution are the old and the new'
    with self.assertRaisesRegex(errors.UserError, message):
      renamed_fields.rename(fields)
    config = _plain(default.get_config())
    config.hash.max_resolution = 32
    message = 'config.hash.finest and config.hash.max_resolution are'
    with self.assertRaisesRegex(errors.UserError, message):
      renamed_fields.rename_in_place(config)

  def test_one_notice_lists_both_names(self):
    self.assertEqual(
      renamed_fields.describe(['batch_growth', 'hash.finest']),
      'Renamed config fields: batch_growth -> batch_warmup_steps, hash.finest '
      '-> hash.max_resolution. The old names still work.',
    )


if __name__ == '__main__':
  absltest.main()
