"""What a run looks like on a view that it does not learn from."""

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from experiments import build, summaries
from nerf_haiku import evaluation, media, metrics, renderers
from nerf_haiku.datasets import base

# (replicated parameters `[D, ...]`, step) -> PSNR, dB.
Validate = Callable[[Any, int], float]

# Always the same view, so that pictures and PSNR of a run can be compared.
_VIEW = 0


def make(
  config: ml_collections.ConfigDict,
  scene: base.Scene,
  renderer: renderers.Renderer,
  render: Callable[..., evaluation.View],
  board: summaries.Summaries,
) -> Validate:
  """Builds a function that renders, shows and scores a validation view.

  It shows the first validation view beside its truth, depth, opacity and the
  coarse network's image.

  Args:
    config: of the run.
    scene: whose view it is.
    renderer: that learns the scene.
    render: renders with its last network, see `build.render_view`.
    board: where it is shown.
  """
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
