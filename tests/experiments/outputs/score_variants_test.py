import types
from unittest import mock

import chex
import numpy as np

from experiments.builders import refinement
from experiments.outputs import score_variants
from nerf_haiku.renderers import base
from tests.support import configs


def _run(**changes):
  return types.SimpleNamespace(
    config=configs.changed(**changes),
    scene=None,
    variables=base.Variables({}, ()),
    experiment=types.SimpleNamespace(renderer=None),
    # A camera is the gray that is rendered from it.
    render=lambda camera, index: types.SimpleNamespace(
      rgb=np.full((2, 2, 3), camera[index])
    ),
  )


def _make_align(*args):
  """The fitted camera is the gray of the photograph."""
  del args
  return lambda variables, index, truth, mask: [truth.mean() + index]


@mock.patch.object(refinement, 'make_align', _make_align)
class MakeVariantsTest(chex.TestCase):
  def test_each_setting_has_its_own(self):
    variants = score_variants.make_variants
    self.assertEqual(variants(_run()), {})
    halves = {'right_half', 'right_half_fitted'}
    self.assertEqual(set(variants(_run(exposure=True))), halves)
    both = variants(_run(exposure=True, refine_cameras=True))
    self.assertEqual(set(both), halves | {'aligned'})
    self.assertEqual(set(both), set(score_variants.DEFINITIONS))


class ExposureTest(chex.TestCase):
  def test_halves(self):
    """The photograph is half as bright, but for the last column."""
    variants = score_variants.make_variants(_run(exposure=True))
    rgb = np.random.default_rng(0).integers(0, 128, (6, 5, 3)) * 2
    truth = rgb // 2
    truth[:, -1] = 255
    rgb, truth = np.uint8(rgb), np.uint8(truth)
    view = score_variants.Compared(rgb, truth, None)
    image, right, _ = variants['right_half'](0, view)
    np.testing.assert_array_equal(image, rgb[:, 2:])
    np.testing.assert_array_equal(right, truth[:, 2:])
    image, right, _ = variants['right_half_fitted'](0, view)
    np.testing.assert_array_equal(image, rgb[:, 2:] // 2)
    np.testing.assert_array_equal(right, truth[:, 2:])

  def test_masked_pixels_are_not_fitted(self):
    variants = score_variants.make_variants(_run(exposure=True))
    rgb = np.random.default_rng(0).integers(0, 128, (6, 4, 3)) * 2
    truth = rgb // 2
    truth[:3, 0] = 255
    mask = np.ones((6, 4), bool)
    mask[:3, 0] = mask[5, 3] = False
    view = score_variants.Compared(np.uint8(rgb), np.uint8(truth), mask)
    image, _, right = variants['right_half_fitted'](0, view)
    np.testing.assert_array_equal(image, rgb[:, 2:] // 2)
    np.testing.assert_array_equal(right, mask[:, 2:])


@mock.patch.object(refinement, 'make_align', _make_align)
class AlignedTest(chex.TestCase):
  def test_renders_the_fitted_camera(self):
    variants = score_variants.make_variants(_run(refine_cameras=True))
    truth = np.full((2, 2, 3), 51, np.uint8)
    view = score_variants.Compared(np.zeros_like(truth), truth, None)
    image, same, _ = variants['aligned'](0, view)
    np.testing.assert_array_equal(image, truth)
    np.testing.assert_array_equal(same, truth)
