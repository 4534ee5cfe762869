"""The coordination service of jax, through which processes find each other.

Process 0 runs it; all processes share its key-value store. Its port has no
password: whoever reaches it can disturb a run.
"""

import ipaddress
import os
import socket
import warnings
from typing import Protocol

import jax

# Overrides the address on which process 0 listens; jax reads it.
BIND_VARIABLE = 'JAX_COORDINATOR_BIND_ADDRESS'


class Store(Protocol):
  """The key-value store, as far as it is used here."""

  def key_value_set(
    self, key: str, value: str, allow_overwrite: bool = False
  ) -> None:
    """Sets a string."""

  def key_value_set_bytes(self, key: str, value: bytes) -> None:
    """Sets bytes."""

  def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
    """Returns all keys below this one, with their strings."""

  def key_value_delete(self, key: str) -> None:
    """Deletes a key."""

  def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
    """Waits until a string is set, and returns it."""

  def blocking_key_value_get_bytes(self, key: str, timeout_in_ms: int) -> bytes:
    """Waits until bytes are set, and returns them."""

  def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
    """Waits until all processes wait at this barrier."""


def store() -> Store:
  """Returns the store that `initialize` has connected to."""
  # Private: jax has no public way to its key-value store.
  from jax._src import distributed

  client: Store | None = distributed.global_state.client
  if client is None:
    raise RuntimeError('initialize() must be called first.')
  return client


def address() -> str:
  """Returns `host:port` of process 0, by which the others reach the service."""
  # Private: what jax detects in a cluster, it shows nowhere else.
  from jax._src import distributed

  return distributed.global_state.coordinator_address or ''


def is_launched_as_multihost() -> bool:
  """Whether jax finds a launcher that started this process among others."""
  # Private: `initialize` asks them; jax has no public way to ask before.
  from jax._src import clusters

  with warnings.catch_warnings():
    # A pod without the package that asks Kubernetes.
    warnings.simplefilter('ignore')
    for kind in clusters.ClusterEnv._cluster_types:
      if kind.opt_in_only_method:
        continue
      # A pod that is not of an indexed Job is alone, and may not be allowed to
      # ask Kubernetes.
      if kind.name == 'k8s' and 'JOB_COMPLETION_INDEX' not in os.environ:
        continue
      if kind.is_env_present():
        return kind.get_process_count() > 1
  return False


def initialize(
  coordinator: str | None,
  num_processes: int | None,
  process_index: int | None,
  *,
  start_timeout: int,
  heartbeat_timeout: int,
  shutdown_timeout: int,
) -> None:
  """Connects this process to the others.

  Args:
    coordinator: `host:port` of process 0, which listens there and nowhere else
      if the address is its own, see `bind_address`. None if jax is to ask the
      launcher: process 0 then listens on all addresses of its host.
    num_processes: number of processes; None as above.
    process_index: index of this one, from 0; None as above.
    start_timeout: seconds that all processes have to connect.
    heartbeat_timeout: seconds after which jax gives up on a silent process.
    shutdown_timeout: seconds that jax waits for the others at the end.

  Raises:
    RuntimeError: if the others do not connect.
  """
  # It would take SIGTERM, to which `signals` listens.
  jax.config.update('jax_enable_preemption_service', False)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_index,
    cluster_detection_method='deactivate' if coordinator else None,
    initialization_timeout=start_timeout,
    heartbeat_timeout_seconds=heartbeat_timeout,
    shutdown_timeout_seconds=shutdown_timeout,
    coordinator_bind_address=coordinator and bind_address(coordinator),
  )


def bind_address(coordinator: str) -> str | None:
  """Returns the address on which process 0 listens; None for all addresses.

  It is the one by which the others are told to reach it, if that belongs to
  this host. It listens on all addresses if it does not (an address behind NAT,
  the name of a Kubernetes service), or if it is a name that only this host
  resolves to itself, as many do with their own name. The environment variable
  `JAX_COORDINATOR_BIND_ADDRESS` comes before all that.

  Args:
    coordinator: `host:port`, a name or an address; IPv6 in brackets.
  """
  if os.environ.get(BIND_VARIABLE):
    return None  # jax reads it.
  host, _, port = coordinator.rpartition(':')
  host = host.strip('[]')
  try:
    infos = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
  except OSError:
    return None
  for family, kind, protocol, _, found in infos:
    own = str(found[0])
    if _is_loopback(own) and host not in ('localhost', own):
      continue
    with socket.socket(family, kind, protocol) as probe:
      try:
        probe.bind((own, 0, *found[2:]))
      except OSError:
        continue
    return f'[{own}]:{port}' if family == socket.AF_INET6 else f'{own}:{port}'
  return None


def _is_loopback(own: str) -> bool:
  return ipaddress.ip_address(own.partition('%')[0]).is_loopback
