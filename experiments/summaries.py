"""What TensorBoard shows of a run."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import event_file_writer

from nerf_haiku import lazy_tensorflow, media


class Summaries:
  """Writes scalars and images; a context manager.

  Written with TensorBoard's own writer: `tf.summary` can not say that a run
  goes on from an earlier step, and what a killed run wrote after its last
  checkpoint would be shown twice.
  """

  def __init__(self, folder: pathlib.Path | None):
    """Writes nothing without a folder."""
    lazy_tensorflow.module()  # Quietly; the writer imports it.
    self._writer = None
    if folder is not None:
      self._writer = event_file_writer.EventFileWriter(str(folder))

  def __enter__(self) -> 'Summaries':
    return self

  def __exit__(self, *error: object) -> None:
    if self._writer is not None:
      self._writer.close()

  def go_on_from(self, step: int) -> None:
    """Tells TensorBoard to forget what it has of this step and later ones."""
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
    self._flush()

  def hyperparameters(
    self, settings: Mapping[str, Any], metrics: Mapping[str, float]
  ) -> None:
    """Adds what the run was asked for, beside what it came to."""
    lazy_tensorflow.module()  # Quietly; the plugin imports it.
    from tensorboard.plugins.hparams import api

    plain = {
      name: value if isinstance(value, bool | int | float) else str(value)
      for name, value in settings.items()
    }
    self._add(0, summary=api.hparams_pb(plain))
    self.scalars(0, {f'final/{name}': x for name, x in metrics.items()})
    self._flush()

  def _add_values(
    self, step: int, values: list[summary_pb2.Summary.Value]
  ) -> None:
    self._add(step, summary=summary_pb2.Summary(value=values))

  def _flush(self) -> None:
    if self._writer is not None:
      self._writer.flush()

  def _add(self, step: int, **content: Any) -> None:
    if self._writer is not None:
      self._writer.add_event(
        event_pb2.Event(wall_time=time.time(), step=step, **content)
      )


def _encode(image: np.ndarray) -> summary_pb2.Summary.Image:
  height, width, channels = image.shape
  return summary_pb2.Summary.Image(
    height=height,
    width=width,
    colorspace=channels,
    encoded_image_string=media.encode_png(image),
  )
