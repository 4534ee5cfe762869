"""Whether the other processes of a run live, and what ends this one."""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# Seconds between two signs of life, and of silence that ends a run.
_EVERY = 1.0
_SILENCE = 20.0
# Seconds that process 0, whom the others ask, stays for them at its end.
_STAYS = 10.0


class Heartbeat:
  """Ends this process, with a word, when another one fails or falls silent.

  Each process counts up a number in the store; whose number stands still is
  taken for dead. (jax has such a watch too, which aborts with a stack trace.)
  """

  def __init__(self, client: Any, index: int, count: int, address: str):
    """Begins to watch.

    Args:
      client: of jax's coordination service.
      index: of this process.
      count: how many there are.
      address: `host:port` of process 0.
    """
    self._client, self._index, self._count = client, index, count
    self._address = address
    client.key_value_set(f'who/{index}', _who())
    self._who = [
      client.blocking_key_value_get(f'who/{i}', 60_000) for i in range(count)
    ]
    self._seen = dict.fromkeys(range(count), ('', time.monotonic()))
    self._ended: dict[int, str] = {}
    self._gone: set[int] = set()
    self._ending = threading.Event()
    self._killers = [_killer(x) for x in self._who]
    on_abort(self._aborted)
    for task in (self._beat, self._look):
      threading.Thread(target=task, daemon=True).start()

  def end(self, status: int, text: str | None) -> None:
    """Ends this process, so that the others know; see `processes.end`."""
    self._ending.set()
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
      self._client.key_value_set(f'ended/{self._index}', text or '')
      until = time.monotonic() + _STAYS
      while self._index == 0 and time.monotonic() < until:
        if len({*_read(self._client, 'ended/'), *self._gone}) == self._count:
          break
        time.sleep(_EVERY / 10)
    os._exit(status)

  def wait(self) -> None:
    """Waits as long as it takes to notice that another one is gone."""
    time.sleep(_SILENCE + 3 * _EVERY)

  def _beat(self) -> None:
    """Gives signs of life, and reads those of others."""
    number = 0
    while True:
      with contextlib.suppress(Exception):  # Silence is noticed in `_look`.
        number += 1
        self._client.key_value_set(f'alive/{self._index}', str(number), True)
        alive = _read(self._client, 'alive/')
        ended = _read(self._client, 'ended/')
        now = time.monotonic()
        for i, sign in alive.items():
          if sign != self._seen[i][0]:
            self._seen[i] = sign, now
        self._ended = ended
      time.sleep(_EVERY)

  def _look(self) -> None:
    """Ends this process if another one has failed or is silent."""
    while True:
      before = time.monotonic()
      time.sleep(_EVERY)
      if self._ending.is_set():
        return
      if time.monotonic() > before + 5 * _EVERY:
        # This process itself was stopped: the others may speak first.
        now = time.monotonic()
        self._seen = {i: (sign, now) for i, (sign, _) in self._seen.items()}
        continue
      for i, text in self._ended.items():
        if text and i != self._index:
          self._end(i, f'failed: {text}')
      silent = [
        i
        for i, (_, when) in self._seen.items()
        if i not in (self._index, *self._ended)
        and time.monotonic() > when + _SILENCE
      ]
      if silent:
        # Who waits for process 0 hears of nobody.
        i = min(silent)
        self._gone.update(silent)
        if self._killers[i]:
          self._killers[i]()
        self._end(i, f'gave no sign of life for {_SILENCE:.0f} s')

  def _end(self, other: int, what: str) -> None:
    if self._ending.is_set():
      return  # This process was just about to.
    self._ending.set()
    self._say(other, what)
    self.end(1, f'process {other} {what}')

  def _say(self, other: int, what: str) -> None:
    # Not by print, whose lock another thread may hold.
    text = (
      f'Process {other} ({self._who[other].split(";")[0]}) {what.rstrip(".")}. '
      f'Process {self._index} ends; the same command goes on from the last '
      'checkpoint.\n'
    )
    os.write(2, text.encode())

  def _aborted(self) -> None:
    """When jax aborts: without process 0 it does so at once."""
    host, _, port = self._address.rpartition(':')
    try:
      socket.create_connection((host.strip('[]'), int(port)), 5).close()
    except OSError:
      self._say(0, 'is gone')
      os._exit(1)


def _read(client: Any, folder: str) -> dict[int, str]:
  """What each process has written."""
  return {
    int(name.rpartition('/')[2]): value
    for name, value in client.key_value_dir_get(folder)
  }


def _who() -> str:
  """This process, for the user, and by what others on its host find it."""
  space = ''
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    space = boot.strip() + os.readlink('/proc/self/ns/pid')
  return f'{socket.gethostname()}, pid {os.getpid()};{os.getpid()};{space}'


def _killer(who: str) -> Any:
  """What ends a process of this host, also one that is stopped."""
  _, pid, space = who.split(';')
  if not space or space != _who().split(';')[2]:
    return None
  try:
    handle = os.pidfd_open(int(pid))  # Of this process, whoever has its pid.
  except (AttributeError, OSError):
    return None

  def kill() -> None:
    with contextlib.suppress(OSError):
      signal.pidfd_send_signal(handle, signal.SIGKILL)

  return kill


def on_abort(fn: Callable[[], None]) -> None:
  """Calls a function, in whatever thread, before an abort ends the process.

  Where jax gives up on others it aborts, and offers nothing else.
  """
  global _handler  # C does not keep it.
  _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: fn())
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _handler)


_handler: Any = None
