"""Draws the cameras and points of a scene, from above and from the side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nerf_haiku import cameras, scenes, similarity

_SIDE = 640  # Pixels of a panel.
_MARGIN, _TOP = 70, 96  # Pixels around panels, and above them.
_FACTOR = 2  # Drawn larger, then reduced: edges are smooth.
_REACH = 1.35  # Of a panel, in distances of the farthest camera.
_FRUSTUM = 0.11  # Depth at which a camera's image is drawn, in panels' reach.
_NUM_TICKS = 4  # At least so many intervals along a panel, at most 2.5 times.
_SHADE, _DARKNESS = 200, 2.0  # Levels of gray, and how soon they are reached.
_INK, _PALE = (60, 60, 60), (190, 190, 190)
_COLORS = {'train': (31, 98, 178), 'test': (222, 92, 20)}
_PATH, _REGION = (60, 150, 80), (150, 60, 140)


class _Panel(NamedTuple):
  """A square that shows two axes of the field's coordinates."""

  title: str
  axes: tuple[int, int]  # to the right, and up.
  reach: float  # from the middle to an edge, field units.
  image: Image.Image  # enlarged.

  def pixels(self, points: np.ndarray) -> np.ndarray:
    """Returns x and y `[..., 2]` of points `[..., 3]`, enlarged pixels."""
    half = _FACTOR * _SIDE / 2
    scaled = points[..., list(self.axes)] / self.reach * half
    return np.stack([half + scaled[..., 0], half - scaled[..., 1]], axis=-1)

  def line(self, points: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draws a line through points `[N, 3]`."""
    position = [tuple(x) for x in self.pixels(np.asarray(points))]
    ImageDraw.Draw(self.image).line(position, fill=color, width=3)


def draw(scene: scenes.Scene) -> np.ndarray:
  """Draws cameras, points, the video's path, and the near region or the box.

  Args:
    scene: one with a similarity; its panels have the field's axes, z up.

  Returns:
    A picture, `[H, W, 3]` uint8.
  """
  assert scene.similarity is not None
  splits = {'train': scene.train.cameras, 'test': scene.test.cameras}
  moved = {
    name: similarity.move_rigidly(scene.similarity, x)
    for name, x in splits.items()
  }
  centers = np.concatenate([x.camera_to_world[:, :, 3] for x in moved.values()])
  reach = _REACH * max(1.0, float(np.abs(centers).max()))
  size = 2 * _SIDE + 3 * _MARGIN, _SIDE + _TOP + _MARGIN
  page = Image.new('RGB', [_FACTOR * x for x in size], 'white')
  for i, (title, axes) in enumerate(
    (('From above', (0, 1)), ('From the side', (0, 2)))
  ):
    square = Image.new('RGB', (_FACTOR * _SIDE,) * 2, 'white')
    panel = _Panel(title, axes, reach, square)
    if scene.points is not None:
      points = similarity.move_points(scene.similarity, scene.points)
      _draw_points(panel, points)
    _draw_region(panel, scene.box)
    path = similarity.move_rigidly(scene.similarity, scene.path)
    panel.line(np.asarray(path.camera_to_world)[:, :, 3], _PATH)
    for name, cams in moved.items():
      _draw_cameras(panel, cams, _COLORS[name])
    left, top = _FACTOR * (_MARGIN + i * (_SIDE + _MARGIN)), _FACTOR * _TOP
    page.paste(square, (left, top))
    _draw_axes(page, panel, (left, top), 1.0 / scene.similarity.scale)
  _draw_legend(ImageDraw.Draw(page), scene)
  return np.asarray(page.resize(size, Image.Resampling.LANCZOS))


def _draw_points(panel: _Panel, points: np.ndarray) -> None:
  """Shades where points are; darker where there are many."""
  position = np.floor(panel.pixels(points) / _FACTOR).astype(np.int64)
  inside = np.all((position >= 0) & (position < _SIDE), axis=-1)
  counts = np.zeros((_SIDE, _SIDE))
  columns, rows = position[inside].T
  np.add.at(counts, (rows, columns), 1)
  usual = float(np.mean(counts[counts > 0])) if len(rows) else 1.0
  gray = 255 - _SHADE * (1 - np.exp(-_DARKNESS * counts / usual))
  picture = Image.fromarray(np.uint8(gray)).resize(panel.image.size)
  panel.image.paste(picture.convert('RGB'))


def _draw_region(panel: _Panel, box: np.ndarray | None) -> None:
  """Outlines the box, or in dashes the ball that is not contracted."""
  if box is None:
    angles = np.linspace(0, 2 * np.pi, 181)
    flat, stride = np.stack([np.cos(angles), np.sin(angles)], axis=-1), 2
  else:
    lower, upper = np.asarray(box)[:, list(panel.axes)]
    turns = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    flat, stride = lower + turns * (upper - lower), 1
  outline = np.zeros((len(flat), 3))
  outline[:, list(panel.axes)] = flat
  for i in range(0, len(outline) - 1, stride):
    panel.line(outline[i : i + 2], _REGION)


def _draw_cameras(
  panel: _Panel, cams: cameras.Cameras, color: tuple[int, int, int]
) -> None:
  """Draws each camera as the edges of what it sees, and of its image."""
  depth = _FRUSTUM * panel.reach
  pose = np.asarray(cams.camera_to_world)
  local = cameras.image_corners(cams)[:, [0, 1, 3, 2]]
  corners = np.einsum('nij,nkj->nki', pose[:, :, :3], depth * local)
  corners += pose[:, None, :, 3]
  canvas = ImageDraw.Draw(panel.image)
  for center, image in zip(pose[:, :, 3], corners, strict=True):
    for corner in image:
      panel.line(np.stack([center, corner]), color)
    panel.line(image[[0, 1, 2, 3, 0]], color)
    x, y = panel.pixels(center)
    canvas.ellipse((x - 5, y - 5, x + 5, y + 5), fill=color)


def _draw_axes(
  page: Image.Image, panel: _Panel, corner: tuple[int, int], unit: float
) -> None:
  """Draws the frame of a panel, and its axes in scene units."""
  canvas, side, (left, top) = ImageDraw.Draw(page), _FACTOR * _SIDE, corner
  bottom, right = top + side, left + side
  canvas.rectangle((left, top, right, bottom), outline=_INK, width=2)
  reach = panel.reach * unit
  for tick in _ticks(reach):
    x = left + side / 2 * (1 + tick / reach)
    y = top + side / 2 * (1 - tick / reach)
    canvas.line((x, bottom, x, bottom + 10), fill=_INK, width=2)
    canvas.line((left - 10, y, left, y), fill=_INK, width=2)
    canvas.text((x, bottom + 16), f'{tick:g}', _INK, _font(15), 'mt')
    canvas.text((left - 16, y), f'{tick:g}', _INK, _font(15), 'rm')
  right_name, up_name = ('xyz'[axis] for axis in panel.axes)
  text = f"{right_name}, scene units from the field's origin"
  canvas.text((right, bottom + 76), text, _INK, _font(15), 'rm')
  canvas.text((left - 16, top - 22), up_name, _INK, _font(17), 'rm')
  canvas.text((left, top - 26), panel.title, _INK, _font(20), 'lm')


def _ticks(reach: float) -> Sequence[float]:
  """Returns round numbers between -reach and reach."""
  power = 10.0 ** np.floor(np.log10(2 * reach / _NUM_TICKS))
  step = max(
    x * power for x in (1, 2, 5) if x * power * _NUM_TICKS <= 2 * reach
  )
  count = int(reach / step)
  return [i * step for i in range(-count, count + 1)]


def _draw_legend(canvas: ImageDraw.ImageDraw, scene: scenes.Scene) -> None:
  region = 'near region (the rest is contracted)'
  entries = [
    (_COLORS['train'], f'{len(scene.train.cameras.sizes)} training cameras'),
    (_COLORS['test'], f'{len(scene.test.cameras.sizes)} test cameras'),
    (_PATH, 'path of the video'),
    (_REGION, region if scene.box is None else 'box'),
  ]
  if scene.points is not None:
    entries.append((_PALE, f'{len(scene.points):,} points'))
  x, y = float(_FACTOR * _MARGIN), _FACTOR * 26
  for color, text in entries:
    canvas.rectangle((x, y - 10, x + 20, y + 10), fill=color)
    canvas.text((x + 30, y), text, _INK, _font(16), 'lm')
    x += 30 + canvas.textlength(text, _font(16)) + 44


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  return ImageFont.load_default(_FACTOR * size)
