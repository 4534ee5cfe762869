"""Benchmarks count right, and run."""

import pathlib
import subprocess
import sys

import chex
import pytest
from absl.testing import parameterized

from experiments.benchmarks import ablation, commands, communication, machine
from experiments.configs import paper_blender_lego, quickstart
from tests.support import environment

_FOLDER = pathlib.Path(machine.__file__).parent


class FlopsTest(chex.TestCase):
  def test_the_paper_s_network_by_hand(self):
    """Two per weight and sample, biases not counted."""
    config = paper_blender_lego.get_config()
    trunk = 63 * 256 + 7 * 256 * 256 + 63 * 256
    density = trunk + 256
    colour = 256 * 256 + 256 * 128 + 128 * 3
    view = 27 * 128  # Once per ray.
    self.assertEqual(
      machine.flops_per_ray(config, training=False),
      2 * (64 * density + 192 * (density + colour) + view),
    )
    encoded = 2 * 63 * 256  # Their inputs need no gradient.
    self.assertEqual(
      machine.flops_per_ray(config, training=True),
      256 * (6 * (density + colour) - 2 * encoded) + 2 * 4 * view,
    )


class CommunicationTest(chex.TestCase):
  def test_a_ring_by_hand(self):
    # 8 MB over 4 devices: 6 messages of 2 MB at 1 GB/s, each 1 ms late.
    seconds = communication.ring_seconds(8e6, 4, rate=1e9, latency=1e-3)
    self.assertAlmostEqual(seconds, 6 * (2e-3 + 1e-3))
    self.assertEqual(
      communication.ring_seconds(8e6, 1, rate=1e9, latency=1e-3), 0
    )
    self.assertAlmostEqual(communication.efficiency(0.4, 4, 0.1), 0.5)

  def test_so_many_rays_are_80_percent_efficient(self):
    link = {'rate': 1e9, 'latency': 1e-3}
    rays = communication.rays_for(1e-3, 8e6, 4, **link)
    seconds = communication.ring_seconds(8e6, 4, **link)
    self.assertAlmostEqual(
      communication.efficiency(rays * 1e-3, 4, seconds), 0.8
    )


class TableTest(chex.TestCase):
  def test_spread(self):
    self.assertEqual(
      machine.format_range([3.0, 1.0, 2.0], 1), '2.0 (1.0 to 3.0)'
    )


class VaryTest(chex.TestCase):
  def test_fields_are_set_as_their_types_are(self):
    config = quickstart.get_config()
    text = 'hash.color_depth=2,adam_b2=0.5,field=mlp,perturb=False'
    found = ablation.vary(config, text)
    self.assertEqual(found.hash.color_depth, 2)
    self.assertEqual(found.adam_b2, 0.5)
    self.assertEqual(found.field, 'mlp')
    self.assertIs(found.perturb, False)
    self.assertEqual(config.hash.color_depth, 1)  # As it was.

  def test_a_value_out_of_range_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'config.adam_b2'):
      ablation.vary(quickstart.get_config(), 'adam_b2=1.0')


@pytest.mark.slow
class CommandsTest(chex.TestCase):
  """With a smaller network, views or scene than the figures are of."""

  @parameterized.parameters(
    (
      'step.py',
      [
        '--microbatch=1',
        '--num_rand=2',
        '--num_importance=3',
        '--net_width=16',
        '--turns=1',
        '--remat=True',
      ],
      r'\| 1 +\| float32 \| True +\|',
    ),
    ('render.py', ['--sizes=4', '--turns=1'], r'\| 4x4 +\| 1 +\|'),
    (
      'antialiasing.py',
      [
        '--aliased_size=16',
        '--aliased_steps=2',
        '--aliased_views=1',
        '--aliased_seeds=0',
      ],
      r'\| cones, several a pixel +\| \d+\.\d\d \(',
    ),
    (
      'startup.py',
      ['--turns=1', '--arguments', ','.join(commands.TINY_HASH)],
      r'\| warm +\| \d+\.\d \(',
    ),
  )
  def test_it_prints_its_table(self, name, arguments, row):
    done = subprocess.run(
      [sys.executable, _FOLDER / name, *arguments],
      capture_output=True,
      text=True,
      check=True,
      timeout=300,
      env=environment.make(1),
    )
    self.assertRegex(done.stdout, row)
