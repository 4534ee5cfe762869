import os
import pathlib
from unittest import mock

from absl.testing import absltest, parameterized

from nerf_haiku.io import memory

_MEMINFO = 'MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:  2000 kB\n'
_AVAILABLE = 2000 * 1024


class AvailableTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    for name, path in (
      ('_MEMINFO', self.folder / 'meminfo'),
      ('_OWN_CGROUPS', self.folder / 'own'),
      ('_CGROUP_ROOT', self.folder / 'cgroup'),
    ):
      self.enter_context(mock.patch.object(memory, name, path))

  def remove_sysconf(self):
    """As on Windows."""
    sysconf = os.sysconf
    del os.sysconf
    self.addCleanup(setattr, os, 'sysconf', sysconf)

  def write(self, name, text):
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

  def test_available_rather_than_total_memory(self):
    self.write('meminfo', _MEMINFO)
    self.assertEqual(memory.available(), _AVAILABLE)

  @parameterized.parameters('', 'MemTotal: 9000 kB', 'MemAvailable: x', '7')
  def test_physical_memory_if_the_system_does_not_say(self, text):
    self.write('meminfo', text)
    with mock.patch.object(os, 'sysconf', return_value=30):
      self.assertEqual(memory.available(), 900)

  def test_unknown_without_sysconf(self):
    self.remove_sysconf()
    self.assertIsNone(memory.available())

  def test_unknown_if_sysconf_does_not_know_the_names(self):
    with mock.patch.object(os, 'sysconf', side_effect=ValueError):
      self.assertIsNone(memory.available())

  @parameterized.parameters(
    ('0::/', 'memory.max', 'memory.current', ''),
    ('0::/pod/job', 'memory.max', 'memory.current', 'pod/job'),
    ('0::/pod/job', 'memory.max', 'memory.current', 'pod'),
    ('0::/pod/job', 'memory.max', 'memory.current', ''),
    (
      '3:cpu:/x\n2:memory:/pod',
      'memory.limit_in_bytes',
      'memory.usage_in_bytes',
      'memory/pod',
    ),
  )
  def test_a_container_limits_it(self, own, limit, usage, group):
    self.write('meminfo', _MEMINFO)
    self.write('own', own)
    self.write(f'cgroup/{group}/{limit}', '5000\n')
    self.write(f'cgroup/{group}/{usage}', '3000\n')
    self.assertEqual(memory.available(), 2000)
    self.write(
      f'cgroup/{group}/memory.stat',
      'anon 900\ninactive_file 500\nactive_file 70\n',
    )
    self.assertEqual(memory.available(), 2570)

  def test_the_tightest_of_several_containers_counts(self):
    self.write('own', '0::/pod/job')
    for group, limit in (('pod', 7000), ('pod/job', 9000)):
      self.write(f'cgroup/{group}/memory.max', f'{limit}')
      self.write(f'cgroup/{group}/memory.current', '1000')
    self.assertEqual(memory.available(), 6000)

  def test_a_full_container_has_nothing_left(self):
    self.write('own', '0::/')
    self.write('cgroup/memory.max', '1000')
    self.write('cgroup/memory.current', '1001')
    self.assertEqual(memory.available(), 0)

  def test_a_container_without_a_limit(self):
    self.write('meminfo', _MEMINFO)
    self.write('own', '0::/')
    self.write('cgroup/memory.max', 'max\n')
    self.write('cgroup/memory.current', '3000')
    self.assertEqual(memory.available(), _AVAILABLE)


if __name__ == '__main__':
  absltest.main()
