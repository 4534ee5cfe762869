import chex
import numpy as np
from absl.testing import parameterized

from experiments.trainer import validation
from nerf_haiku import cameras, image_rendering, scenes


def _scene(**changes):
  parts = dict.fromkeys(scenes.Scene._fields) | {'near': 2.0, 'far': 6.0}
  return scenes.Scene(**(parts | changes))


def _view(near, far, opacity=1.0):
  flat = np.full((4, 5), opacity)
  ends = np.broadcast_to([near, far], (4, 5, 2))
  return image_rendering.RenderedImage(
    rgb=None, depth=None, disparity=None, opacity=flat, boundary_weight=ends
  )


class CutsTest(chex.TestCase):
  @parameterized.parameters(
    (0.1, 0.1, 1.0, []),
    (0.3, 0.1, 1.0, ['begin: near=2 ']),
    (0.1, 0.3, 1.0, ['end: far=6 ']),
    (0.1, 0.0, 0.2, ['begin: near=2 ']),
    (0.0, 0.0, 0.0, []),
    (0.3, 0.3, 1.0, ['begin', 'end']),
  )
  def test_much_weight_at_an_end_is_reported(
    self, near, far, opacity, expected
  ):
    said = validation.describe_cuts(_view(near, far, opacity), _scene())
    self.assertLen(said, len(expected))
    for text, part in zip(said, expected, strict=True):
      self.assertIn(part, text)
      self.assertNotIn('config.box', text)

  def test_a_box_is_named_and_infinity_is_no_cut(self):
    (said,) = validation.describe_cuts(
      _view(0.3, 0.0), _scene(box=np.zeros((2, 3)))
    )
    self.assertIn('config.near, config.box', said)
    ndc = _scene(ndc=cameras.Ndc((1.0, 1.0)))
    self.assertEmpty(validation.describe_cuts(_view(0.3, 0.3), ndc))
    # Where contracted space ends is the sky.
    (said,) = validation.describe_cuts(_view(0.3, 0.3), _scene(contracted=True))
    self.assertIn('begin', said)
