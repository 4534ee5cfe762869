"""Takes sharp frames from a video, evenly spread over it.

The video is decoded twice, by the program that encodes videos here: small and
gray to measure how sharp each frame is, then in color to write those chosen.
Rotation is applied by that program, and frames have no EXIF.
"""

import itertools
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import imageio_ffmpeg
import numpy as np
from PIL import Image

from experiments.reconstruction import stages
from nerf_haiku import errors

# The longer side of frames whose sharpness is measured. Blur that is not seen
# at this size does not matter to features.
_SMALL_SIDE = 640
_QUALITY = 95  # Of JPEG.


def measure_sharpness(gray: np.ndarray) -> float:
  """Returns the variance of the Laplacian of a gray image `[H, W]`.

  Of two frames of about the same view, the sharper one has more of it (Pech-
  Pacheco et al., 2000).
  """
  x = gray.astype(np.float32)
  laplacian = (
    x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
  ) - 4.0 * x[1:-1, 1:-1]
  return float(np.var(laplacian))


def choose(sharpness: Sequence[float], count: int) -> list[int]:
  """Chooses the sharpest frame of each of `count` equal intervals.

  Returns:
    Indices of frames, increasing; all where there are at most `count`.
  """
  if len(sharpness) <= count:
    return list(range(len(sharpness)))
  edges = np.linspace(0, len(sharpness), count + 1).astype(int)
  return [
    int(start + np.argmax(sharpness[start:stop]))
    for start, stop in itertools.pairwise(edges)
  ]


def extract(
  video: pathlib.Path, folder: pathlib.Path, count: int, shown: stages.Stages
) -> str | None:
  """Writes sharp frames of a video.

  Args:
    video: the file.
    folder: an existing one, for files named after the frames' numbers, from 1.
    count: of frames, at most.
    shown: where progress is shown.

  Returns:
    A notice for the user, or None.

  Raises:
    DataError: if the video cannot be decoded.
  """
  shown.start('video', None)
  sharpness: list[float] = []
  small = (
    f"scale='min({_SMALL_SIDE},iw)':'min({_SMALL_SIDE},ih)':"
    'force_original_aspect_ratio=decrease:flags=area'
  )
  for frame in _decode(video, small, 'pgm'):
    sharpness.append(measure_sharpness(frame))
    shown.show(len(sharpness))
  shown.finish('frames measured')
  chosen = choose(sharpness, count)
  shown.start('frames', len(chosen))
  numbers = '+'.join(rf'eq(n\,{index})' for index in chosen)
  frames = _decode(video, f"select='{numbers}'", 'ppm')
  for done, (index, frame) in enumerate(zip(chosen, frames, strict=False), 1):
    Image.fromarray(frame).save(
      folder / f'frame_{index + 1:06}.jpg', quality=_QUALITY, subsampling=0
    )
    shown.show(done)
  shown.finish('frames written')
  if len(chosen) < count:
    return f'{video}: has {len(chosen)} frames, fewer than --frames={count}.'
  return None


def _decode(
  video: pathlib.Path, filters: str, codec: str
) -> Iterator[np.ndarray]:
  """Yields frames of a video, uint8: `[H, W]` of pgm, `[H, W, 3]` of ppm.

  Raises:
    DataError: if there are none.
  """
  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-nostdin']
  command += ['-i', str(video.absolute()), '-map', '0:v:0', '-vf', filters]
  command += ['-fps_mode', 'passthrough', '-f', 'image2pipe', '-c:v', codec]
  count = 0
  with tempfile.TemporaryFile() as output:
    process = subprocess.Popen(
      [*command, '-'],
      stdout=subprocess.PIPE,
      stderr=output,
      start_new_session=True,  # Ctrl-C is handled here.
    )
    assert process.stdout is not None
    try:
      while (frame := _read_frame(process.stdout)) is not None:
        count += 1
        yield frame
      process.wait()
    finally:
      process.kill()
      process.wait()
      process.stdout.close()
    if not count:
      output.seek(0)
      text = output.read().decode(errors='replace').strip().splitlines()
      raise errors.DataError(
        f'{video}: cannot be decoded as a video ({"; ".join(text[-2:])}): '
        'copy it again, or convert it to MP4.'
      )


def _read_frame(file: IO[bytes]) -> np.ndarray | None:
  """Reads a PGM or PPM of 8 bits, whose header is three lines; None at end."""
  lines = [file.readline() for _ in range(3)]
  if not lines[2]:
    return None
  width, height = map(int, lines[1].split())
  shape = (height, width) if lines[0] == b'P5\n' else (height, width, 3)
  size = int(np.prod(shape))
  pixels = file.read(size)
  if len(pixels) < size:
    return None
  return np.frombuffer(pixels, np.uint8).reshape(shape)
