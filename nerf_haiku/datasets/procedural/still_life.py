"""The arrangement of the built-in scene: painted solids on a round board.

A seed determines colors, places and rotations. Each piece stays within its own
circle on the board, so that no two of them touch.
"""

from typing import NamedTuple

import numpy as np

from nerf_haiku.datasets.procedural import paints, solids

# Contains the scene of any seed: lower and upper corner, scene units.
BOX = np.array([[-1.1, -1.1, -0.5], [1.1, 1.1, 0.8]])

_BOARD_RADIUS, _BOARD_HALF = 1.06, 0.06
_TABLE = -0.3  # Height of the surface that things stand on.
_RING = 0.69  # Five pieces stand at this distance from the one in the center,
ROOM = 0.35  # each within this radius; 2 * 0.69 sin 36 > 0.7.

# Matching colors: one light, one dark, four bright.
_PALETTES = (
  ('F3E9D7', '2F4156', 'D9573F', 'EBB03E', '2F8C87', 'E58F6B'),
  ('F4EFE3', '3D405B', 'E07A5F', 'F2C078', '7FAE8E', '5F8FB4'),
  ('F2EDE4', '264653', 'C8475A', 'EAB64D', '3C7FA8', '6BA583'),
  ('F5EBDD', '4A3F5C', 'D4637B', 'E9A84C', '5B8E7D', '7C86C4'),
)
_WOODS = (('D9AE78', 'BF8A55'), ('C99667', 'A97648'), ('E3C396', 'CBA271'))


class Item(NamedTuple):
  """One thing of the scene."""

  solid: solids.Solid
  paint: paints.Paint
  gloss: float = 0.0  # fraction of head-on light that it reflects.
  shade: float = 0.0  # radius of the ball that dims its surroundings.


def make_items(seed: int) -> tuple[Item, ...]:
  """Arranges the still life of a seed; each item is inside `BOX`."""
  rng = np.random.default_rng([seed, 0])
  light, dark, *bright = (
    paints.linear(c) for c in _PALETTES[seed % len(_PALETTES)]
  )
  a, b, c, d = (bright[i] for i in rng.permutation(4))
  wood = [paints.linear(c) for c in _WOODS[rng.integers(len(_WOODS))]]
  tower, gate = _tower(dark, light, d, a), _gate(b, c)
  if rng.random() < 0.5:
    tower, gate = gate, tower
  # Each piece is made around the origin; the tall one goes to the center.
  around = [_ball(a), _tube(c, light), gate, _striped(b, light), _bowl(d, dark)]
  turns, yaw = rng.uniform(0, 360, 6), rng.uniform(0, 360)
  board = _move([_board(*wood)], 0.0, 0.0, yaw)
  items = board + _move(tower, 0.0, 0.0, turns[5])
  for slot, which in enumerate(rng.permutation(5)):
    angle = np.deg2rad(yaw + 72 * slot)
    x, y = _RING * np.cos(angle), _RING * np.sin(angle)
    items += _move(around[which], x, y, turns[slot])
  return tuple(items)


def _move(piece: list[Item], x: float, y: float, yaw: float) -> list[Item]:
  """Rotates a piece about z, then moves it from the origin to its position."""
  rotation, position = solids.turn(yaw), np.array([x, y, _TABLE])
  return [
    item._replace(
      solid=item.solid._replace(
        center=rotation @ item.solid.center + position,
        rotation=rotation @ item.solid.rotation,
      )
    )
    for item in piece
  ]


def _board(light: np.ndarray, dark: np.ndarray) -> Item:
  half = _BOARD_HALF
  disc = solids.cylinder((0, 0, -half), _BOARD_RADIUS, half)
  return Item(disc, _planks(light, dark))


def _ball(color: np.ndarray) -> list[Item]:
  ball = solids.ellipsoid((0, 0, 0.31), (0.31, 0.31, 0.31))
  return [Item(ball, paints.plain(color), gloss=0.06, shade=0.31)]


def _striped(color: np.ndarray, light: np.ndarray) -> list[Item]:
  tilted = solids.turn(0.0, 35.0)
  ball = solids.ellipsoid((0, 0, 0.27), (0.27, 0.27, 0.27), tilted)
  return [Item(ball, paints.bands(color, light, 0.154), shade=0.27)]


def _tube(color: np.ndarray, light: np.ndarray) -> list[Item]:
  tube = solids.cylinder((0, 0, 0.34), 0.25, 0.34, bore=0.2)
  outside = paints.bands(color, light, 0.227)
  return [
    Item(tube, paints.lined(outside, paints.plain(light), 0.21), shade=0.25)
  ]


def _tower(
  dark: np.ndarray, light: np.ndarray, hoop: np.ndarray, ball: np.ndarray
) -> list[Item]:
  """Returns a checkered cube, a hoop on top, and a small ball in the hoop."""
  cube = solids.box((0, 0, 0.235), (0.235, 0.235, 0.235))
  ring = solids.cylinder(
    (0, 0, 0.73), 0.26, 0.06, solids.turn(0.0, 90.0), bore=0.205
  )
  small = solids.ellipsoid((0, 0, 0.625), (0.1, 0.1, 0.1))
  return [
    Item(cube, paints.checks(dark, light, 0.235), shade=0.26),
    Item(ring, paints.plain(hoop), shade=0.05),
    Item(small, paints.plain(ball), shade=0.1),
  ]


def _gate(color: np.ndarray, egg: np.ndarray) -> list[Item]:
  """Returns a toy gate with an egg on its roof."""
  gate = solids.box((0, 0, 0.27), (0.32, 0.14, 0.27), arch=0.19)
  top = solids.ellipsoid((0, 0, 0.72), (0.14, 0.14, 0.18))
  return [
    Item(gate, paints.plain(color), shade=0.2),
    Item(top, paints.plain(egg), gloss=0.03, shade=0.14),
  ]


def _bowl(color: np.ndarray, dark: np.ndarray) -> list[Item]:
  """Returns a bowl with a ball in it."""
  bowl = solids.bowl((0, 0, 0.322), 0.33, 0.35, wall=0.045)
  ball = solids.ellipsoid((0, 0, 0.175), (0.13, 0.13, 0.13))
  return [
    Item(bowl, paints.plain(color), shade=0.26),
    Item(ball, paints.plain(dark), shade=0.13),
  ]


def _planks(light: np.ndarray, dark: np.ndarray) -> paints.Paint:
  """Returns planks along x with a soft grain, and an inlaid ring."""

  def paint(points: np.ndarray) -> np.ndarray:
    x, y, _ = points.T
    board = np.floor(y / 0.236 + 0.5)
    tone = 0.5 + 0.28 * np.sin(2.4 * board + 1.0)
    grain = np.sin(26 * y + 2 * np.sin(2 * x + 3 * board) + 5 * board)
    inlay = np.abs(np.hypot(x, y) - 0.985) < 0.025
    return paints.mix(light, dark, np.where(inlay, 1.6, tone + 0.22 * grain))

  return paint
