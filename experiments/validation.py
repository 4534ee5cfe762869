"""What a run looks like on a view that it does not learn from."""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from experiments import build, summaries
from nerf_haiku import media, metrics, renderers
from nerf_haiku.datasets import base

# Always the same view, so that pictures and PSNR of a run can be compared.
_VIEW = 0


def make(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  renderer: renderers.Renderer,
  board: summaries.Summaries,
) -> Callable[[Any, int], float]:
  """Builds `validate(params, step)` for replicated parameters `[D, ...]`.

  It renders the first validation view, shows it beside its truth, depth,
  opacity and the coarse network's image, and gives its PSNR in dB.
  """
  render = build.render_view(config, scene, renderer)
  render_coarse = build.render_view(config, scene, renderer, network=0)

  def validate(params: Any, step: int) -> float:
    view = render(params, scene.val.cameras, _VIEW)
    rgb = media.to_uint8(view.rgb)
    truth = media.to_uint8(
      base.to_float(scene.val.images[_VIEW], white_background=config.white_bkgd)
    )
    opacity = media.to_uint8(view.opacity)
    images = {
      'validation/image': rgb,
      'validation/truth': truth,
      'validation/depth': media.depth_image(
        view.depth, view.opacity, scene.near, scene.far
      ),
      'validation/opacity': np.repeat(opacity[..., None], 3, axis=-1),
    }
    if config.num_importance:
      coarse = render_coarse(params, scene.val.cameras, _VIEW)
      images['validation/coarse'] = media.to_uint8(coarse.rgb)
    psnr = metrics.psnr(rgb, truth)
    board.images(step, images)
    board.scalars(step, {'validation/psnr': psnr})
    return psnr

  return validate
