import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from nerf_haiku import (
  backgrounds,
  camera_paths,
  cameras,
  devices,
  fields,
  image_rendering,
  volume,
)
from nerf_haiku.io import media
from nerf_haiku.renderers import base, hierarchical


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
    background=backgrounds.WHITE,
  )


def _cast(**changes):
  settings = {'near': 2.0, 'far': 6.0, 'box': None, 'pixel_center': True}
  return functools.partial(cameras.cast, **(settings | changes))


def _views(*sizes):
  return cameras.pinhole(
    camera_paths.circle(len(sizes)), sizes, [30.0] * len(sizes)
  )


@functools.cache
def _variables():
  variables = jax.jit(_renderer().init)(jax.random.key(0))
  return jax.tree.map(lambda x: 3.0 * x, variables)  # So that colors vary.


def _direct(views, index):
  """All rays of a view at once, on one device."""
  height, width = views.sizes[index]
  pixel = cameras.pixels(height, width)
  rays = _cast()(views, np.full(len(pixel), index, np.int32), pixel)
  return jax.jit(_renderer().render_eval)(_variables(), rays)[-1]


class _Fake:
  """A renderer that only evaluates, by a function of rays."""

  max_samples = None

  def __init__(self, render):
    """`render` returns the outputs of rays."""
    self._render = render

  def render_eval(self, variables, rays):
    del variables
    outputs = self._render(rays)
    return (
      base.EvalRendering(
        outputs=outputs, boundary_weight=jnp.zeros((len(outputs.depth), 2))
      ),
    )


def _stripes(rays):
  """Colours that alternate within a pixel of the small views here."""
  x, y, _ = jnp.moveaxis(rays.directions, -1, 0)
  rgb = jnp.stack([jnp.sin(90 * x), jnp.sin(70 * y), x], -1) + 1.0
  ones = jnp.ones_like(x)
  return volume.RayOutputs(rgb=rgb, depth=x + 2, disparity=ones, opacity=ones)


class AverageRaysTest(chex.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_a_pixel_is_the_mean_of_the_rays_through_it(self, side):
    views = _views((4, 6), (5, 4))
    render = image_rendering.make_render_image(
      _Fake(_stripes), _cast(), chunk=7
    )
    averaged = image_rendering.average_rays(render, lambda *_: side)
    variables = devices.replicate(base.Variables({'w': jnp.zeros(1)}, ()))
    found = averaged(variables, views, 1)
    chex.assert_shape([found.rgb, found.depth], [(5, 4, 3), (5, 4)])
    # By a loop over the places within a pixel, each of which shifts the center.
    places = (np.arange(side) + 0.5) / side - 0.5
    slow = []
    for y in places:
      for x in places:
        shift = np.array([0, 0, x, y], np.float32)
        moved = views._replace(intrinsics=views.intrinsics - shift)
        slow.append(render(variables, moved, 1))
    for name in ('rgb', 'depth'):
      mean = np.mean([getattr(image, name) for image in slow], axis=0)
      np.testing.assert_allclose(getattr(found, name), mean, atol=2e-5)


class RenderImageTest(chex.TestCase):
  @parameterized.parameters(0, 1)
  def test_the_image_of_either_network(self, network):
    views = _views((6, 5))
    pixel = cameras.pixels(6, 5)
    rays = _cast()(views, np.zeros(30, np.int32), pixel)
    expected = jax.jit(_renderer().render_eval)(_variables(), rays)
    render_image = image_rendering.make_render_image(
      _renderer(), _cast(), chunk=30, network=network
    )
    image = render_image(devices.replicate(_variables()), views, 0)
    for i in range(2):
      off = np.max(np.abs(image.rgb.reshape(30, 3) - expected[i].outputs.rgb))
      self.assertEqual(off < 1e-4, i == network, off)

  @parameterized.parameters((48, 32), (33, 17), (1, 1))
  def test_any_size_equals_all_rays_at_once(self, height, width):
    views = _views((4, 4), (height, width))
    render_image = image_rendering.make_render_image(
      _renderer(), _cast(), rays_per_call=100, chunk=25
    )
    image = render_image(devices.replicate(_variables()), views, 1)
    expected = _direct(views, 1)
    chex.assert_shape(image.rgb, (height, width, 3))
    named = expected.outputs._asdict() | {
      'boundary_weight': expected.boundary_weight,
      'fine_t_std': expected.fine_t_std,
    }
    self.assertEqual(named.keys(), set(image._fields))
    for name, value in named.items():
      found = getattr(image, name)
      # Importance samples jump where rounding moves them to another bin.
      atol = 1e-3 if name == 'fine_t_std' else 1e-4
      np.testing.assert_allclose(
        found, value.reshape(found.shape), atol=atol, err_msg=name
      )
    self.assertGreater(np.ptp(image.rgb) if height > 1 else 1.0, 0.05)

  @pytest.mark.cpu
  def test_calls_and_devices_change_no_pixel(self):
    views = _views((33, 17))
    images = []
    for rays, num_devices in ((1, 4), (16, 1), (50, 3), (9999, 4)):
      render_image = image_rendering.make_render_image(
        _renderer(),
        _cast(),
        rays_per_call=rays,
        chunk=16,
        num_devices=num_devices,
      )
      variables = devices.replicate(_variables(), num_devices)
      images.append(media.to_uint8(render_image(variables, views, 0).rgb))
    for image in images[1:]:
      np.testing.assert_array_equal(image, images[0])

  def test_nothing_is_random(self):
    views = _views((8, 8))
    render_image = image_rendering.make_render_image(
      _renderer(), _cast(), rays_per_call=64, chunk=64
    )
    variables = devices.replicate(_variables())
    chex.assert_trees_all_equal(
      render_image(variables, views, 0), render_image(variables, views, 0)
    )

  def test_rows_and_columns(self):
    """A renderer that shows where rays come from."""

    def render(rays):
      zero = jnp.zeros(len(rays.near))
      return volume.RayOutputs(
        rgb=rays.directions, depth=zero, disparity=zero, opacity=zero
      )

    pose = np.eye(4)[None, :3]  # Looks along -z, y up.
    views = cameras.pinhole(pose, [[4, 6]], [2.0])
    render_image = image_rendering.make_render_image(
      _Fake(render), _cast(), rays_per_call=5, chunk=5
    )
    image = render_image(devices.replicate(_NOTHING), views, 0)
    x = (np.arange(6) + 0.5 - 3) / 2
    y = -(np.arange(4) + 0.5 - 2) / 2
    expected = np.stack(
      [np.tile(x, (4, 1)), np.tile(y[:, None], (1, 6)), np.full((4, 6), -1)], -1
    )
    np.testing.assert_allclose(image.rgb, expected, atol=1e-6)
    self.assertIsNone(image.fine_t_std)

  def test_directions_may_be_those_of_another_camera(self):
    def render(rays):
      zero = jnp.zeros(len(rays.near))
      return volume.RayOutputs(
        rgb=rays.viewdirs, depth=zero, disparity=zero, opacity=rays.near[:, 0]
      )

    views = _views((3, 5), (3, 5))
    render_image = image_rendering.make_render_image(
      _Fake(render), _cast(), rays_per_call=8, chunk=4
    )
    variables = devices.replicate(_NOTHING)
    second = jax.tree.map(lambda x: x[1:], views)
    image = render_image(variables, views, 0, second)
    expected = render_image(variables, views, 1)
    np.testing.assert_array_equal(image.rgb, expected.rgb)

  def test_the_chunks_of_a_call_are_a_loop_with_a_known_trip_count(self):
    layout = image_rendering._Layout(chunk=16, chunks_per_call=8, num_devices=2)
    # 561 pixels are 36 chunks: 3 calls of 2 devices, 6 chunks each.
    calls = list(image_rendering._pixel_chunks(33, 17, layout, False))
    self.assertEqual({x.shape for x in calls}, {(2, 6, 16, 2)})
    self.assertLen(calls, 3)
    flat = np.concatenate([x.reshape(-1, 2) for x in calls])
    np.testing.assert_array_equal(flat[:561], cameras.pixels(33, 17))


_NOTHING = base.Variables(params={'none': {'x': {'w': np.zeros(1)}}}, state=())


class NdcTest(chex.TestCase):
  @parameterized.product(turn=(0.0, 0.2), opacity=(1.0, 0.5, 0.0))
  def test_depth_of_a_plane(self, turn, opacity):
    """A renderer of the plane z = -5, whose z' is 1 + 2 n / -5."""
    near = 1.25

    def render(rays):
      t = (1 - 2 * near / 5 - rays.origins[:, 2]) / rays.directions[:, 2]
      full = jnp.full_like(t, opacity)
      return volume.RayOutputs(
        rgb=rays.viewdirs, depth=t * full, disparity=-full, opacity=full
      )

    sine, cosine = np.sin(turn), np.cos(turn)
    pose = np.array(
      [[cosine, 0, sine, 0.3], [0, 1, 0, -0.2], [-sine, 0, cosine, 0.4]]
    )
    views = cameras.pinhole(pose[None], [[7, 11]], [12.0])
    render_image = image_rendering.make_render_image(
      _Fake(render),
      _cast(far=100.0),
      rays_per_call=40,
      chunk=10,
      ndc=cameras.Ndc((24 / 11, 24 / 7), near),
    )
    image = render_image(devices.replicate(_NOTHING), views, 0)
    x = np.tile((np.arange(11) + 0.5 - 5.5) / 12, (7, 1))
    y = np.tile(-(np.arange(7) + 0.5 - 3.5) / 12, (11, 1)).T
    directions = np.stack([x, y, -np.ones_like(x)], axis=-1) @ pose[:, :3].T
    # Along the optical axis, of which a direction has length 1.
    depth = (-5 - 0.4) / directions[..., 2]
    np.testing.assert_allclose(image.depth, opacity * depth, rtol=1e-4)
    np.testing.assert_allclose(
      image.disparity, 1 / depth if opacity else 0.0 * depth, rtol=1e-4
    )
    np.testing.assert_allclose(image.opacity, opacity)
    # Colors are queried in directions of the world.
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    np.testing.assert_allclose(image.rgb, directions, atol=1e-6)
