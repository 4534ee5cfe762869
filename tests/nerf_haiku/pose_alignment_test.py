import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import camera_paths, camera_refinement, cameras, pose_alignment
from nerf_haiku.renderers import hierarchical


def _cast(views, camera, pixel):
  return cameras.cast(
    views, camera, pixel, near=3.0, far=5.0, box=None, pixel_center=True
  )


class AlignTest(chex.TestCase):
  def test_finds_the_pose_of_a_photograph(self):
    def waves(params, points, viewdirs):
      del params, viewdirs
      return jnp.ones(points.shape[:-1]), 0.5 + 0.5 * jnp.sin(2.0 * points)

    renderer = hierarchical.make_hierarchical(
      hk.Transformed(lambda *_: {}, waves),
      None,
      num_samples=8,
      num_importance=0,
      perturb=False,
    )
    camera = cameras.pinhole(camera_paths.circle(1), [[12, 16]], [12.0])
    factors = camera_refinement.make_preconditioners(
      camera, np.array([4.0]), focal=False
    )

    def correct(params):
      return camera_refinement.correct(camera, factors, params)

    true = correct(
      jax.tree.map(
        lambda x: x + np.float32([[0.02, -0.01, 0.03, 0.01, -0.02, 0.01]]),
        camera_refinement.init(1, focal=False),
      )
    )
    variables = renderer.init(jax.random.key(0))
    rays = _cast(true, np.zeros(192, np.int32), cameras.pixels(12, 16))
    rgb = renderer.render_eval(variables, rays)[-1].outputs.rgb
    align = pose_alignment.make_align(
      renderer, _cast, ndc=None, num_steps=200, num_rays=64, learning_rate=3e-3
    )
    view = pose_alignment.View(camera, factors, rgb.reshape(12, 16, 3))
    found = correct(align(variables, view, jax.random.key(1)))
    start = np.abs(true.camera_to_world - camera.camera_to_world).max()
    self.assertGreater(start, 0.02)
    np.testing.assert_allclose(
      found.camera_to_world, true.camera_to_world, atol=0.03 * start
    )
