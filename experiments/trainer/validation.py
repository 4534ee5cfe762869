"""What a run looks like on a view that it does not learn from."""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from experiments.builders import model
from experiments.trainer import progress, tensorboard
from nerf_haiku import image_rendering, scenes
from nerf_haiku.io import media
from nerf_haiku.metrics import image_quality
from nerf_haiku.renderers import hierarchical

# (what is learnt, replicated `[D, ...]`; step) -> PSNR, dB.
Validate = Callable[[Any, int], float]

# Share of what is seen that near and far may cut before it is told.
_CUT = 0.2

# Always the same view, so that pictures and PSNR of a run can be compared.
_VIEW = 0


def make_validate(
  config: ml_collections.ConfigDict,
  scene: scenes.Scene,
  renderer: hierarchical.Renderer,
  render: Callable[..., image_rendering.RenderedImage],
  board: tensorboard.SummaryWriter,
  log: progress.Log,
) -> Validate:
  """Builds a function that renders, shows and scores a validation view.

  It shows the first validation view beside its truth: colours (`rgb`,
  `target`), disparity, opacity and depth (`disp`, `acc`, `depth`), what the
  coarse network sees (`rgb_coarse` and so on), and the deviation of the
  importance samples (`z_std`).

  Args:
    config: of the run.
    scene: whose view it is.
    renderer: that learns the scene.
    render: renders with its last network, see `build.render_view`.
    board: where it is shown.
    log: where it is told, once, that near or far seem to cut the scene.
  """
  told = set()

  coarse_too = config.renderer == 'hierarchical' and config.num_importance
  render_coarse = model.make_render_view(config, scene, renderer, network=0)

  def validate(learnt: Any, step: int) -> float:
    view = render(learnt, scene.val.cameras, _VIEW)
    truth = media.to_uint8(
      scenes.to_float(
        scene.val.images[_VIEW], white_background=config.white_bkgd
      )
    )
    images = {'target': truth, **_pictures(view, scene)}
    if coarse_too:
      coarse = _pictures(render_coarse(learnt, scene.val.cameras, _VIEW), scene)
      images |= {f'{name}_coarse': image for name, image in coarse.items()}
      images['z_std'] = _to_greatest(view.spread)
    for text in describe_cuts(view, scene):
      if text not in told:
        told.add(text)
        log.say(text)
    psnr = image_quality.psnr(images['rgb'], truth)
    board.images(step, {f'validation/{x}': y for x, y in images.items()})
    board.scalars(step, {'validation/psnr': psnr})
    return psnr

  return validate


def describe_cuts(
  view: image_rendering.RenderedImage, scene: scenes.Scene
) -> list[str]:
  """What to say if much of what is seen lies where rays begin or end."""
  total = float(np.sum(view.opacity))
  if scene.ndc is not None or not total:
    return []  # There rays end at infinity, and may well show it.
  shares = np.sum(view.at_ends, axis=(0, 1)) / total
  or_box = '' if scene.box is None else ', config.box'
  return [
    f'Much of what is seen lies where rays {verb}: {name}={bound:g} may cut '
    f'the scene (config.{name}{or_box}).'
    for share, name, verb, bound in zip(
      shares,
      ('near', 'far'),
      ('begin', 'end'),
      (scene.near, scene.far),
      strict=True,
    )
    if share > _CUT
  ]


def _pictures(
  view: image_rendering.RenderedImage, scene: scenes.Scene
) -> dict[str, np.ndarray]:
  return {
    'rgb': media.to_uint8(view.rgb),
    'disp': _to_greatest(view.disparity),
    'acc': media.to_gray(view.opacity, 1.0),
    'depth': media.depth_image(view.depth, view.opacity, scene.near, scene.far),
  }


def _to_greatest(values: np.ndarray) -> np.ndarray:
  """`[H, W]`, 0 or more, as grey: white is the greatest."""
  return media.to_gray(values, float(np.max(values)) or 1.0)
