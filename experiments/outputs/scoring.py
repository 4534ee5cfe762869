"""Scores of test views, the same for all programs."""

import collections
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from experiments.configs import schema
from experiments.outputs import provenance, score_variants, trained_run
from nerf_haiku import (
  arrays,
  backgrounds,
  image_rendering,
  scene_bounds,
  scenes,
)
from nerf_haiku.io import media
from nerf_haiku.metrics import image_quality, lpips

# (rendering, truth, mask) -> a score; None where it is not defined. The images
# are `[H, W, 3]` uint8, the mask `[H, W]` bool, or None: all pixels count.
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float | None]

# Definitions of the scores, by their names.
_METRICS = image_quality.DEFINITIONS | lpips.DEFINITIONS
DEFINITIONS = _METRICS | {
  f'{name}_{variant}': f'{text} {what}'
  for variant, what in score_variants.DEFINITIONS.items()
  for name, text in _METRICS.items()
}

# Views of the overview are at least half as wide, in pixels.
_OVERVIEW_WIDTH = 256


def score_run(
  run: trained_run.TrainedRun, views: pathlib.Path
) -> dict[str, Any]:
  """Renders and scores the test views, at the size of the training images.

  Args:
    run: the run to score.
    views: the folder that the views are written to.

  Returns:
    The content of `results.json`.
  """
  test, checkpoint = run.scene.test, run.checkpoint
  background = schema.background(run.config)
  scores = score_views(
    test,
    lambda i: run.render(test.cameras, i),
    views,
    near=run.scene.near,
    far=run.scene.far,
    even_to=scene_bounds.even_depth(run.scene),
    background=background,
    variants=score_variants.make_variants(run),
  )
  return {
    **run.settings,
    **scores,
    'steps': checkpoint.step,
    **checkpoint.metadata['times'],
    'restarts': checkpoint.metadata['restarts'],
    'seed_in_use': checkpoint.metadata['seed'],
    'skipped_updates': checkpoint.skipped,
    'background': backgrounds.describe(background),
    'notices': run.scene.notices,
    **({'test_names': test.names} if test.names else {}),
    **({'masked': image_quality.MASKED} if test.masks else {}),
    'metrics': {
      name: text for name, text in DEFINITIONS.items() if name in scores
    },
    **provenance.collect(),
  }


def mean_scores(content: dict[str, Any]) -> dict[str, float]:
  """Returns the mean of each score that all views have."""
  return {
    name: content[name] for name in DEFINITIONS if content.get(name) is not None
  }


def describe_scores(content: dict[str, Any]) -> str:
  """Returns a sentence with the mean PSNR."""
  psnr = content['psnr']
  return (
    f'PSNR {math.inf if psnr is None else psnr:.2f} dB over '
    f'{content["views"]} test views'
  )


def score_views(
  split: scenes.Split,
  render: Callable[[int], image_rendering.RenderedImage],
  folder: pathlib.Path,
  *,
  near: float,
  far: float,
  even_to: float | None = None,
  background: backgrounds.Color,
  variants: Mapping[str, score_variants.Variant] | None = None,
) -> dict[str, Any]:
  """Renders, scores and writes all views of a split.

  Args:
    split: true images and their cameras.
    render: renders the view of a camera, by its index.
    folder: folder for `view_000.png` and so on: rendering, truth and depth
      beside each other; and for `overview.png`, renderings above depths.
    near: depth that is shown as near.
    far: depth that is shown as far.
    even_to: see `media.depth_image`.
    background: color that true images with alpha are composited over.
    variants: other comparisons, by name; each has all scores as well.

  Returns:
    Scores, their lists per view, and the median seconds per view.
  """
  folder.mkdir(parents=True, exist_ok=True)
  measures = available_metrics()
  scores: dict[str, list[float | None]] = collections.defaultdict(list)
  seconds, sums, pairs = [], [], []
  chosen = choose_for_overview(split.cameras.sizes)
  bar = tqdm.tqdm(split.images, 'test views', disable=None, leave=False)
  for i, image in enumerate(bar):
    start = time.perf_counter()
    rendered = render(i)
    seconds.append(time.perf_counter() - start)
    rgb = media.to_uint8(rendered.rgb)
    truth = media.to_uint8(scenes.to_float(image, background=background))
    mask = mask_of(split, i)
    sums.append(color_sums(truth if mask is None else truth[mask]))
    view = score_variants.Compared(rgb, truth, mask)
    for name, value in _measure(measures, view).items():
      scores[name].append(value)
    for variant, compare in (variants or {}).items():
      for name, value in _measure(measures, compare(i, view)).items():
        scores[f'{name}_{variant}'].append(value)
    depth = media.depth_image(
      rendered.depth, rendered.opacity, near, far, even_to=even_to
    )
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


def _measure(
  measures: Mapping[str, Measure], view: score_variants.Compared
) -> dict[str, float | None]:
  """Returns the scores of a view; masked pixels count as equal."""
  rgb, truth, mask = view
  filled = rgb if mask is None else image_quality.fill(rgb, truth, mask)
  return {
    name: measure(filled, truth, mask) for name, measure in measures.items()
  }


def available_metrics() -> dict[str, Measure]:
  """Returns the scores by name, with LPIPS if its weights are installed."""
  measures: dict[str, Measure] = {
    'psnr': image_quality.psnr,
    'ssim': image_quality.ssim,
  }
  if lpips.available():
    measures |= {f'lpips_{net}': _without_mask(net) for net in lpips.NETS}
  return measures


def _without_mask(net: str) -> Measure:
  """Returns LPIPS, which is of whole images."""
  measure = lpips.make_lpips(net)
  return lambda image, truth, mask: measure(image, truth)


def mask_of(split: scenes.Split, index: int) -> np.ndarray | None:
  """Returns which pixels `[H, W]` of an image count; None: all."""
  return None if split.masks is None else split.masks[index][..., 0] > 0


def color_sums(image: np.ndarray) -> np.ndarray:
  """Returns the sums of an image that `psnr_of_constant_color` needs.

  Args:
    image: `[..., 3]` uint8.

  Returns:
    `[3, 3]` int64: the number of pixels, the sums of their values and of their
    squares, for each channel.
  """
  flat = image.reshape(-1, 3).astype(np.int64)
  return np.stack([np.ones_like(flat), flat, flat**2]).sum(axis=1)


def psnr_of_constant_color(sums: Sequence[np.ndarray]) -> float | None:
  """Returns the mean PSNR of the best constant color, a lower bound for runs.

  Args:
    sums: `color_sums` of each true image.

  Returns:
    PSNR in dB; None if an image has that color everywhere.
  """
  pixels, total, _ = np.sum(sums, axis=0)
  color = np.round(total / pixels).astype(np.int64)
  errors = [np.sum(s2 - 2 * color * s + n * color**2) for n, s, s2 in sums]
  mses = [
    error / np.sum(n) for error, (n, _, _) in zip(errors, sums, strict=True)
  ]
  return mean(
    [20 * math.log10(255) - 10 * math.log10(x) if x else None for x in mses]
  )


def choose_for_overview(sizes: arrays.Array) -> list[int]:
  """Returns up to four views, evenly among those of the first one's size.

  Args:
    sizes: `[N, 2]` heights and widths of all views.
  """
  same_size = np.flatnonzero(np.all(sizes == sizes[0], axis=1))
  count = min(4, len(same_size))
  return [int(same_size[i * len(same_size) // count]) for i in range(count)]


def overview(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
  """Returns a picture of renderings above their depths.

  Args:
    pairs: renderings and depths, `[H, W, 3]` uint8, all of one size.

  Returns:
    One picture, enlarged by an integer factor if the images are small.
  """
  factor = max(1, _OVERVIEW_WIDTH // pairs[0][0].shape[1])
  large = [
    image.repeat(factor, axis=0).repeat(factor, axis=1)
    for row in zip(*pairs, strict=True)
    for image in row
  ]
  return media.contact_sheet(large, columns=len(pairs))


def mean(values: Sequence[float | None]) -> float | None:
  """Returns the mean, or None if a value is None."""
  known = [x for x in values if x is not None]
  return float(np.mean(known)) if len(known) == len(values) else None
