import chex
import numpy as np
from absl.testing import parameterized

from nerf_haiku import backgrounds

_GRAY_BLUE = (0.3, 0.4, 0.5)
_TYPES = (np.uint8, np.uint16)


def _photo(color, *, dtype=np.uint8, channels=3, spread=0, size=(20, 30)):
  """A photo of one color with a colorful object amidst it.

  Args:
    color: in [0, 1].
    dtype: of the pixels.
    channels: 4 for an opaque alpha.
    spread: pixels differ from the color by at most that, of 255.
    size: height and width.
  """
  rng = np.random.default_rng(0)
  most = np.iinfo(dtype).max
  image = np.tile(np.array(color), (*size, 1))
  image += rng.integers(-spread, spread + 1, image.shape) / 255
  image[5:-5, 5:-5] = rng.uniform(size=image[5:-5, 5:-5].shape)
  image = np.rint(image.clip(0, 1) * most).astype(dtype)
  alpha = np.full((*size, 1), most, dtype)
  return np.concatenate([image, alpha], -1)[..., :channels]


def _paint_border(image, count, value):
  """Sets the first pixels of the border, of 96, from the upper left corner."""
  rows = [(0, j) for j in range(30)] + [(i, 0) for i in range(1, 20)]
  for i, j in rows[:count]:
    image[i, j] = value
  return image


class OfPhotosTest(chex.TestCase):
  @parameterized.product(
    color=(backgrounds.BLACK, backgrounds.WHITE, _GRAY_BLUE),
    dtype=_TYPES,
    channels=(3, 4),
  )
  def test_of_photos_of_an_object(self, color, dtype, channels):
    photo = _photo(color, dtype=dtype, channels=channels)
    found = backgrounds.of_photos([photo] * 3)
    np.testing.assert_allclose(found, color, atol=0.5 / 255 + 5e-4)
    # Black and white are exact.
    self.assertEqual(
      found in (backgrounds.BLACK, backgrounds.WHITE), color[0] in (0, 1)
    )
    self.assertEqual({type(x) for x in found}, {float})
    self.assertEqual(found, tuple(round(x, 3) for x in found))

  @parameterized.parameters(
    ((0.98, 0.97, 0.99), backgrounds.WHITE),
    ((0.02, 0.03, 0.02), backgrounds.BLACK),
    ((0.96, 1.0, 1.0), None),
  )
  def test_almost_white_is_white(self, color, expected):
    found = backgrounds.of_photos([_photo(color)])
    if expected is None:
      self.assertNotIn(found, (None, backgrounds.BLACK, backgrounds.WHITE))
    else:
      self.assertEqual(found, expected)

  @parameterized.parameters((5, True), (20, False))
  def test_compressed_photos_vary_a_little(self, spread, is_constant):
    found = backgrounds.of_photos([_photo(_GRAY_BLUE, spread=spread)])
    self.assertEqual(found is not None, is_constant)
    if is_constant:
      np.testing.assert_allclose(found, _GRAY_BLUE, atol=2 / 255)

  @parameterized.parameters((4, True), (5, False))
  def test_an_object_may_touch_the_border(self, count, is_constant):
    """95 % of 96 pixels are 91.2."""
    photo = _paint_border(_photo(_GRAY_BLUE), count, [200, 10, 10])
    found = backgrounds.of_photos([photo])
    self.assertEqual(found is not None, is_constant)

  @parameterized.product(row=(0, -1, None), column=(0, -1, None))
  def test_looks_at_all_four_sides(self, row, column):
    """Where it is of another color, all else is of one."""
    if row is None and column is None:
      self.skipTest('No side.')
    photo = _photo(_GRAY_BLUE)
    if row is not None:
      photo[row] = 250
    if column is not None:
      photo[:, column] = 250
    self.assertIsNone(backgrounds.of_photos([photo]))

  def test_more_than_half_of_all_photos_must_have_it(self):
    white, plain = _photo(backgrounds.WHITE), _photo(_GRAY_BLUE, spread=60)
    found = backgrounds.of_photos([white, plain, white, plain, white])
    self.assertEqual(found, backgrounds.WHITE)
    self.assertIsNone(backgrounds.of_photos([white, plain]))

  def test_they_must_have_the_same(self):
    others = [_photo((x, 0.5, 0.5)) for x in (0.1, 0.3, 0.7, 0.9)]
    self.assertIsNone(backgrounds.of_photos(others))
    same = [_photo(_GRAY_BLUE)] * 5
    found = backgrounds.of_photos(others + same)
    np.testing.assert_allclose(found, _GRAY_BLUE, atol=1 / 255)

  def test_where_alpha_decides(self):
    photo = _photo(backgrounds.WHITE, channels=4)
    photo[..., 3] = 0
    photo[5:-5, 5:-5, 3] = 255
    self.assertIsNone(backgrounds.of_photos([photo] * 3))
    # One pixel of the border is enough.
    photo = _paint_border(
      _photo(backgrounds.WHITE, channels=4), 1, [255, 255, 255, 254]
    )
    self.assertIsNone(backgrounds.of_photos([photo] * 3))

  def test_a_dark_room(self):
    """Dim walls with the noise of a sensor, brighter towards a lamp."""
    rng = np.random.default_rng(1)
    light = np.linspace(0.01, 0.12, 30)[None, :, None]
    photos = [
      np.rint(255 * np.abs(light + rng.normal(0, 0.01, (20, 30, 3))))
      for _ in range(8)
    ]
    self.assertIsNone(
      backgrounds.of_photos([x.astype(np.uint8) for x in photos])
    )

  def test_a_sky_in_half_of_the_photos(self):
    ground = _photo((0.3, 0.25, 0.2), spread=50)
    horizon = ground.copy()
    horizon[:12] = [150, 190, 230]
    sky = _photo((0.6, 0.75, 0.9))
    for photos in ([ground, horizon] * 3, [ground, sky] * 3, [horizon] * 4):
      self.assertIsNone(backgrounds.of_photos(photos))

  def test_none_at_all_and_the_smallest(self):
    self.assertIsNone(backgrounds.of_photos([]))
    pixel = np.full((1, 1, 3), 255, np.uint8)
    self.assertEqual(backgrounds.of_photos([pixel]), backgrounds.WHITE)


class DescribeTest(chex.TestCase):
  @parameterized.parameters(
    (backgrounds.BLACK, 'black'),
    (backgrounds.WHITE, 'white'),
    ((1, 1, 1), 'white'),
    ((0.298, 0.4, 0.5), '(0.298, 0.4, 0.5)'),
  )
  def test_of(self, color, expected):
    self.assertEqual(backgrounds.describe(color), expected)

  def test_the_same_within_8_of_255(self):
    self.assertTrue(backgrounds.same((0.1, 0.5, 0.9), (0.13, 0.47, 0.9)))
    for other in ((0.14, 0.5, 0.9), (0.1, 0.46, 0.9), (0.1, 0.5, 0.94)):
      self.assertFalse(backgrounds.same((0.1, 0.5, 0.9), other))
