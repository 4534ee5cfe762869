"""Imports TensorFlow on first use, without its log output or accelerators."""

import contextlib
import functools
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType

_LOCK = threading.Lock()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
  """Drops what native code writes to standard error, unless an error occurs."""
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as text:
    os.dup2(text.fileno(), 2)
    try:
      yield
    except Exception:  # Not for Ctrl-C.
      text.seek(0)
      os.write(original, text.read())
      raise
    finally:
      os.dup2(original, 2)
      os.close(original)


def module() -> ModuleType:
  """Returns TensorFlow; the first call imports it, which takes seconds.

  It reads data and scores images on the CPU: accelerators are hidden from it,
  because it would reserve their whole memory.
  """
  with _LOCK:
    return _import()


@functools.cache
def _import() -> ModuleType:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # TensorFlow imports Keras, which would read and write settings in the home
  # folder, or in one of all users where that is read-only. This is no folder.
  os.environ.setdefault('KERAS_HOME', os.devnull)
  with _quiet_stderr():
    tf = importlib.import_module('tensorflow')
    tf.config.set_visible_devices([], 'GPU')
    tf.config.set_visible_devices([], 'TPU')
    tf.zeros(())  # Starts the runtime, which logs as well.
  return tf
