"""The built-in scene outdoors: the still life in a garden, to the horizon.

The still life stands on a plinth. Around it are things near enough to walk to,
then trees and houses, hills, and the sky: distances from 1 to 1,000. Where a
person can stand, on a ring around the plinth, is nothing.
"""

from collections.abc import Callable

import numpy as np

from nerf_haiku.datasets.procedural import paints, solids, still_life

GROUND = -1.15  # Height of the ground, scene units.
# Cameras are at these distances from the origin, and look at it.
NEAREST, FARTHEST = 2.7, 3.5
_ROOM = (4.3, 7.0)  # Where things begin and end that are near.

_UP = np.array([0.0, 0.0, 1.0])
_HAZE = 180.0  # Distance at which the air hides all but 1 / e.
_SUN = np.array([0.46, -0.34, 0.82]) / np.linalg.norm([0.46, -0.34, 0.82])
# Display colors.
_HORIZON = np.array([0.80, 0.87, 0.93])
_ZENITH = np.array([0.33, 0.55, 0.85])
_CLOUD = np.array([0.98, 0.98, 0.99])
_GLOW = np.array([1.0, 0.95, 0.82])

_STONE = [paints.linear(x) for x in ('C9C0B0', '9C9384')]
_GRASS = [paints.linear(x) for x in ('7FA04B', '4F7A37')]
_SAND = paints.linear('D8C7A0')
_LEAVES = ('5E8F3E', '3F6B33', '86A344', 'B5832F', '6E9A5B')
_WALLS = ('E9DCC3', 'D9A98A', 'C9D3CF', 'F0E6D2', 'B9806A')
_ROOFS = ('A5523C', '6C5A57', '8C4A3A')
_HILLS = ('5F8052', '6E8B57', '53755E')


def make_items(seed: int) -> tuple[still_life.Item, ...]:
  """Arranges the still life of a seed and all around it."""
  rng = np.random.default_rng([seed, 2])
  items = [*still_life.make_items(seed), _ground(), _plinth()]
  items += _around(rng, 7, _ROOM, _near_thing)
  items += _around(rng, 9, (8.0, 20.0), _tree)
  items += _around(rng, 5, (22.0, 38.0), _house)
  items += _around(rng, 6, (110.0, 260.0), _hill)
  return tuple(items)


def air(
  rgb: np.ndarray, distance: np.ndarray, directions: np.ndarray
) -> np.ndarray:
  """Adds the haze before surfaces, and the sky where there are none.

  Args:
    rgb: `[R, 3]` display colors of surfaces.
    distance: `[R]` scene units; infinite where there is none.
    directions: `[R, 3]` of length 1, of the view.

  Returns:
    `[R, 3]` display colors.
  """
  visible = np.exp(-distance / _HAZE)[:, None]
  hazy = rgb * visible + _clear_sky(directions) * (1 - visible)
  is_sky = np.isinf(distance)[:, None]
  mixed: np.ndarray = np.where(is_sky, _sky(directions), hazy)
  return mixed


def _clear_sky(directions: np.ndarray) -> np.ndarray:
  height = np.clip(directions[:, 2], 0, 1)
  sky = paints.mix(_HORIZON, _ZENITH, np.sqrt(height))
  ahead = np.maximum(directions @ _SUN, 0)
  return paints.mix(sky, _GLOW, 0.5 * ahead**24)


def _sky(directions: np.ndarray) -> np.ndarray:
  """Returns the clear sky with clouds, which end above the horizon."""
  x, y, z = directions.T
  height = np.maximum(z, 0.03)
  plane = np.stack([x / height, y / height, 0 * x], axis=-1)
  pattern = paints.patches(plane / 1.3) + 0.4 * paints.patches(plane / 0.5 + 3)
  cover = np.clip(1.2 * pattern - 0.1, 0, 1) * np.clip((z - 0.06) / 0.2, 0, 1)
  return paints.mix(_clear_sky(directions), _CLOUD, 0.85 * cover)


def _ground() -> still_life.Item:
  far = np.inf
  slab = solids.quadrics(((far, far, 1.0), (0, 0, 0)))
  center = np.array([0.0, 0.0, GROUND - 1.0])
  return still_life.Item(
    solids.Solid(slab, None, center, np.eye(3), far), _lawn
  )


def _lawn(points: np.ndarray) -> np.ndarray:
  """Paints paving around the plinth, and grass up to the horizon.

  A pattern fades where it becomes finer than pixels.
  """
  flat = points * [1, 1, 0]
  radius = np.hypot(points[:, 0], points[:, 1])
  fraction = np.full(len(points), 0.5)
  for size, weight in ((0.4, 0.2), (1.7, 0.25), (9.0, 0.3), (60.0, 0.35)):
    # At this height a pixel of 1/120 is the size long at about this distance.
    reach = np.sqrt(60.0 * size)
    fade = np.exp(-((radius / reach) ** 2))
    fraction += weight * fade * paints.patches(flat / size)
  color = paints.mix(_GRASS[0], _GRASS[1], np.clip(fraction, 0, 1))
  angle = np.arctan2(points[:, 1], points[:, 0])
  ring = np.floor(radius / 0.55)
  stone = np.floor(angle / (2 * np.pi) * 6 * (ring + 1) + 0.5 * ring)
  paving = paints.mix(
    _STONE[0], _STONE[1], np.sin(5.1 * stone + 2.3 * ring) ** 2
  )
  color = np.where((radius < 2.2)[:, None], paving, color)
  path = np.abs(radius - 3.1) < 0.5
  sand = _SAND * (1 + 0.15 * paints.patches(flat / 0.3))[:, None]
  painted: np.ndarray = np.where(path[:, None], sand, color)
  return painted


def _plinth() -> still_life.Item:
  half = 0.5 * (-0.42 - GROUND)
  drum = solids.cylinder((0, 0, GROUND + half), 0.62, half)
  return still_life.Item(
    drum, paints.bands(_STONE[0], _STONE[1], 0.25), shade=0.5
  )


def _around(
  rng: np.random.Generator,
  number: int,
  distances: tuple[float, float],
  make: Callable[..., list[still_life.Item]],
) -> list[still_life.Item]:
  """Places things all around, at increasing angles and random distances."""
  items: list[still_life.Item] = []
  first = rng.uniform(0, 2 * np.pi)
  for i in range(number):
    angle = first + 2 * np.pi * (i + rng.uniform(-0.3, 0.3)) / number
    distance = rng.uniform(*distances)
    place = distance * np.array([np.cos(angle), np.sin(angle), 0.0])
    items += make(rng, i, place + GROUND * _UP, np.rad2deg(angle))
  return items


def _pick(rng: np.random.Generator, colors: tuple[str, ...]) -> np.ndarray:
  return paints.linear(colors[rng.integers(len(colors))])


def _near_thing(
  rng: np.random.Generator, number: int, place: np.ndarray, angle: float
) -> list[still_life.Item]:
  """Returns a bench, a pot with a bush, or a ball of stone."""
  kind = number % 3
  color = _pick(rng, _WALLS)
  if kind == 0:
    turn = solids.turn(angle + 90)
    seat = solids.box(place + 0.42 * _UP, (0.75, 0.22, 0.04), turn)
    back = solids.box(place + turn @ [0, -0.2, 0.75], (0.75, 0.035, 0.2), turn)
    feet = [
      solids.box(place + turn @ [x, 0, 0.19], (0.06, 0.2, 0.19), turn)
      for x in (-0.6, 0.6)
    ]
    wood = paints.linear('8A5A34')
    return [
      still_life.Item(solid, paints.plain(wood), shade=0.25)
      for solid in (seat, back, *feet)
    ]
  if kind == 1:
    pot = solids.cylinder(place + 0.3 * _UP, 0.36, 0.3)
    bush = solids.ellipsoid(place + 0.98 * _UP, (0.52, 0.52, 0.5))
    leaves = _pick(rng, _LEAVES)
    return [
      still_life.Item(pot, paints.bands(color, 0.6 * color, 0.2), shade=0.36),
      still_life.Item(
        bush, paints.mottled(leaves, 0.5 * leaves, 0.16), shade=0.5
      ),
    ]
  cube = solids.box(place + 0.25 * _UP, (0.3, 0.3, 0.25), solids.turn(angle))
  ball = solids.ellipsoid(place + 0.85 * _UP, (0.35, 0.35, 0.35))
  return [
    still_life.Item(cube, paints.plain(_STONE[1]), shade=0.3),
    still_life.Item(ball, paints.bands(color, _STONE[0], 0.14), shade=0.35),
  ]


def _tree(
  rng: np.random.Generator, number: int, place: np.ndarray, angle: float
) -> list[still_life.Item]:
  """Returns a trunk and a crown of three balls."""
  del number, angle
  size, leaves = rng.uniform(0.8, 1.5), _pick(rng, _LEAVES)
  trunk = solids.cylinder(place + size * _UP, 0.16 * size, size)
  items = [
    still_life.Item(
      trunk, paints.plain(paints.linear('6B4E37')), shade=0.4 * size
    )
  ]
  for _ in range(3):
    offset = size * np.append(rng.uniform(-0.7, 0.7, 2), rng.uniform(1.9, 3.0))
    radius = size * rng.uniform(0.75, 1.1)
    crown = solids.ellipsoid(place + offset, (radius, radius, 0.85 * radius))
    items.append(
      still_life.Item(
        crown, paints.mottled(leaves, 0.45 * leaves, 0.45), shade=radius
      )
    )
  return items


def _house(
  rng: np.random.Generator, number: int, place: np.ndarray, angle: float
) -> list[still_life.Item]:
  """Returns walls with windows, and a roof: a beam turned on its edge."""
  del number
  yaw = angle + 90 + rng.uniform(-30, 30)
  x, y, z = rng.uniform(3.0, 5.0), rng.uniform(2.0, 2.8), rng.uniform(1.5, 2.8)
  walls = solids.box(place + z * _UP, (x, y, z), solids.turn(yaw))
  beam = (1.04 * x, 0.77 * y, 0.77 * y)
  roof = solids.box(place + 2 * z * _UP, beam, solids.turn(yaw, 45.0))
  paint = _windows(_pick(rng, _WALLS), paints.linear('3C4656'))
  tiles = paints.plain(_pick(rng, _ROOFS))
  return [
    still_life.Item(walls, paint, shade=y),
    still_life.Item(roof, tiles, shade=0.7 * y),
  ]


def _windows(wall: np.ndarray, glass: np.ndarray) -> paints.Paint:
  def paint(points: np.ndarray) -> np.ndarray:
    along = (points[:, :2] + 0.9) % 1.8
    up = (points[:, 2] + 0.1) % 1.7
    # On each wall one of x and y is constant, and is on no window's edge.
    inside = (
      np.any(np.abs(along - 0.9) < 0.35, axis=1) & (up > 0.5) & (up < 1.3)
    )
    return np.where(inside[:, None], glass, wall)

  return paint


def _hill(
  rng: np.random.Generator, number: int, place: np.ndarray, angle: float
) -> list[still_life.Item]:
  """Returns the top of a wide ellipsoid."""
  del number
  height = rng.uniform(12, 34)
  half_axes = (rng.uniform(35, 60), rng.uniform(60, 110), height)
  hill = solids.ellipsoid(place, half_axes, solids.turn(angle))
  color = _pick(rng, _HILLS)
  return [still_life.Item(hill, paints.mottled(color, 0.55 * color, 14.0))]
