"""What a finished run leaves: scores, images and what they came from."""

import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tqdm

from nerf_haiku import image_rendering, scenes
from nerf_haiku.io import media
from nerf_haiku.metrics import image_quality, lpips

# (view, truth), both `[H, W, 3]` uint8 -> a score; None where it has none.
Measure = Callable[[np.ndarray, np.ndarray], float | None]

# What scores mean, by their names.
DEFINITIONS = image_quality.DEFINITIONS | lpips.DEFINITIONS

# Views of the overview are at least half as wide, in pixels.
_OVERVIEW_WIDTH = 256


def score_views(
  split: scenes.Split,
  render: Callable[[int], image_rendering.RenderedImage],
  folder: pathlib.Path,
  *,
  near: float,
  far: float,
  white_background: bool,
) -> dict[str, Any]:
  """Renders, scores and writes all views of a split.

  Args:
    split: true images and their cameras.
    render: renders the view of a camera, by its index.
    folder: where `view_000.png` and so on are written: rendering, truth and
      depth beside each other; and `overview.png`, renderings over depths.
    near: depth that is drawn as near.
    far: depth that is drawn as far.
    white_background: what alpha of the true images is composited over.

  Returns:
    Scores, their lists per view, and the median seconds per view.
  """
  folder.mkdir(parents=True, exist_ok=True)
  measures = available_metrics()
  scores: dict[str, list[float | None]] = {name: [] for name in measures}
  seconds, sums = [], []
  pairs, chosen = [], choose_for_overview(np.asarray(split.cameras.sizes))
  bar = tqdm.tqdm(split.images, 'test views', disable=None, leave=False)
  for i, image in enumerate(bar):
    start = time.perf_counter()
    view = render(i)
    seconds.append(time.perf_counter() - start)
    rgb = media.to_uint8(view.rgb)
    truth = media.to_uint8(
      scenes.to_float(image, white_background=white_background)
    )
    sums.append(color_sums(truth))
    for name, measure in measures.items():
      scores[name].append(measure(rgb, truth))
    depth = media.depth_image(view.depth, view.opacity, near, far)
    media.write_png(
      folder / f'view_{i:03}.png', media.side_by_side([rgb, truth, depth])
    )
    if i in chosen:
      pairs.append((rgb, depth))
  media.write_png(folder / 'overview.png', overview(pairs))
  return {
    **{name: mean(values) for name, values in scores.items()},
    'psnr_of_one_colour': psnr_of_constant_color(sums),
    'views': len(seconds),
    **{f'{name}_per_view': values for name, values in scores.items()},
    # The first view compiles.
    'seconds_per_view': float(np.median(seconds[1:] or seconds)),
  }


def available_metrics() -> dict[str, Measure]:
  """How views are scored, by name: LPIPS where its weights are installed."""
  measures: dict[str, Measure] = {
    'psnr': image_quality.psnr,
    'ssim': image_quality.ssim,
  }
  if lpips.available():
    measures |= {f'lpips_{net}': lpips.make_lpips(net) for net in lpips.NETS}
  return measures


def color_sums(image: np.ndarray) -> np.ndarray:
  """What `psnr_of_constant_color` asks of an image `[H, W, 3]` uint8.

  Returns:
    `[3, 3]` int64: for each channel its pixels, their sum, that of squares.
  """
  flat = image.reshape(-1, 3).astype(np.int64)
  return np.stack([np.ones_like(flat), flat, flat**2]).sum(axis=1)


def psnr_of_constant_color(sums: Sequence[np.ndarray]) -> float | None:
  """The mean PSNR of the best constant colour: what any run must surpass.

  Args:
    sums: `color_sums` of each true image.

  Returns:
    Decibels; None if an image is of that colour alone.
  """
  pixels, total, _ = np.sum(sums, axis=0)
  colour = np.round(total / pixels).astype(np.int64)
  errors = [np.sum(s2 - 2 * colour * s + n * colour**2) for n, s, s2 in sums]
  mses = [
    error / np.sum(n) for error, (n, _, _) in zip(errors, sums, strict=True)
  ]
  return mean(
    [20 * math.log10(255) - 10 * math.log10(x) if x else None for x in mses]
  )


def choose_for_overview(sizes: np.ndarray) -> list[int]:
  """Up to four views for the overview, evenly among those of the first size.

  Args:
    sizes: `[N, 2]` heights and widths of all views.
  """
  alike = np.flatnonzero(np.all(sizes == sizes[0], axis=1))
  count = min(4, len(alike))
  return [int(alike[i * len(alike) // count]) for i in range(count)]


def overview(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
  """Renderings above their depths.

  Args:
    pairs: renderings and depths, `[H, W, 3]` uint8, all of one size.

  Returns:
    One picture, enlarged by a whole number where images are small.
  """
  factor = max(1, _OVERVIEW_WIDTH // pairs[0][0].shape[1])
  large = [
    image.repeat(factor, axis=0).repeat(factor, axis=1)
    for row in zip(*pairs, strict=True)
    for image in row
  ]
  return media.contact_sheet(large, columns=len(pairs))


def mean(values: Sequence[float | None]) -> float | None:
  """The mean, or None where a value is missing."""
  known = [x for x in values if x is not None]
  return float(np.mean(known)) if len(known) == len(values) else None
