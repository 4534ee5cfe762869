"""TensorFlow when it is first needed, without its chatter or the devices."""

import contextlib
import functools
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType

_LOCK = threading.Lock()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
  """Drops what native code writes to standard error, unless we fail."""
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as text:
    os.dup2(text.fileno(), 2)
    try:
      yield
    except BaseException:
      text.seek(0)
      os.write(kept, text.read())
      raise
    finally:
      os.dup2(kept, 2)
      os.close(kept)


def module() -> ModuleType:
  """Imports TensorFlow, which takes seconds, on its first call.

  TensorFlow reads data and scores images here, on the CPU: accelerators are
  hidden from it, because it would reserve their whole memory.
  """
  with _LOCK:
    return _import()


@functools.cache
def _import() -> ModuleType:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  with _quiet_stderr():
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
    tf.config.set_visible_devices([], 'TPU')
    tf.zeros(())  # Starts the runtime, which has words of its own.
  return tf
