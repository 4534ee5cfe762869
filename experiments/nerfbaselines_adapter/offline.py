"""Scores of nerfbaselines that need no download: all but LPIPS."""

import numpy as np
from nerfbaselines import metrics
from nerfbaselines.evaluation import DefaultEvaluationProtocol
from nerfbaselines.utils import convert_image_dtype, image_to_srgb


class Protocol(DefaultEvaluationProtocol):
  """The default protocol without LPIPS, whose networks it would download."""

  _name = 'nerf-haiku-offline'

  def evaluate(self, predictions, dataset):
    """Returns the scores of one view."""
    metadata = dataset['metadata']
    rendered, truth = (
      convert_image_dtype(
        image_to_srgb(
          image,
          np.uint8,
          color_space=metadata['color_space'],
          background_color=metadata.get('background_color'),
        ),
        np.float32,
      )[None]
      for image in (predictions['color'], dataset['images'][0])
    )
    mse = metrics.mse(rendered, truth)
    return {
      'psnr': metrics.psnr(mse).mean().item(),
      'ssim': metrics.ssim(truth, rendered).mean().item(),
      'mae': metrics.mae(truth, rendered).mean().item(),
      'mse': mse.mean().item(),
    }
