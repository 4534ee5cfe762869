import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import (
  camera_paths,
  cameras,
  devices,
  fields,
  image_rendering,
  volume,
)
from nerf_haiku.io import media
from nerf_haiku.renderers import hierarchical


def _renderer():
  field = fields.make_mlp(
    encode_position=jnp.sin,
    encode_direction=jnp.sin,
    net_depth=2,
    net_width=32,
    skips=(),
    use_viewdirs=True,
  )
  return hierarchical.make_hierarchical(
    field,
    field,
    num_samples=16,
    num_importance=16,
    perturb=True,
    lindisp=False,
    raw_noise_std=1.0,
    density_activation='softplus',
    infinite_end=False,
    white_background=True,
  )


def _cast(**changes):
  settings = {'near': 2.0, 'far': 6.0, 'box': None, 'pixel_center': True}
  return functools.partial(cameras.cast, **(settings | changes))


def _views(*sizes):
  return cameras.pinhole(
    camera_paths.circle(len(sizes)), sizes, [30.0] * len(sizes)
  )


@functools.cache
def _params():
  params = jax.jit(_renderer().init)(jax.random.key(0))
  return jax.tree.map(lambda x: 3.0 * x, params)  # So that colours vary.


def _learnt():
  return hierarchical.Learnt(_params())


def _direct(views, index):
  """All rays of a view at once, on one device."""
  height, width = views.sizes[index]
  pixel = cameras.pixels(height, width)
  rays = _cast()(views, np.full(len(pixel), index, np.int32), pixel)
  seen = jax.jit(_renderer().render)(_params(), rays)[-1]
  return seen, (height, width)


class RenderViewTest(chex.TestCase):
  @parameterized.parameters((48, 32), (33, 17), (1, 1), (5, 7))
  def test_any_size_equals_all_rays_at_once(self, height, width):
    views = _views((4, 4), (height, width))
    render_view = image_rendering.make_render_view(
      _renderer(), _cast(), chunk=100, piece=25
    )
    view = render_view(devices.replicate(_learnt()), views, 1)
    seen, size = _direct(views, 1)
    chex.assert_shape(view.rgb, (*size, 3))
    for name in image_rendering.RenderedImage._fields:
      expected = getattr(seen, name).reshape(getattr(view, name).shape)
      # Importance samples jump where rounding moves them to another bin.
      atol = 1e-3 if name == 'spread' else 1e-4
      np.testing.assert_allclose(
        getattr(view, name), expected, atol=atol, err_msg=name
      )
    self.assertGreater(np.ptp(view.rgb) if height > 1 else 1.0, 0.05)

  def test_chunks_and_devices_change_no_pixel(self):
    views = _views((33, 17))
    images = []
    for chunk, num_devices in ((1, 4), (16, 1), (50, 3), (100, 2), (9999, 4)):
      render_view = image_rendering.make_render_view(
        _renderer(), _cast(), chunk=chunk, piece=16, num_devices=num_devices
      )
      params = devices.replicate(_learnt(), num_devices)
      images.append(media.to_uint8(render_view(params, views, 0).rgb))
    for image in images[1:]:
      np.testing.assert_array_equal(image, images[0])

  def test_nothing_is_random(self):
    views = _views((8, 8))
    render_view = image_rendering.make_render_view(
      _renderer(), _cast(), chunk=64, piece=64
    )
    params = devices.replicate(_learnt())
    chex.assert_trees_all_equal(
      render_view(params, views, 0), render_view(params, views, 0)
    )

  def test_rows_and_columns(self):
    """A renderer that shows where rays come from, not what is there."""

    def render(params, rays, memory):
      del params, memory
      zeros = jnp.zeros(rays.near.shape[0])
      return (
        volume.Rendering(
          rays.directions,
          zeros,
          zeros,
          zeros,
          zeros[:, None],
          zeros[:, None],
          zeros,
          jnp.zeros((len(zeros), 2)),
          zeros,
        ),
      )

    pose = np.eye(4)[None, :3]  # Looks along -z, y up.
    views = cameras.pinhole(pose, [[4, 6]], [2.0])
    render_view = image_rendering.make_render_view(
      hierarchical.Renderer(None, None, render), _cast(), chunk=5, piece=5
    )
    view = render_view(devices.replicate(hierarchical.Learnt({})), views, 0)
    x = (np.arange(6) + 0.5 - 3) / 2
    y = -(np.arange(4) + 0.5 - 2) / 2
    expected = np.stack(
      [np.tile(x, (4, 1)), np.tile(y[:, None], (1, 6)), np.full((4, 6), -1)], -1
    )
    np.testing.assert_allclose(view.rgb, expected, atol=1e-6)


class NdcTest(chex.TestCase):
  @parameterized.product(turn=(0.0, 0.2), opacity=(1.0, 0.5, 0.0))
  def test_depth_of_a_plane(self, turn, opacity):
    """A renderer that sees the plane z = -5, whose z' is 1 + 2 n / -5."""
    near = 1.25

    def render(params, rays, memory):
      del params, memory
      t = (1 - 2 * near / 5 - rays.origins[:, 2]) / rays.directions[:, 2]
      seen = jnp.full_like(t, opacity)
      nothing = t[:, None]
      return (
        volume.Rendering(
          rays.viewdirs,
          t * seen,
          -seen,
          seen,
          nothing,
          nothing,
          t,
          jnp.tile(nothing, (1, 2)),
          t,
        ),
      )

    sine, cosine = np.sin(turn), np.cos(turn)
    pose = np.array(
      [[cosine, 0, sine, 0.3], [0, 1, 0, -0.2], [-sine, 0, cosine, 0.4]]
    )
    views = cameras.pinhole(pose[None], [[7, 11]], [12.0])
    render_view = image_rendering.make_render_view(
      hierarchical.Renderer(None, None, render),
      _cast(far=100.0),
      chunk=40,
      piece=10,
      ndc=cameras.Ndc((24 / 11, 24 / 7), near),
    )
    view = render_view(devices.replicate(hierarchical.Learnt({})), views, 0)
    x = np.tile((np.arange(11) + 0.5 - 5.5) / 12, (7, 1))
    y = np.tile(-(np.arange(7) + 0.5 - 3.5) / 12, (11, 1)).T
    directions = np.stack([x, y, -np.ones_like(x)], axis=-1) @ pose[:, :3].T
    # Along the optical axis, of which a direction goes 1.
    depth = (-5 - 0.4) / directions[..., 2]
    np.testing.assert_allclose(view.depth, opacity * depth, rtol=1e-4)
    np.testing.assert_allclose(
      view.disparity, 1 / depth if opacity else 0.0 * depth, rtol=1e-4
    )
    np.testing.assert_allclose(view.opacity, opacity)
    # Colours are asked for in directions of the world.
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    np.testing.assert_allclose(view.rgb, directions, atol=1e-6)
