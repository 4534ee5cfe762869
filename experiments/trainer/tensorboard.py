"""TensorBoard's curves and images of a run."""

import contextlib
import io
import itertools
import os
import pathlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2

# Not `hparams.api`, which imports TensorFlow.
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer import record_writer

from nerf_haiku.io import media

# Two writers of one process do not share a file.
_COUNT = itertools.count()


class SummaryWriter:
  """Writes scalars and images; a context manager.

  It writes TensorBoard's own records: `tf.summary` cannot say that a run
  resumes from an earlier step, and would show twice what a killed run wrote
  after its last checkpoint. There is no thread, so that a full disk is noticed
  here; it is reported once, and does not stop a run.
  """

  def __init__(
    self, folder: pathlib.Path | None, say: Callable[[str], None] | None = None
  ):
    """Starts a file in a folder; without one nothing is written.

    `say` reports that it cannot be written.
    """
    self._path = folder and folder / (
      f'events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.'
      f'{os.getpid()}.{next(_COUNT)}'
    )
    self._say = say or (lambda text: None)
    self._is_failing = False
    self._write(
      event_pb2.Event(wall_time=time.time(), file_version='brain.Event:2')
    )

  def __enter__(self) -> 'SummaryWriter':
    return self

  def __exit__(self, *error: object) -> None:
    pass  # Each record is written at once.

  def resume_from(self, step: int) -> None:
    """Tells TensorBoard to discard this step and later ones."""
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(step, session_log=start)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Adds a point to the curve of each name."""
    self._add_values(
      step,
      [
        summary_pb2.Summary.Value(tag=name, simple_value=float(value))
        for name, value in values.items()
      ],
    )

  def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds images `[H, W, 3]` uint8 under their names."""
    self._add_values(
      step,
      [
        summary_pb2.Summary.Value(tag=name, image=_encode(image))
        for name, image in images.items()
      ],
    )

  def hyperparameters(
    self, settings: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> None:
    """Adds the settings of the run, beside its final metrics."""
    plain = {
      name: value
      if isinstance(value, bool | int | float)
      else str(value).encode('utf-8', 'backslashreplace').decode()
      for name, value in settings.items()
    }
    self._add(0, summary=summary_v2.hparams_pb(plain))
    self.scalars(0, {f'final/{name}': x for name, x in metrics.items()})

  def _add_values(
    self, step: int, values: list[summary_pb2.Summary.Value]
  ) -> None:
    self._add(step, summary=summary_pb2.Summary(value=values))

  def _add(self, step: int, **content: Any) -> None:
    self._write(event_pb2.Event(wall_time=time.time(), step=step, **content))

  def _write(self, event: event_pb2.Event) -> None:
    """Adds a record to the file as a whole, or not at all."""
    if self._path is None:
      return
    record = io.BytesIO()
    record_writer.RecordWriter(record).write(event.SerializeToString())
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      _append(self._path, record.getvalue())
      self._is_failing = False
    except OSError as error:
      if not self._is_failing:
        self._say(
          f'TensorBoard: {self._path.parent} cannot be written '
          f'({error.strerror}). Training continues.'
        )
      self._is_failing = True


def _append(path: pathlib.Path, content: bytes) -> None:
  before = path.stat().st_size if path.exists() else 0
  try:
    with path.open('ab') as file:
      file.write(content)
  except OSError:
    with contextlib.suppress(OSError):  # No reader goes past half a record.
      os.truncate(path, before)
    raise


def _encode(image: np.ndarray) -> summary_pb2.Summary.Image:
  height, width, channels = image.shape
  return summary_pb2.Summary.Image(
    height=height,
    width=width,
    colorspace=channels,
    encoded_image_string=media.encode_png(image),
  )
