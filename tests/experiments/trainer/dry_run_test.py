import os
import pathlib

import chex

from experiments.configs import laptop_procedural, quickstart
from experiments.trainer import dry_run


class DryRunTest(chex.TestCase):
  def test_of_a_hash_grid_and_occupancy(self):
    config = quickstart.get_config()
    config.update(num_rand=64)
    config.procedural.update(size=16, num_train=3, num_test=2)
    config.hash.update(
      hashmap_size=512, num_levels=2, max_resolution=32, base_resolution=4
    )
    config.occupancy.update(step=0.1, budget=512)
    text = dry_run.describe_run(config, None, seed=0)
    # 5 ** 3 corners at the first level; the second has no room for 33 ** 3.
    self.assertRegex(text, r'hash +2 tables of 637\n')
    self.assertRegex(text, r'hash/layer_0 +4 -> 64\n')
    self.assertRegex(text, r'Occupancy: 64\^3 cells .*steps of 0.1, up to')

  def test_what_is_printed(self):
    config = laptop_procedural.get_config()
    config.update(num_steps=10**9, num_rand=64, num_importance=8)
    config.procedural.update(size=16, num_train=3, num_test=2)
    config.model.update(net_depth=2, net_width=16, skips=(0,))
    config.model_fine.update(net_depth=2, net_width=8, skips=())
    before = os.getcwd()
    folder = pathlib.Path(self.create_tempdir().full_path)
    os.chdir(folder)
    try:
      text = dry_run.describe_run(config, None, seed=0)
    finally:
      os.chdir(before)
    self.assertEmpty(list(folder.iterdir()))
    self.assertIn('3 train views of 16x16', text)
    self.assertIn('Rays: from t = 2 to 6, clipped to the box from (-1.1', text)
    # 8 octaves of 3 coordinates, sines and cosines, and themselves: 51; of
    # directions 4 octaves: 27. Worked by hand, biases counted.
    fine = 51 * 8 + 8 + 8 * 8 + 8 + 8 + 1 + 8 * 8 + 8 + (8 + 27) * 4 + 4 + 15
    self.assertIn(f'fine network: {fine:,} parameters', text)
    coarse = text.partition('coarse network')[2].partition('fine network')[0]
    layers = [line.split() for line in coarse.splitlines()[1:]]
    self.assertEqual(
      layers,
      [
        ['mlp/layer_0', '51', '->', '16'],
        ['mlp/layer_1', '67', '->', '16'],
        ['mlp/density', '16', '->', '1'],
        ['mlp/bottleneck', '16', '->', '16'],
        ['mlp/view', '43', '->', '8'],
        ['mlp/rgb', '8', '->', '3'],
      ],
    )
    self.assertNotIn('Occupancy', text)
    self.assertRegex(text, r'Devices: 4 .*16 rays of a step on each')
    self.assertRegex(text, r'Memory: .* MB for a step on each device')
    self.assertRegex(text, r's a step \(.* rays/s\), .* days for 1,000,000,000')
