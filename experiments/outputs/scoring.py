"""How good a run is: one evaluation for all programs."""

import math
import pathlib
from typing import Any

from experiments.outputs import provenance, trained_run, view_scores


def score_run(
  run: trained_run.TrainedRun, views: pathlib.Path
) -> dict[str, Any]:
  """Renders and scores the test views, at the size of the training images.

  Args:
    run: what is scored.
    views: the folder that the views are written to.

  Returns:
    What `results.json` holds.
  """
  test, kept = run.scene.test, run.kept
  white = run.config.white_bkgd
  scores = view_scores.score_views(
    test,
    lambda i: run.render(run.learnt, test.cameras, i),
    views,
    near=run.scene.near,
    far=run.scene.far,
    white_background=white,
  )
  return {
    **run.settings,
    **scores,
    'steps': kept.step,
    **kept.about['times'],
    'restarts': kept.about['restarts'],
    'seed_in_use': kept.about['seed'],
    'skipped_updates': kept.skipped,
    'background': 'white' if white else 'black',
    'metrics': {
      name: text
      for name, text in view_scores.DEFINITIONS.items()
      if name in scores
    },
    **provenance.collect(),
  }


def mean_scores(content: dict[str, Any]) -> dict[str, float]:
  """The mean scores that there are."""
  return {
    name: content[name]
    for name in view_scores.DEFINITIONS
    if content.get(name) is not None
  }


def describe_scores(content: dict[str, Any]) -> str:
  """PSNR over so many views, for the user."""
  psnr = content['psnr']
  return (
    f'PSNR {math.inf if psnr is None else psnr:.2f} dB over '
    f'{content["views"]} test views'
  )
