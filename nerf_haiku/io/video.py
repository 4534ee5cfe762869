"""Videos of frames: H.264 in MP4, or GIF where there is no encoder."""

import functools
import itertools
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import chex
import imageio.v2 as iio
import numpy as np

from nerf_haiku import errors

_SIDE = 2  # H.264 as all players read it has even sides.
_QUALITY = 10  # Of H.264, 0 to 51, less is better: the original's.


def write(
  path: pathlib.Path, frames: Iterable[np.ndarray], *, fps: int
) -> pathlib.Path:
  """Writes a video whole or not at all; one that was there is replaced.

  An odd side becomes even: its last row or column of pixels is repeated. GIF
  has no such need, but 256 colours only.

  Args:
    path: its name without the ending; the folder exists.
    frames: one or more, `[H, W, 3]` uint8, all of one size. They are taken one
      by one.
    fps: frames per second.

  Returns:
    The file: `.mp4` where there is an encoder, see `has_encoder`, or `.gif`.

  Raises:
    ValueError: if frames differ in size, or there are none.
    OSError: if the file can not be written.
  """
  encoded = has_encoder()
  path = path.with_name(path.name + ('.mp4' if encoded else '.gif'))
  temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
  try:
    _write(temporary, _alike(frames), fps, encoded)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  return path


@functools.cache
def has_encoder() -> bool:
  """Whether H.264 can be encoded here: two frames are, to see it."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'probe.mp4'
    frames = [np.zeros((16, 16, 3), np.uint8)] * 2
    try:
      _write(path, iter(frames), 30, encoded=True)
    except Exception:  # No ffmpeg, one without H.264, one that does not start.
      return False
    return path.exists() and path.stat().st_size > 0


def encoded_size(height: int, width: int) -> tuple[int, int]:
  """The height and width of the video of such frames."""
  if not has_encoder():
    return height, width
  return height + height % _SIDE, width + width % _SIDE


def _alike(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """The frames, checked to be of one size."""
  size = None
  for frame in frames:
    chex.assert_shape(frame, (None, None, 3))
    chex.assert_type(frame, np.uint8)
    size = size or frame.shape
    if frame.shape != size:
      raise ValueError(
        f'frames must be of one size, got {frame.shape[:2]} after {size[:2]}.'
      )
    yield frame
  if size is None:
    raise ValueError('a video needs a frame.')


def _write(
  path: pathlib.Path, frames: Iterator[np.ndarray], fps: int, encoded: bool
) -> None:
  if not encoded:
    writer: Any
    with iio.get_writer(path, duration=1000 / fps, loop=0) as writer:
      for frame in frames:
        writer.append_data(frame)
    return
  _encode(path, map(_even, frames), fps)


def _even(frame: np.ndarray) -> np.ndarray:
  """Repeats the last row or column where their number is odd."""
  height, width = frame.shape[:2]
  padding = ((0, height % _SIDE), (0, width % _SIDE), (0, 0))
  return np.pad(frame, padding, mode='edge')


def _encode(path: pathlib.Path, frames: Iterator[np.ndarray], fps: int) -> None:
  """Encodes frames by a process that they are written to.

  imageio would start it by a fork that runs Python, which can deadlock beside
  the threads of jax.
  """
  import imageio_ffmpeg  # Where it is missing there is no encoder.

  first = next(frames)
  height, width = first.shape[:2]
  arguments = [
    imageio_ffmpeg.get_ffmpeg_exe(),
    '-y',
    '-loglevel',
    'error',
    '-f',
    'rawvideo',
    '-pix_fmt',
    'rgb24',
    '-s',
    f'{width}x{height}',
    '-r',
    str(fps),
    '-i',
    '-',
    '-vcodec',
    'libx264',
    '-crf',
    str(_QUALITY),
    '-pix_fmt',
    'yuv420p',
    str(path.absolute()),
  ]
  with tempfile.TemporaryFile() as said:
    process: Any = subprocess.Popen(
      arguments,
      stdin=subprocess.PIPE,
      stdout=said,
      stderr=said,
      start_new_session=True,  # Ctrl-C is ours to handle.
    )
    try:
      whole = all(
        _put(process.stdin.write, frame.tobytes())
        for frame in itertools.chain([first], frames)
      )
      whole = _put(process.stdin.flush) and whole
    except BaseException:
      process.kill()
      raise
    finally:
      _put(process.stdin.close)
      process.wait()
    if process.returncode or not whole:
      said.seek(0)
      text = said.read().decode(errors='replace').strip().splitlines()
      raise errors.WriteError(
        f'{path}: can not be encoded: {"; ".join(text[-2:])}.'
      )


def _put(call: Callable[..., Any], *args: Any) -> bool:
  """Whether the encoder still reads; if not it has said why."""
  try:
    call(*args)
  except BrokenPipeError:
    return False
  return True
