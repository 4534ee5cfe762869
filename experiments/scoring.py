"""How good a run is: one evaluation for all programs."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from experiments import results
from nerf_haiku import checkpoints, evaluation
from nerf_haiku.datasets import base


def evaluate(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  render: Callable[..., evaluation.View],
  params: Any,
  kept: checkpoints.Kept,
  views: pathlib.Path,
) -> dict[str, Any]:
  """Renders and scores the test views, and says what of.

  Args:
    config: of the run.
    scene: whose test views they are, at the size of the training images.
    render: see `build.render_view`.
    params: replicated, `[D, ...]`.
    kept: what is known of the run at this step; its params are not used.
    views: the folder that the views are written to.

  Returns:
    What a run's `results.json` holds, but for its settings.
  """
  scores = score(config, scene, render, params, views)
  return {
    **scores,
    'steps': kept.step,
    **kept.about['times'],
    'restarts': kept.about['restarts'],
    'seed_in_use': kept.about['seed'],
    'skipped_updates': kept.skipped,
    'background': 'white' if config.white_bkgd else 'black',
    'metrics': {
      name: text for name, text in results.DEFINITIONS.items() if name in scores
    },
    **results.circumstances(),
  }


def score(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  render: Callable[..., evaluation.View],
  params: Any,
  views: pathlib.Path,
) -> dict[str, Any]:
  """Renders, scores and writes the test views, see `results.evaluate`."""
  return results.evaluate(
    scene.test,
    lambda i: render(params, scene.test.cameras, i),
    views,
    near=scene.near,
    far=scene.far,
    white_background=config.white_bkgd,
  )


def means(scores: dict[str, Any]) -> dict[str, float]:
  """The mean scores that there are."""
  return {
    name: scores[name]
    for name in results.DEFINITIONS
    if scores.get(name) is not None
  }


def describe(content: dict[str, Any]) -> str:
  """PSNR over so many views, for the user."""
  psnr = content['psnr']
  return (
    f'PSNR {math.inf if psnr is None else psnr:.2f} dB over '
    f'{content["views"]} test views'
  )
