"""Writes videos: H.264 in MP4, or GIF where no encoder is available."""

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

_SIDE_MULTIPLE = 2  # All players can play H.264 whose sides are even.
# Of H.264, 0 to 51, lower is better: that of the reference implementation.
_QUALITY = 10


def write(
  path: pathlib.Path, frames: Iterable[np.ndarray], *, fps: int
) -> pathlib.Path:
  """Writes a video atomically; an existing one is replaced.

  In MP4, odd sides are made even by repeating the last row or column of
  pixels. GIF allows odd sides, but only 256 colors.

  Args:
    path: the file without its suffix, in an existing folder.
    frames: one or more, `[H, W, 3]` uint8, all of one size; consumed one by
      one.
    fps: frames per second.

  Returns:
    The file: `.mp4` where there is an encoder, see `has_encoder`, or `.gif`.

  Raises:
    ValueError: if frames differ in size, or there are none.
    OSError: if the file cannot be written.
  """
  use_mp4 = has_encoder()
  path = path.with_name(path.name + ('.mp4' if use_mp4 else '.gif'))
  temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
  try:
    write_frames = _write_mp4 if use_mp4 else _write_gif
    write_frames(temporary, _check_sizes(frames), fps)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
  return path


@functools.cache
def has_encoder() -> bool:
  """Returns whether H.264 can be encoded here, by encoding two frames."""
  frames = [np.zeros((16, 16, 3), np.uint8)] * 2
  try:
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'probe.mp4'
      _write_mp4(path, iter(frames), 30)
      return path.exists() and path.stat().st_size > 0
  except Exception:  # No ffmpeg, one without H.264, one that does not start.
    return False


def encoded_size(height: int, width: int) -> tuple[int, int]:
  """Returns the height and width of the video of frames of this size."""
  if not has_encoder():
    return height, width
  return height + height % _SIDE_MULTIPLE, width + width % _SIDE_MULTIPLE


def _check_sizes(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Yields the frames, after checking that all are of one size."""
  shape = None
  for frame in frames:
    chex.assert_shape(frame, (None, None, 3))
    chex.assert_type(frame, np.uint8)
    shape = shape or frame.shape
    if frame.shape != shape:
      raise ValueError(
        f'frames must be of one size, got {frame.shape[:2]} after {shape[:2]}.'
      )
    yield frame
  if shape is None:
    raise ValueError('a video needs at least one frame.')


def _write_gif(
  path: pathlib.Path, frames: Iterator[np.ndarray], fps: int
) -> None:
  writer: Any  # Its type in imageio lacks the method.
  with iio.get_writer(path, duration=1000 / fps, loop=0) as writer:
    for frame in frames:
      writer.append_data(frame)


def _pad_to_even(frame: np.ndarray) -> np.ndarray:
  """Repeats the last row or column if their number is odd."""
  height, width = frame.shape[:2]
  padding = ((0, height % _SIDE_MULTIPLE), (0, width % _SIDE_MULTIPLE), (0, 0))
  return np.pad(frame, padding, mode='edge')


def _write_mp4(
  path: pathlib.Path, frames: Iterator[np.ndarray], fps: int
) -> None:
  """Pipes frames to an encoder process.

  imageio would start the process by a fork that runs Python, which can
  deadlock beside the threads of JAX.
  """
  frames = map(_pad_to_even, frames)
  first = next(frames)
  height, width = first.shape[:2]
  with tempfile.TemporaryFile() as output:
    process = subprocess.Popen(
      _encoder_command(path, height, width, fps),
      stdin=subprocess.PIPE,
      stdout=output,
      stderr=output,
      start_new_session=True,  # Ctrl-C is handled here, not by the encoder.
    )
    assert process.stdin is not None
    stdin = process.stdin
    try:
      complete = all(
        _try_to(stdin.write, frame.tobytes())
        for frame in itertools.chain([first], frames)
      )
      complete = _try_to(stdin.flush) and complete
    except BaseException:
      process.kill()
      raise
    finally:
      _try_to(stdin.close)
      process.wait()
    if process.returncode or not complete:
      output.seek(0)
      text = output.read().decode(errors='replace').strip().splitlines()
      raise errors.WriteError(
        f'{path}: cannot be encoded: {"; ".join(text[-2:])}.'
      )


def _encoder_command(
  path: pathlib.Path, height: int, width: int, fps: int
) -> list[str]:
  import imageio_ffmpeg  # Without it there is no encoder.

  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-y', '-loglevel', 'error']
  command += ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{width}x{height}']
  command += ['-r', str(fps), '-i', '-', '-vcodec', 'libx264']
  command += ['-crf', str(_QUALITY), '-pix_fmt', 'yuv420p']
  return [*command, str(path.absolute())]


def _try_to(call: Callable[..., object], *args: bytes) -> bool:
  """Calls a function; returns False if the encoder has closed its input."""
  try:
    call(*args)
  except BrokenPipeError:
    return False
  return True
