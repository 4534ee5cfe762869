"""A key-value store as that of jax's coordination service, in this process."""

import threading


class Store:
  """Holds strings and bytes; keys that are deleted are only listed."""

  def __init__(self):
    self.values = {}
    self.deleted = []
    self.barriers = []
    self._changed = threading.Condition()

  def key_value_set(self, key, value, allow_overwrite=False):
    with self._changed:
      if key in self.values and not allow_overwrite:
        raise ValueError(f'ALREADY_EXISTS: {key}')
      self.values[key] = value
      self._changed.notify_all()

  def key_value_set_bytes(self, key, value):
    self.key_value_set(key, value)

  def key_value_dir_get(self, key):
    with self._changed:
      return [x for x in self.values.items() if x[0].startswith(key)]

  def key_value_delete(self, key):
    self.deleted.append(key)

  def blocking_key_value_get(self, key, timeout_in_ms):
    with self._changed:
      if not self._changed.wait_for(
        lambda: key in self.values, min(timeout_in_ms / 1000, 10)
      ):
        raise TimeoutError(f'DEADLINE_EXCEEDED: {key}')
      return self.values[key]

  def blocking_key_value_get_bytes(self, key, timeout_in_ms):
    return self.blocking_key_value_get(key, timeout_in_ms)

  def wait_at_barrier(self, barrier_id, timeout_in_ms):
    del timeout_in_ms
    self.barriers.append(barrier_id)
