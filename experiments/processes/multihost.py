"""One run of several processes: how they start, agree and exit.

Process 0, the main process, makes all decisions and writes all files; the
others follow it, see `run_on_main`. It sends them messages through the
key-value store of jax's coordination service.
"""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from experiments.processes import coordination, heartbeat, messages, signals
from nerf_haiku import errors, training

T = TypeVar('T')

# Seconds that all processes have to connect.
_START_TIMEOUT = 300
# Seconds after which jax gives up on a process: later than our own heartbeat.
_JAX_HEARTBEAT_TIMEOUT = 60
_SHUTDOWN_TIMEOUT = 10
# Milliseconds; a wait for process 0 has no end of its own: if it dies, the
# heartbeat ends this process.
_NO_TIMEOUT = 7 * 24 * 3600 * 1000
# The beginnings of errors in the communication, which have various types.
_COMMUNICATION_ERRORS = re.compile(
  'UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED'
)
_NOT_CONNECTED = (
  '--coordinator: not all processes have connected to it within '
  f'{_START_TIMEOUT} s, or two have the same --process_index'
)


class MainProcessFailedError(Exception):
  """Process 0 has failed, and so this process exits."""


class _Channel:
  """The connection of this process to the others of its run."""

  def __init__(
    self, store: coordination.Store, heartbeat_: heartbeat.Heartbeat
  ):
    self.heartbeat = heartbeat_
    # Those that process 0 may call on all processes, see `collective`. They are
    # called with the variables first, then with arguments of these types.
    self.collectives: list[tuple[Callable[..., Any], tuple]] = []
    self._store = store
    self._num_messages = self._num_deleted = 0

  def send(self, *message: Any) -> None:
    """Sends a message of process 0 to all others."""
    self._store.key_value_set_bytes(self._next_key(), messages.encode(message))

  def receive(self) -> Any:
    """Waits for the next message of process 0, and returns it.

    Raises:
      messages.MessageError: if it is not one that process 0 sends.
    """
    return messages.decode(
      self._store.blocking_key_value_get_bytes(self._next_key(), _NO_TIMEOUT)
    )

  def delete_received(self) -> None:
    """Waits until all processes have received all messages; deletes them."""
    self._store.wait_at_barrier(f'received/{self._num_messages}', _NO_TIMEOUT)
    while is_main() and self._num_deleted < self._num_messages:
      self._num_deleted += 1
      self._store.key_value_delete(f'message/{self._num_deleted}')
    self._num_deleted = self._num_messages

  def _next_key(self) -> str:
    self._num_messages += 1
    return f'message/{self._num_messages}'


_channel: _Channel | None = None


def initialize(
  coordinator: str | None,
  num_processes: int | None,
  process_index: int | None,
  *,
  heartbeat_interval: float = heartbeat.INTERVAL,
  heartbeat_timeout: float = heartbeat.TIMEOUT,
) -> None:
  """Connects this process to the others of a run, before any use of devices.

  Without arguments it asks the launchers that jax knows, such as SLURM; a
  process that was launched alone stays alone.

  Args:
    coordinator: `host:port` of process 0, where it waits for the others; see
      `coordination.bind_address` for the addresses on which it listens.
    num_processes: number of processes.
    process_index: index of this process, from 0.
    heartbeat_interval: seconds between two heartbeats of a process.
    heartbeat_timeout: seconds without one after which it counts as dead.

  Raises:
    UserError: if an argument is missing or wrong, or others do not connect.
  """
  global _channel
  arguments = (coordinator, num_processes, process_index)
  if any(x is not None for x in arguments):
    _check_flags(*arguments)
    if num_processes == 1:
      return
  elif not coordination.is_launched_as_multihost():
    return
  heartbeat.on_abort(_handle_abort_at_start)
  try:
    coordination.initialize(
      coordinator,
      num_processes,
      process_index,
      start_timeout=_START_TIMEOUT,
      heartbeat_timeout=_JAX_HEARTBEAT_TIMEOUT,
      shutdown_timeout=_SHUTDOWN_TIMEOUT,
    )
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    if 'Failed to start RPC server' in reason:
      raise errors.UserError(
        f'--coordinator: process 0 cannot listen at {coordinator}; another '
        'program may use that port. Choose another one.'
      ) from error
    raise errors.UserError(f'{_NOT_CONNECTED} ({reason}).') from error
  store = coordination.store()
  _channel = _Channel(
    store,
    heartbeat.Heartbeat(
      store,
      jax.process_index(),
      jax.process_count(),
      coordination.address(),
      interval=heartbeat_interval,
      timeout=heartbeat_timeout,
    ),
  )
  with _suppress_output(for_good=not is_main()):
    # Connects the devices, and shows that they can compute together.
    int(training.make_global_max()(0))


def _handle_abort_at_start() -> None:
  os.write(2, f'Error: {_NOT_CONNECTED}.\n'.encode())
  os._exit(1)


def _check_flags(
  coordinator: str | None, num_processes: int | None, process_index: int | None
) -> None:
  """Checks the flags that make a process one of several.

  Raises:
    UserError: names a flag that is missing or wrong.
  """
  flags = {
    '--coordinator': coordinator,
    '--num_processes': num_processes,
    '--process_index': process_index,
  }
  given = ', '.join(name for name, value in flags.items() if value is not None)
  for name, value in flags.items():
    if value is None:
      raise errors.UserError(f'{name} is required together with {given}.')
  assert coordinator is not None
  assert num_processes is not None
  assert process_index is not None
  match = re.fullmatch(r'\S+:(\d{1,5})', coordinator)
  if not match or int(match[1]) > 65535:
    raise errors.UserError(
      f'--coordinator: got {coordinator!r}; must be host:port of process 0.'
    )
  if num_processes < 1:
    raise errors.UserError(
      f'--num_processes: got {num_processes}; must be at least 1.'
    )
  if not 0 <= process_index < num_processes:
    raise errors.UserError(
      f'--process_index: got {process_index}; must be from 0 to '
      f'{num_processes - 1}, as --num_processes is {num_processes}.'
    )


@contextlib.contextmanager
def _suppress_output(*, for_good: bool) -> Iterator[None]:
  """Drops what libraries print about connections, or all that is printed."""
  sys.stdout.flush()
  stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 1)
  try:
    yield
  finally:
    if not for_good:
      os.dup2(stdout, 1)
    os.close(stdout)
    os.close(null)


def check_same(settings: dict[str, Any]) -> None:
  """Checks that all processes were started with the same settings.

  Args:
    settings: that must be the same, by the names of their fields or flags.

  Raises:
    UserError: names a setting that differs.
  """
  if not is_multihost():
    return
  main_settings = run_on_main(lambda: settings)
  for name, value in settings.items():
    if main_settings.get(name) != value:
      raise errors.UserError(
        f'{name}: got {value!r}, but process 0 has '
        f'{main_settings.get(name)!r}; all processes must have the same.'
      )


def is_multihost() -> bool:
  """Whether this process is one of several that are one run."""
  return _channel is not None


def is_main() -> bool:
  """Whether this is the main process, the only one that writes and prints."""
  return jax.process_index() == 0


def collective(
  fn: Callable[..., T], arg_types: tuple[type, ...]
) -> Callable[..., T]:
  """Lets process 0 call a function on all processes, within `run_on_main`.

  All processes have to call `collective` for the same functions in the same
  order.

  Args:
    fn: a function of variables, which each process has, and of arguments that
      `messages.encode` can send.
    arg_types: the types of these arguments: the classes of NamedTuples.
  """
  if _channel is None:
    return fn
  channel, number = _channel, len(_channel.collectives)
  channel.collectives.append((fn, arg_types))

  def call(variables: Any, *args: Any) -> T:
    signals.raise_if_interrupted()
    channel.send('call', number, args)
    return fn(variables, *args)

  return call


def run_on_main(
  fn: Callable[[], T], variables: Any = None, *, like: Any = None
) -> T:
  """Calls a function on process 0 only, and returns its result on all.

  Meanwhile the others take part in the `collective` functions that it calls.

  Args:
    fn: a function whose result `messages.encode` can send.
    variables: the first argument of collective functions.
    like: where the result has NamedTuples, and of which types: a value like
      it, see `messages.restore_types`. None if it has none.

  Raises:
    MainProcessFailedError: on the other processes, if process 0 fails.
    messages.MessageError: on them, if a message is not one of process 0.
  """
  if _channel is None:
    return fn()
  if is_main():
    try:
      result = fn()
    except Exception as error:
      _channel.send('error', str(error))
      raise
    _channel.send('result', result)
  else:
    result = _follow_main(_channel, variables, like)
  _channel.delete_received()
  return result


def _follow_main(channel: _Channel, variables: Any, like: Any) -> Any:
  """Calls what process 0 says until it sends a result, and returns that."""
  while True:
    message = channel.receive()
    match message:
      case ('error', str(text)):
        raise MainProcessFailedError(text)
      case ('result', result):
        return messages.restore_types(result, like)
      case ('call', int(number), tuple(args)) if (
        0 <= number < len(channel.collectives)
      ):
        fn, arg_types = channel.collectives[number]
        fn(variables, *messages.restore_types(args, arg_types[: len(args)]))
      case _:
        raise messages.MessageError(
          'A message from another process is of no known kind.'
        )


def exit_process(status: int, reason: str | None = None) -> None:
  """Ends this process at once; returns if it is not one of several.

  Args:
    status: its exit code.
    reason: an error, already printed, for which the others have to exit too;
      None if they exit by themselves.
  """
  if _channel is not None:
    _channel.heartbeat.exit_process(status, reason)


def wait_for_failed_process(error: Exception) -> None:
  """Waits if an error may be due to the end of another process.

  The heartbeat needs some time to notice that; then it ends this process, with
  a message that names the other one.
  """
  if _channel is not None and _COMMUNICATION_ERRORS.match(str(error)):
    _channel.heartbeat.wait_until_noticed()


def exit_with_traceback(error: Exception) -> None:
  """Ends this process for an unexpected error; returns if it is alone."""
  if _channel is None:
    return
  if isinstance(error, MainProcessFailedError):
    print(f'Process 0 failed: {error}', file=sys.stderr)
    exit_process(1)
  wait_for_failed_process(error)
  traceback.print_exc()
  exit_process(1, f'{type(error).__name__}: {error}')
