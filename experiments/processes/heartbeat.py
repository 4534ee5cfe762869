"""Ends a process when another process of its run has failed or died."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.processes import coordination

# Seconds between two heartbeats, and without one until a process counts as
# dead.
INTERVAL = 1.0
TIMEOUT = 20.0
# Seconds that process 0, which holds the store, waits for the others to exit.
_EXIT_TIMEOUT = 10.0
# Milliseconds that the others have to write who they are.
_START_TIMEOUT = 60_000


class _Process(NamedTuple):
  """What a process tells the others about itself."""

  name: str  # for the user.
  pid: int
  # Which processes see each other by their pids; '' if that is not known.
  namespace: str


class Heartbeat:
  """Ends this process, with a message, when another one fails or falls silent.

  Each process increments a number in the store; one whose number stays the
  same counts as dead. (jax has heartbeats too, but aborts with a stack trace.)
  """

  def __init__(
    self,
    store: coordination.Store,
    index: int,
    count: int,
    address: str,
    *,
    interval: float = INTERVAL,
    timeout: float = TIMEOUT,
  ):
    """Starts the threads that send and check heartbeats.

    Args:
      store: shared by all processes.
      index: of this process.
      count: number of processes.
      address: `host:port` of process 0.
      interval: seconds between two heartbeats.
      timeout: seconds without a heartbeat after which a process counts as dead.
    """
    self._store, self._index, self._count = store, index, count
    self._address = address
    self._interval, self._timeout = interval, timeout
    store.key_value_set(f'process/{index}', json.dumps(_this_process()))
    self._processes = [
      _Process(
        *json.loads(
          store.blocking_key_value_get(f'process/{i}', _START_TIMEOUT)
        )
      )
      for i in range(count)
    ]
    # The last number of each process, and when it was first read.
    self._heartbeats = dict.fromkeys(range(count), ('', time.monotonic()))
    # Processes that exit, and why the others have to: '' if they do not.
    self._exits: dict[int, str] = {}
    self._dead: set[int] = set()
    self._exiting = threading.Event()
    self._kill_fns = [_make_kill_fn(x) for x in self._processes]
    on_abort(self._handle_abort)
    for task in (self._send_heartbeats, self._check_heartbeats):
      threading.Thread(target=task, daemon=True).start()

  def exit_process(self, status: int, reason: str | None) -> None:
    """Ends this process, see `multihost.exit_process`."""
    self._exiting.set()
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
      self._store.key_value_set(f'exit/{self._index}', reason or '')
      deadline = time.monotonic() + _EXIT_TIMEOUT
      while self._index == 0 and time.monotonic() < deadline:
        if len({*_read(self._store, 'exit/'), *self._dead}) == self._count:
          break
        time.sleep(self._interval / 10)
    os._exit(status)

  def wait_until_noticed(self) -> None:
    """Waits as long as it takes to notice that another process is dead."""
    time.sleep(self._timeout + 3 * self._interval)

  def _send_heartbeats(self) -> None:
    """Sends heartbeats, and reads those of the others."""
    number = 0
    while not self._exiting.is_set():
      # Errors are ignored here: silence is noticed by `_check_heartbeats`.
      with contextlib.suppress(Exception):
        number += 1
        self._store.key_value_set(
          f'heartbeat/{self._index}', str(number), allow_overwrite=True
        )
        heartbeats = _read(self._store, 'heartbeat/')
        exits = _read(self._store, 'exit/')
        now = time.monotonic()
        for i, value in heartbeats.items():
          if value != self._heartbeats[i][0]:
            self._heartbeats[i] = value, now
        self._exits = exits
      self._exiting.wait(self._interval)

  def _check_heartbeats(self) -> None:
    """Ends this process if another one has failed or is silent."""
    while True:
      before = time.monotonic()
      if self._exiting.wait(self._interval):
        return
      if time.monotonic() > before + 5 * self._interval:
        # This process itself was suspended: the others get another chance.
        now = time.monotonic()
        self._heartbeats = {
          i: (value, now) for i, (value, _) in self._heartbeats.items()
        }
        continue
      for i, reason in self._exits.items():
        if reason and i != self._index:
          self._exit_because_of(i, f'failed: {reason}')
      silent = [
        i
        for i, (_, since) in self._heartbeats.items()
        if i not in (self._index, *self._exits)
        and time.monotonic() > since + self._timeout
      ]
      if silent:
        # Without process 0, which holds the store, all others seem silent.
        i = min(silent)
        self._dead.update(silent)
        kill_fn = self._kill_fns[i]
        if kill_fn is not None:
          kill_fn()
        self._exit_because_of(
          i, f'has sent no heartbeat for {self._timeout:g} s'
        )

  def _exit_because_of(self, other: int, what: str) -> None:
    if self._exiting.is_set():
      return  # This process is exiting for a reason of its own.
    self._exiting.set()
    self._report(other, what)
    self.exit_process(1, f'process {other} {what}')

  def _report(self, other: int, what: str) -> None:
    text = (
      f'Process {other} ({self._processes[other].name}) {what.rstrip(".")}. '
      f'Process {self._index} exits. Run the same command to resume from the '
      'last checkpoint.\n'
    )
    # Not with print, whose lock another thread may hold.
    os.write(2, text.encode())

  def _handle_abort(self) -> None:
    """Reports that process 0 is gone: jax aborts as soon as it notices."""
    host, _, port = self._address.rpartition(':')
    try:
      socket.create_connection((host.strip('[]'), int(port)), 5).close()
    except OSError:
      self._report(0, 'is gone')
      os._exit(1)


def _read(store: coordination.Store, folder: str) -> dict[int, str]:
  """Returns what each process has written in a folder of the store."""
  return {
    int(name.rpartition('/')[2]): value
    for name, value in store.key_value_dir_get(folder)
  }


def _this_process() -> _Process:
  namespace = ''
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    namespace = boot.strip() + os.readlink('/proc/self/ns/pid')
  return _Process(
    name=f'{socket.gethostname()}, pid {os.getpid()}',
    pid=os.getpid(),
    namespace=namespace,
  )


def _make_kill_fn(process: _Process) -> Callable[[], None] | None:
  """Returns a function that kills a process of this host, even if suspended.

  None for a process of another host, or where the system cannot do it.
  """
  if not process.namespace or process.namespace != _this_process().namespace:
    return None
  try:
    # It stays that of this process, even if another one gets its pid.
    descriptor = os.pidfd_open(process.pid)
  except (AttributeError, OSError):
    return None

  def kill() -> None:
    with contextlib.suppress(OSError):
      signal.pidfd_send_signal(descriptor, signal.SIGKILL)

  return kill


# C does not hold a reference to it.
_abort_handler: Any = None


def on_abort(fn: Callable[[], None]) -> None:
  """Has a function called, in any thread, before an abort ends the process.

  When jax loses the other processes it aborts, and has no other callback.
  """
  global _abort_handler
  _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: fn())
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _abort_handler)
