"""The arrangement of the built-in scene: painted solids on a round board.

A seed draws the colours, who stands where and how all is turned. Each piece
keeps to a circle of its own on the board, so that no two of them meet.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nerf_haiku.datasets import solids

# What holds the scene of any seed: lower and upper corner, scene units.
BOX = np.array([[-1.1, -1.1, -0.8], [1.1, 1.1, 1.0]])

_BOARD = (1.06, 0.06, -0.66)  # Radius, half height, height of the centre.
_TABLE = _BOARD[1] + _BOARD[2]  # The height that things stand on.
_SLOTS = 5  # Pieces around the one in the middle,
_RING = 0.68  # at this distance from it,
_ROOM = 0.35  # each in a circle of this radius: 2 * ROOM < 2 RING sin(36 deg).

# Colours go together within a row: one light, one dark, four bright.
_PALETTES = (
  ('F3E9D7', '2F4156', 'D9573F', 'EBB03E', '2F8C87', 'E58F6B'),
  ('F4EFE3', '3D405B', 'E07A5F', 'F2C078', '7FAE8E', '5F8FB4'),
  ('F2EDE4', '264653', 'C8475A', 'EAB64D', '3C7FA8', '6BA583'),
  ('F5EBDD', '4A3F5C', 'D4637B', 'E9A84C', '5B8E7D', '7C86C4'),
)
_WOODS = (('D9AE78', 'BF8A55'), ('C99667', 'A97648'), ('E3C396', 'CBA271'))

Paint = Callable[[np.ndarray], np.ndarray]  # [N, 3] local points -> albedo.


class Item(NamedTuple):
  """One thing of the scene."""

  solid: solids.Solid
  paint: Paint  # [N, 3] points in the frame of the solid -> [N, 3] in [0, 1].
  gloss: float  # share of light that a surface seen head-on mirrors.
  shade: float  # radius of the ball that, in its place, dims what is near.


def make_items(seed: int) -> tuple[Item, ...]:
  """Arranges the still life of a seed; each item is inside `BOX`."""
  rng = np.random.default_rng([seed, 1])
  light, dark, *bright = map(_linear, _PALETTES[seed % len(_PALETTES)])
  bright = [bright[i] for i in rng.permutation(len(bright))]
  pieces = [
    _glossy_ball(bright[0]),
    _tube(bright[1], light),
    _tower(dark, light, bright[2]),
    _striped_ball(bright[3], light),
    _gate(bright[2], bright[1]),
    _cone(bright[0], dark),
  ]
  # The middle is for something tall.
  middle = 2 if rng.random() < 0.5 else 4
  around = [piece for i, piece in enumerate(pieces) if i != middle]
  order = rng.permutation(_SLOTS)
  first, jitter = rng.uniform(0, 360), rng.uniform(-4, 4, _SLOTS)
  wood = [_linear(colour) for colour in _WOODS[rng.integers(len(_WOODS))]]
  items = [_board(*wood, first), *pieces[middle](0, 0, rng.uniform(0, 360))]
  for slot, which in enumerate(order):
    angle = np.deg2rad(first + 360 * slot / _SLOTS + jitter[slot])
    x, y = _RING * np.cos(angle), _RING * np.sin(angle)
    items += around[which](x, y, rng.uniform(0, 360))
  return tuple(items)
