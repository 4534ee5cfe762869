"""Exposures of photographs by what their cameras noted (EXIF)."""

from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image

# Photographs of one exposure differ by less, in stops.
_SAME = 0.5


def read_stops(data: bytes) -> float | None:
  """Computes how much light a photograph was given, in stops.

  Args:
    data: the EXIF as it is stored, or nothing.

  Returns:
    `log2(time * speed / f_number ** 2)`, of seconds and ISO; each stop more is
    twice as bright. None if one of the three is missing or not over 0.
  """
  exif = Image.Exif()
  try:
    exif.load(data)
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    time, f_number, speed = (
      float(np.ravel(tags[tag])[0])
      for tag in (
        ExifTags.Base.ExposureTime,
        ExifTags.Base.FNumber,
        ExifTags.Base.ISOSpeedRatings,
      )
    )
    light = time * speed / f_number**2
  except Exception:  # Of damaged metadata Pillow raises errors of many types.
    return None
  return float(np.log2(light)) if 0 < light < np.inf else None


def notices(stops: Sequence[float | None]) -> tuple[str, ...]:
  """Returns a notice if photographs differ in exposure, see `read_stops`."""
  known = [x for x in stops if x is not None]
  spread = max(known) - min(known) if known else 0.0
  if spread <= _SAME:
    return ()
  return (
    f'By their EXIF, the exposures of {len(known)} of {len(stops)} images '
    f'differ by up to {spread:.1f} stops: with config.exposure=True each '
    'training image has its own color transform.',
  )
