import os
import socket
from unittest import mock

import chex
import jax
from absl.testing import parameterized

from experiments.processes import coordination


def _resolve(*addresses):
  """A resolver that finds these addresses for any name."""
  infos = [
    info
    for address in addresses
    for info in socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)
  ]
  return mock.patch.object(
    coordination.socket, 'getaddrinfo', return_value=infos
  )


class BindAddressTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(os.environ))
    os.environ.pop(coordination.BIND_VARIABLE, None)

  @parameterized.parameters(
    ('127.0.0.1:1234', '127.0.0.1:1234'),
    ('127.0.0.2:80', '127.0.0.2:80'),
    ('0.0.0.0:1234', '0.0.0.0:1234'),
    ('192.0.2.1:1234', None),  # For documentation: no host has it.
    ('[2001:db8::1]:1234', None),
  )
  def test_of_an_address(self, coordinator, expected):
    self.assertEqual(coordination.bind_address(coordinator), expected)

  def test_of_localhost(self):
    self.assertIn(
      coordination.bind_address('localhost:1234'),
      ('127.0.0.1:1234', '[::1]:1234'),
    )

  def test_of_ipv6(self):
    with socket.socket(socket.AF_INET6) as probe:
      try:
        probe.bind(('::1', 0))
      except OSError:
        self.skipTest('needs IPv6.')
    self.assertEqual(coordination.bind_address('[::1]:1234'), '[::1]:1234')

  def test_of_a_name_that_is_not_found(self):
    with mock.patch.object(
      coordination.socket, 'getaddrinfo', side_effect=socket.gaierror
    ):
      self.assertIsNone(coordination.bind_address('host0:1234'))

  def test_of_a_name_of_another_host(self):
    with _resolve('192.0.2.1'):
      self.assertIsNone(coordination.bind_address('host0:1234'))

  def test_of_a_name_that_only_this_host_resolves_to_itself(self):
    with _resolve('127.0.1.1'):
      self.assertIsNone(coordination.bind_address('host0:1234'))

  def test_of_a_name_with_an_address_of_this_host(self):
    with _resolve('127.0.1.1', '192.0.2.1', '0.0.0.0'):
      self.assertEqual(coordination.bind_address('host0:80'), '0.0.0.0:80')

  def test_the_environment_comes_first(self):
    os.environ[coordination.BIND_VARIABLE] = '0.0.0.0:1234'
    self.assertIsNone(coordination.bind_address('127.0.0.1:1234'))

  @parameterized.parameters(('127.0.0.1:1234', '127.0.0.1:1234'), (None, None))
  def test_jax_listens_at_that_address(self, coordinator, expected):
    with (
      mock.patch.object(jax.distributed, 'initialize') as initialize,
      mock.patch.object(jax.config, 'update'),
    ):
      coordination.initialize(
        coordinator,
        2,
        0,
        start_timeout=3,
        heartbeat_timeout=2,
        shutdown_timeout=1,
      )
    self.assertEqual(initialize.call_args.args, (coordinator, 2, 0))
    self.assertEqual(
      initialize.call_args.kwargs['coordinator_bind_address'], expected
    )


class LauncherTest(chex.TestCase):
  @parameterized.named_parameters(
    ('nowhere', {}, False),
    ('one_task', {'SLURM_NTASKS': '1'}, False),
    ('four_tasks', {'SLURM_NTASKS': '4'}, True),
    # In the shell of a job, where no task runs.
    ('shell', {'SLURM_NTASKS': '4', 'SLURM_STEP_NODELIST': None}, False),
    ('pod', {'KUBERNETES_SERVICE_HOST': 'a'}, False),
    (
      'open_mpi',
      {'OMPI_MCA_orte_hnp_uri': '1', 'OMPI_COMM_WORLD_SIZE': '2'},
      True,
    ),
  )
  def test_is_launched_as_multihost(self, changes, expected):
    task = {
      'SLURM_JOB_ID': '7',
      'SLURM_STEP_NODELIST': 'a',
      'SLURM_PROCID': '0',
      'SLURM_LOCALID': '0',
    }
    variables = task | changes if 'SLURM_NTASKS' in changes else changes
    variables = {x: y for x, y in variables.items() if y is not None}
    with mock.patch.dict(os.environ, variables, clear=True):
      self.assertEqual(coordination.is_launched_as_multihost(), expected)
