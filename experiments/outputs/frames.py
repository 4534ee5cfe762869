"""Frames of a video on disk: rendered one by one, and encoded."""

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
_CELLS, _COLUMNS = 12, 4  # Of the contact sheet.

_ABOUT_DEPTH = """\
Depth of each frame. t runs along the optical axis of the camera (not along the
ray), in scene units; the depth of a pixel is the sum of weight times t over the
samples of its ray, not divided by opacity, as in the original. Where opacity is
nearly 1 this is the distance of what is seen; elsewhere divide by opacity.

NNN.npy        float32 [H, W], scene units.
NNN_16bit.png  uint16 [H, W]: 65535 is a depth of {far:.9g}, 0 is 0, linear.
NNN.png        for looking: depth divided by opacity, yellow at {near:.4g} or
               nearer, blue at {far:.4g} or farther; white where nothing is.

../disparity/NNN.npy is opacity divided by depth, 0 where nothing is (float32,
1 / scene units); ../opacity/NNN.png is the sum of weights, 0 to 1 as 0 to 255.
"""


class RenderedFrames(NamedTuple):
  """The frames and files of a video."""

  new: int  # frames that were rendered now, not before.
  files: tuple[pathlib.Path, ...]  # videos and contact sheet.


def render_frames(
  folder: pathlib.Path,
  taken: cameras.Cameras,
  render: Callable[..., image_rendering.RenderedImage],
  *,
  near: float,
  far: float,
  still: bool,
  fps: int,
) -> RenderedFrames:
  """Renders the frames that are missing, and encodes videos of all.

  Args:
    folder: an existing folder.
    taken: `N` cameras, one for each frame.
    render: `render(cameras, index, viewdir_camera=None)`, see
      `image_rendering.make_render_image`.
    near: depth that is shown as near.
    far: depth that is shown as far, and the largest of 16 bits.
    still: whether to render the first camera, with only the viewing
      directions of the others, too.
    fps: frames per second of the videos.
  """
  count = len(taken.sizes)
  names = [f'{i:0{max(3, len(str(count - 1)))}}' for i in range(count)]
  for name in (_RGB, _DEPTH, _OPACITY, _DISPARITY) + ((_STILL,) * still):
    (folder / name).mkdir(exist_ok=True)
  text = _ABOUT_DEPTH.format(near=near, far=far)
  files.write(folder / _DEPTH / 'README.txt', text.encode())

  def draw_frame(i):
    _write_view(folder, names[i], render(taken, i), near, far)

  def draw_still(i):
    viewdir_camera = cameras.Cameras(*(x[i : i + 1] for x in taken))
    image = render(taken, 0, viewdir_camera)
    media.write_png(
      folder / _STILL / f'{names[i]}.png', media.to_uint8(image.rgb)
    )

  parts = [(_RGB, draw_frame)] + [(_STILL, draw_still)] * still
  missing = [
    (i, draw_part)
    for part, draw_part in parts
    for i, name in enumerate(names)
    if not (folder / part / f'{name}.png').exists()
  ]
  for i, draw_part in tqdm.tqdm(missing, 'frames', disable=None, leave=False):
    draw_part(i)
  made: tuple[pathlib.Path, ...] = ()
  if len(image_sizes(taken)) == 1:
    made = _join(folder, names, [part for part, _ in parts], fps)
  return RenderedFrames(len(missing), made)


def _write_view(
  folder: pathlib.Path,
  name: str,
  view: image_rendering.RenderedImage,
  near: float,
  far: float,
) -> None:
  """Writes a frame; its colors last, which mark it as complete."""
  depth = np.asarray(view.depth, np.float32)
  fine = np.rint(np.clip(depth / far, 0, 1) * 65535).astype(np.uint16)
  grey = media.to_uint8(view.opacity)
  files.write(folder / _DEPTH / f'{name}.npy', _npy(depth))
  files.write(folder / _DISPARITY / f'{name}.npy', _npy(view.disparity))
  files.write(folder / _DEPTH / f'{name}_16bit.png', media.encode_png(fine))
  files.write(folder / _OPACITY / f'{name}.png', media.encode_png(grey))
  media.write_png(
    folder / _DEPTH / f'{name}.png',
    media.depth_image(view.depth, view.opacity, near, far),
  )
  media.write_png(folder / _RGB / f'{name}.png', media.to_uint8(view.rgb))


def _join(
  folder: pathlib.Path, names: list[str], parts: list[str], fps: int
) -> tuple[pathlib.Path, ...]:
  """Encodes videos and a contact sheet of complete frames."""
  streams = {
    'rgb' if part == _RGB else 'rgb_still': _pngs(folder / part, names)
    for part in parts
  }
  streams['disp'] = _disparities(folder / _DISPARITY, names)
  made = [
    video.write(folder / name, frames, fps=fps)
    for name, frames in streams.items()
  ]
  chosen = [names[i * len(names) // _CELLS] for i in range(_CELLS)]
  chosen = list(dict.fromkeys(chosen))
  sheet = folder / _SHEET
  cells = list(_pngs(folder / _RGB, chosen))
  media.write_png(sheet, media.contact_sheet(cells, min(_COLUMNS, len(cells))))
  return (*made, sheet)


def video_notices(taken: cameras.Cameras) -> tuple[str, ...]:
  """Returns notices about a video, before hours go into its frames."""
  size, *others = image_sizes(taken)
  if others:
    count = 1 + len(others)
    return (f'Views are of {count} sizes: frames alone, no video of them.',)
  if not video.has_encoder():
    return (
      'No encoder for MP4 was found (imageio-ffmpeg brings one): videos are '
      'GIF, of 256 colours.',
    )
  height, width = video.encoded_size(*size)
  if (height, width) == size:
    return ()
  return (
    f'Videos are {width}x{height}, as H.264 needs even sides: the last row or '
    f'column of frames of {size[1]}x{size[0]} is repeated.',
  )


def image_sizes(taken: cameras.Cameras) -> list[tuple[int, int]]:
  """Returns the distinct heights and widths of the images."""
  return sorted({(int(h), int(w)) for h, w in taken.sizes})


def _pngs(folder: pathlib.Path, names: list[str]) -> Iterator[np.ndarray]:
  for name in names:
    with Image.open(folder / f'{name}.png') as image:
      yield np.asarray(image)


def _disparities(
  folder: pathlib.Path, names: list[str]
) -> Iterator[np.ndarray]:
  """Yields disparity in gray, white at the maximum of all frames."""
  paths = [folder / f'{name}.npy' for name in names]
  most = max(float(np.load(path).max()) for path in paths) or 1.0
  for path in paths:
    yield media.to_gray(np.load(path), most)


def _npy(array: arrays.Array) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(array, np.float32))
  return buffer.getvalue()
