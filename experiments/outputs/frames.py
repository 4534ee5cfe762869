"""Frames of a video on disk: rendered one by one, and resumed."""

import io
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tqdm
from PIL import Image

from nerf_haiku import arrays, cameras, image_rendering
from nerf_haiku.io import files, media, video

_RGB, _DEPTH, _OPACITY, _STILL = 'rgb', 'depth', 'opacity', 'still'
_DISPARITY = 'disparity'
_SHEET = 'contact_sheet.png'
# Cells of the contact sheet.
_NUM_CELLS, _NUM_COLUMNS = 12, 4

_DEPTH_README = """\
Depth of each frame. t is measured along the optical axis of the camera (not
along the ray), in scene units. The depth of a pixel is the sum of weight times
t over the samples of its ray, not divided by opacity, as in the reference
implementation (bmild/nerf). Where opacity is nearly 1 it is the distance of the
surface; elsewhere divide it by opacity.

NNN.npy        float32 [H, W], scene units.
NNN_16bit.png  uint16 [H, W]: 65535 is a depth of {far:.9g}, 0 is 0, linear.
NNN.png        for viewing: depth divided by opacity, yellow at {near:.4g} or
               nearer, blue at {far:.4g} or farther; white where opacity is 0.

../disparity/NNN.npy is opacity divided by depth, 0 where opacity is 0 (float32,
1 / scene units); ../opacity/NNN.png is the sum of weights, 0 to 1 as 0 to 255.
"""


class RenderedFrames(NamedTuple):
  """The frames of a video, all on disk."""

  new: int  # number of images rendered by this call.
  files: tuple[pathlib.Path, ...]  # videos and contact sheet.
  empty: bool  # whether nothing is seen in any frame.


def render_frames(
  folder: pathlib.Path,
  path: cameras.Cameras,
  render: Callable[..., image_rendering.RenderedImage],
  *,
  near: float,
  far: float,
  even_to: float | None = None,
  still: bool,
  fps: int,
) -> RenderedFrames:
  """Renders the frames that are missing, and encodes videos of all frames.

  Args:
    folder: an existing folder.
    path: `N` cameras, one for each frame.
    render: `render(cameras, index, viewdir_camera=None)`, see
      `image_rendering.make_render_image`.
    near: depth that is shown as near.
    far: depth that is shown as far, and the largest in 16 bits.
    even_to: see `media.depth_image`.
    still: whether to render also a still video: the view of the first camera
      in which only the viewing directions are those of the others.
    fps: frames per second of the videos.
  """
  names = _frame_names(len(path.sizes))
  parts = (_RGB, _STILL) if still else (_RGB,)
  for part in (_DEPTH, _OPACITY, _DISPARITY, *parts):
    (folder / part).mkdir(exist_ok=True)
  text = _DEPTH_README.format(near=near, far=far)
  files.write(folder / _DEPTH / 'README.txt', text.encode())
  missing = [
    (part, i)
    for part in parts
    for i, name in enumerate(names)
    if not (folder / part / f'{name}.png').exists()
  ]
  for part, i in tqdm.tqdm(missing, 'frames', disable=None, leave=False):
    if part == _RGB:
      _write_frame(folder, names[i], render(path, i), near, far, even_to)
    else:
      viewdir_camera = cameras.take(path, slice(i, i + 1))
      image = render(path, 0, viewdir_camera)
      rgb = media.to_uint8(image.rgb)
      media.write_png(folder / _STILL / f'{names[i]}.png', rgb)
  videos: tuple[pathlib.Path, ...] = ()
  if len(image_sizes(path)) == 1:
    videos = _encode(folder, names, parts, fps)
  empty = _are_empty(folder / _OPACITY, names)
  return RenderedFrames(new=len(missing), files=videos, empty=empty)


def _are_empty(folder: pathlib.Path, names: list[str]) -> bool:
  """Returns whether opacity is 0 everywhere in all frames."""
  return not any(np.any(opacity) for opacity in _read_pngs(folder, names))


def _frame_names(count: int) -> list[str]:
  """Returns numbers of equal width, whose order is that of the frames."""
  width = max(3, len(str(count - 1)))
  return [f'{i:0{width}}' for i in range(count)]


def _write_frame(
  folder: pathlib.Path,
  name: str,
  image: image_rendering.RenderedImage,
  near: float,
  far: float,
  even_to: float | None,
) -> None:
  """Writes a frame; its colors come last, which mark it as complete."""
  depth = np.asarray(image.depth, np.float32)
  depth_16bit = np.rint(np.clip(depth / far, 0, 1) * 65535).astype(np.uint16)
  opacity = media.to_uint8(image.opacity)
  files.write(folder / _DEPTH / f'{name}.npy', _npy(depth))
  files.write(folder / _DISPARITY / f'{name}.npy', _npy(image.disparity))
  files.write(
    folder / _DEPTH / f'{name}_16bit.png', media.encode_png(depth_16bit)
  )
  files.write(folder / _OPACITY / f'{name}.png', media.encode_png(opacity))
  media.write_png(
    folder / _DEPTH / f'{name}.png',
    media.depth_image(image.depth, image.opacity, near, far, even_to=even_to),
  )
  media.write_png(folder / _RGB / f'{name}.png', media.to_uint8(image.rgb))


def _encode(
  folder: pathlib.Path, names: list[str], parts: tuple[str, ...], fps: int
) -> tuple[pathlib.Path, ...]:
  """Writes the videos and the contact sheet of complete frames."""
  streams = {
    'rgb' if part == _RGB else 'rgb_still': _read_pngs(folder / part, names)
    for part in parts
  }
  streams['disp'] = _read_disparities(folder / _DISPARITY, names)
  videos = [
    video.write(folder / name, frames, fps=fps)
    for name, frames in streams.items()
  ]
  # Evenly among the frames, each once.
  chosen = [names[i * len(names) // _NUM_CELLS] for i in range(_NUM_CELLS)]
  cells = list(_read_pngs(folder / _RGB, list(dict.fromkeys(chosen))))
  sheet = folder / _SHEET
  media.write_png(
    sheet, media.contact_sheet(cells, min(_NUM_COLUMNS, len(cells)))
  )
  return (*videos, sheet)


def video_notices(path: cameras.Cameras) -> tuple[str, ...]:
  """Returns notices for the user, before hours are spent on the frames."""
  size, *others = image_sizes(path)
  if others:
    count = 1 + len(others)
    return (
      f'The views have {count} sizes: only frames are written, no video.',
    )
  if not video.has_encoder():
    return (
      'No encoder for MP4 was found (imageio-ffmpeg includes one): videos are '
      'GIF, with 256 colors.',
    )
  height, width = video.encoded_size(*size)
  if (height, width) == size:
    return ()
  return (
    f'Videos are {width}x{height}, as H.264 needs even sides: the last row or '
    f'column of frames of {size[1]}x{size[0]} is repeated.',
  )


def image_sizes(path: cameras.Cameras) -> list[tuple[int, int]]:
  """Returns the distinct heights and widths, sorted."""
  return sorted({(int(h), int(w)) for h, w in path.sizes})


def _read_pngs(folder: pathlib.Path, names: list[str]) -> Iterator[np.ndarray]:
  for name in names:
    with Image.open(folder / f'{name}.png') as image:
      yield np.asarray(image)


def _read_disparities(
  folder: pathlib.Path, names: list[str]
) -> Iterator[np.ndarray]:
  """Yields disparities in gray; white is the largest of all frames."""
  paths = [folder / f'{name}.npy' for name in names]
  largest = max(float(np.load(path).max()) for path in paths) or 1.0
  for path in paths:
    yield media.to_gray(np.load(path), largest)


def _npy(array: arrays.Array) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(array, np.float32))
  return buffer.getvalue()
