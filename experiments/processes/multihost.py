"""Many processes as one run: how they start, agree and end.

Process 0 decides and writes; the others follow it, see `run_on_main`. What it
tells them goes through the key-value store of jax's coordination service.
"""

import contextlib
import os
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from experiments.processes import heartbeat, signals
from nerf_haiku import errors, training

# Seconds after which jax gives up on a process: after our own watch has.
_HEARTBEAT = 60
_SHUTDOWN = 10
# Seconds that all processes have to come.
_START = 300
# How errors of what goes between processes begin, of whatever type they are.
_OF_JAX = re.compile(
  'UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED'
)
_NOBODY = (
  f'--coordinator: not all processes came there within {_START} s, or two have '
  'one index'
)
# No wait for process 0 ends by itself: the watch ends it.
_NO_LIMIT = 7 * 24 * 3600 * 1000


class FirstFailedError(Exception):
  """Process 0 failed, and so this one ends."""


class _World:
  """The other processes, and the messages of process 0 to them."""

  def __init__(self) -> None:
    self.watch: heartbeat.Heartbeat | None = None
    self.client: Any = None
    self.functions: list[Callable[..., Any]] = []
    self._sent = self._kept = 0

  def send(self, *message: Any) -> None:
    """Of process 0, for all others."""
    self.client.key_value_set_bytes(self._next(), pickle.dumps(message))

  def receive(self) -> Any:
    """The next message of process 0; waits for it."""
    name = self._next()
    text = self.client.blocking_key_value_get_bytes(name, _NO_LIMIT)
    return pickle.loads(text)  # Of our own processes: from no file.

  def forget(self) -> None:
    """Deletes what all have received."""
    self.client.wait_at_barrier(f'received/{self._sent}', _NO_LIMIT)
    while jax.process_index() == 0 and self._kept < self._sent:
      self._kept += 1
      self.client.key_value_delete(f'message/{self._kept}')
    self._kept = self._sent

  def _next(self) -> str:
    self._sent += 1
    return f'message/{self._sent}'


_world = _World()


def start(
  coordinator: str | None, num_processes: int | None, index: int | None
) -> None:
  """Makes this process one of many, before jax looks for its devices.

  Without arguments it asks what has launched the process, as far as jax knows
  such launchers; one that was launched alone stays alone.

  Args:
    coordinator: `host:port` of process 0, where it listens for the others.
    num_processes: how many there are.
    index: of this one, from 0.

  Raises:
    ValueError: if an argument is missing or wrong, or others do not come.
  """
  flags = {
    '--coordinator': coordinator,
    '--num_processes': num_processes,
    '--process_index': index,
  }
  if any(x is not None for x in flags.values()):
    _check(flags)
  elif not _launched_as_one_of_many():
    return
  if num_processes == 1:
    return
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  # It would take SIGTERM, which `signals` listens to.
  jax.config.update('jax_enable_preemption_service', False)
  heartbeat.on_abort(_nobody_came)
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      index,
      cluster_detection_method=coordinator and 'deactivate',
      initialization_timeout=_START,
      heartbeat_timeout_seconds=_HEARTBEAT,
      shutdown_timeout_seconds=_SHUTDOWN,
    )
  except RuntimeError as error:
    raise errors.UserError(
      f'{_NOBODY} ({str(error).splitlines()[0]}).'
    ) from error
  from jax._src import distributed  # jax shows its store nowhere else.

  _world.client = distributed.global_state.client
  address = distributed.global_state.coordinator_address or ''
  _world.watch = heartbeat.Heartbeat(
    _world.client, jax.process_index(), jax.process_count(), address
  )
  with _quiet_output(jax.process_index() > 0):
    int(training.make_global_max()(0))  # They connect, and can compute.


def _nobody_came() -> None:
  os.write(2, f'Error: {_NOBODY}.\n'.encode())
  os._exit(1)


def _check(given: dict[str, Any]) -> None:
  for name, value in given.items():
    if value is None:
      there = ', '.join(x for x, y in given.items() if y is not None)
      raise errors.UserError(f'{name}: is missing; {there} ask for it.')
  coordinator, num_processes, index = given.values()
  if not re.fullmatch(r'\S+:\d{1,5}', coordinator):
    raise errors.UserError(
      f'--coordinator: got {coordinator!r}; allowed: host:port of process 0.'
    )
  if num_processes < 1:
    raise errors.UserError(
      f'--num_processes: got {num_processes}; allowed: 1 on.'
    )
  if not 0 <= index < num_processes:
    raise errors.UserError(
      f'--process_index: got {index}; allowed: 0 to {num_processes - 1}, as '
      f'--num_processes is {num_processes}.'
    )


def _launched_as_one_of_many() -> bool:
  """Whether jax finds what launched this process, and others beside it."""
  from jax._src import clusters  # What `initialize` asks; nothing public does.

  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Of a pod alone, without its package.
    for kind in clusters.ClusterEnv._cluster_types:
      if kind.opt_in_only_method:
        continue
      # A pod that is no part of an indexed job is alone, and may not ask.
      if kind.name == 'k8s' and 'JOB_COMPLETION_INDEX' not in os.environ:
        continue
      if kind.is_env_present():
        return kind.get_process_count() > 1
  return False


@contextlib.contextmanager
def _quiet_output(for_good: bool) -> Iterator[None]:
  """Keeps what libraries print of their connections; others say nothing."""
  sys.stdout.flush()
  kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  try:
    yield
  finally:
    if not for_good:
      os.dup2(kept, 1)
    os.close(kept)
    os.close(nowhere)


def check_same(settings: dict[str, Any]) -> None:
  """Makes sure that all processes were started alike.

  Args:
    settings: the fields that have to be the same, by their names.

  Raises:
    ValueError: names a field that is not.
  """
  if not is_multihost():
    return
  there = run_on_main(lambda: settings)
  for name, value in settings.items():
    if there.get(name) != value:
      raise errors.UserError(
        f'{name}: got {value!r}, and {there.get(name)!r} on process 0; all '
        'processes need the same.'
      )


def is_multihost() -> bool:
  """Whether this process is one of many."""
  return _world.watch is not None


def is_main() -> bool:
  """Whether this process is the one that writes and tells."""
  return jax.process_index() == 0


def collective(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Lets process 0 call a function of all processes, in `run_on_main`.

  Args:
    fn: of what is learnt, which each process has, and of what can be pickled.
      All processes share functions in the same order.
  """
  if not is_multihost():
    return fn
  _world.functions.append(fn)
  number = len(_world.functions) - 1

  def call(learnt, *args):
    signals.check_between_images()
    _world.send('call', number, args)
    return fn(learnt, *args)

  return call


def run_on_main(fn: Callable[[], Any], learnt: Any = None) -> Any:
  """Calls a function on process 0 alone, and gives its result to all.

  Meanwhile the others do their part of the `collective` functions it calls.

  Args:
    fn: its result can be pickled.
    learnt: what shared functions take first.

  Raises:
    FirstFailedError: on the others, if process 0 fails.
  """
  if not is_multihost():
    return fn()
  if is_main():
    try:
      result = fn()
    except Exception as error:
      _world.send('error', str(error))
      raise
    _world.send('result', result)
  else:
    while True:
      kind, *content = _world.receive()
      if kind == 'error':
        raise FirstFailedError(*content)
      if kind == 'result':
        (result,) = content
        break
      _world.functions[content[0]](learnt, *content[1])
  _world.forget()
  return result


def end(status: int, text: str | None = None) -> None:
  """Ends this process at once; returns if it is not one of many.

  Args:
    status: its exit code.
    text: why, for the others, if they are to end too; it was told to the user.
  """
  if _world.watch is not None:
    _world.watch.end(status, text)


def wait_for_cause(error: Exception) -> None:
  """Waits if an error may come from the end of another process.

  The watch needs some time to notice that, and then ends this one.
  """
  if _world.watch is not None and _OF_JAX.match(str(error)):
    _world.watch.wait()


def fail(error: Exception) -> None:
  """Ends this process for what nobody expected; returns if it is alone."""
  if _world.watch is None:
    return
  if isinstance(error, FirstFailedError):
    print(f'Process 0 failed: {error}', file=sys.stderr)
    end(1)
  wait_for_cause(error)
  traceback.print_exc()
  end(1, f'{type(error).__name__}: {error}')
