"""Moves arrays to and from many devices, for pmapped functions."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def are_cpus() -> bool:
  """Returns whether this process computes on CPUs."""
  return jax.default_backend() == 'cpu'


class Memory(NamedTuple):
  """Bytes of a device's memory."""

  limit: int
  in_use: int


def memory() -> Memory | None:
  """Returns the memory of the local device that has least left.

  None where devices do not say it, as CPUs.
  """
  stats = [device.memory_stats() for device in jax.local_devices()]
  known = [Memory(x['bytes_limit'], x['bytes_in_use']) for x in stats if x]
  return min(known, key=lambda x: x.limit - x.in_use, default=None)


def replicate(tree: Any, num_devices: int | None = None) -> Any:
  """Copies each leaf to local devices, under a new leading axis `[D]`.

  Args:
    tree: tree of arrays.
    num_devices: `D`, the number of devices, from the first on; None for all.

  Returns:
    The tree of copies.
  """
  devices = jax.local_devices()[:num_devices]
  sharding = NamedSharding(
    Mesh(np.asarray(devices), ('devices',)), PartitionSpec('devices')
  )

  def copy(x: Any) -> jax.Array:
    x = np.asarray(x)[None]  # On the host: each shape would be compiled for.
    return jax.make_array_from_single_device_arrays(
      (len(devices), *x.shape[1:]),
      sharding,
      [jax.device_put(x, device) for device in devices],
    )

  return jax.tree.map(copy, tree)


def unreplicate(tree: Any) -> Any:
  """Returns a host copy of the first replica.

  It uses no collective, so any process may call it alone.
  """
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def shard(tree: Any, num_devices: int) -> Any:
  """Splits the first axis: `[R, ...]` becomes `[D, R / D, ...]`."""
  return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), tree)
