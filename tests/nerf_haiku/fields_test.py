import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from nerf_haiku import encodings, fields, hash_grid, ops


def _encoding(octaves):
  return functools.partial(encodings.positional, num_octaves=octaves)


def _compiled(field):
  """A field that compiles once, not each operation by itself."""
  return field._replace(init=jax.jit(field.init), apply=jax.jit(field.apply))


def _make(**changes):
  settings = {
    'encode_position': _encoding(3),
    'encode_direction': _encoding(2),
    'net_depth': 4,
    'net_width': 16,
    'skips': (1,),
    'use_viewdirs': True,
  } | changes
  return _compiled(fields.make_mlp(**settings))


def _points(*shape):
  key = jax.random.key(1)
  return jax.random.uniform(key, (*shape, 3), minval=-1.0, maxval=1.0)


def _slow_mlp(params, position, direction, depth, skips):
  """Figure 7 for one point, joined inputs and all, in NumPy."""
  params = {name.split('/')[1]: p for name, p in params.items()}

  def linear(name, x):
    return x @ np.asarray(params[name]['w']) + np.asarray(params[name]['b'])

  x = position
  for i in range(depth):
    x = np.maximum(linear(f'layer_{i}', x), 0.0)
    if i in skips:
      x = np.concatenate([position, x])
  density = linear('density', x)[0]
  if direction is not None:
    x = np.concatenate([linear('bottleneck', x), direction])
    x = np.maximum(linear('view', x), 0.0)
  return density, 1.0 / (1.0 + np.exp(-linear('rgb', x)))


class MlpTest(chex.TestCase):
  @parameterized.parameters(
    (4, (1,), True),
    (4, (), False),
    (3, (0, 1), True),
    (3, (2,), True),
    (1, (), True),
    (2, (1,), False),
  )
  def test_matches_a_loop(self, depth, skips, use_viewdirs):
    field = _make(net_depth=depth, skips=skips, use_viewdirs=use_viewdirs)
    points, viewdirs = _points(2, 5), _points(2, 1)
    params = field.init(jax.random.key(0), points, viewdirs)
    # Biases too, so that a lost one shows.
    params = jax.tree.map(lambda x: x + 0.1, params)
    density, rgb = jax.jit(field.apply)(params, points, viewdirs)
    chex.assert_shape([density, rgb], [(2, 5), (2, 5, 3)])

    def encode(octaves, x):
      return np.asarray(_encoding(octaves)(x))

    for ray, sample in np.ndindex(2, 5):
      expected = _slow_mlp(
        params,
        encode(3, points[ray, sample]),
        encode(2, viewdirs[ray, 0]) if use_viewdirs else None,
        depth,
        skips,
      )
      np.testing.assert_allclose(
        density[ray, sample], expected[0], rtol=1e-4, atol=1e-5
      )
      np.testing.assert_allclose(rgb[ray, sample], expected[1], atol=1e-5)

  def test_the_paper_s_network(self):
    field = _make(
      encode_position=_encoding(10),
      encode_direction=_encoding(4),
      net_depth=8,
      net_width=256,
      skips=(4,),
    )
    point = jnp.zeros((1, 3))
    params = field.init(jax.random.key(0), point, point)
    shapes = {name: p['w'].shape for name, p in params.items()}
    self.assertEqual(
      shapes,
      {f'mlp/layer_{i}': (256, 256) for i in (1, 2, 3, 4, 6, 7)}
      | {
        'mlp/layer_0': (63, 256),
        'mlp/layer_5': (319, 256),
        'mlp/density': (256, 1),
        'mlp/bottleneck': (256, 256),
        'mlp/view': (283, 128),
        'mlp/rgb': (128, 3),
      },
    )

  def test_initialisation_is_glorot_uniform(self):
    point = jnp.zeros((1, 3))
    params = _make(net_width=256).init(jax.random.key(0), point, point)
    w, b = params['mlp/layer_3']['w'], params['mlp/layer_3']['b']
    limit = (6 / 512) ** 0.5
    self.assertBetween(float(jnp.max(jnp.abs(w))), 0.99 * limit, limit)
    np.testing.assert_allclose(jnp.std(w), limit / 3**0.5, rtol=0.02)
    np.testing.assert_array_equal(b, 0.0)

  def test_a_direction_may_be_shared_or_not(self):
    field = _make()
    points, viewdirs = _points(6, 4), _points(6, 1)
    params = field.init(jax.random.key(0), points, viewdirs)
    shared = field.apply(params, points, viewdirs)
    each = field.apply(
      params, points.reshape(-1, 3), jnp.repeat(viewdirs[:, 0], 4, axis=0)
    )
    chex.assert_trees_all_close(
      shared, (each[0].reshape(6, 4), each[1].reshape(6, 4, 3)), atol=1e-6
    )

  def test_density_does_not_depend_on_direction(self):
    field = _make()
    points, viewdirs = _points(6, 4), _points(6, 1)
    params = field.init(jax.random.key(0), points, viewdirs)
    density, rgb = field.apply(params, points, viewdirs)
    other_density, other_rgb = field.apply(params, points, -viewdirs)
    np.testing.assert_array_equal(density, other_density)
    self.assertGreater(float(jnp.max(jnp.abs(rgb - other_rgb))), 1e-3)

  def test_without_encoding(self):
    field = _make(encode_position=jnp.array, encode_direction=jnp.array)
    point = jnp.ones((1, 3))
    params = field.init(jax.random.key(0), point, point)
    chex.assert_shape(params['mlp/layer_0']['w'], (3, 16))
    chex.assert_shape(params['mlp/view']['w'], (19, 8))

  def test_what_is_wider_than_the_waves_is_seen_as_one(self):
    """Points a wave apart look alike, but for the input itself."""
    encode = functools.partial(_encoding(3), include_input=False)
    field = _make(encode_position=encode)
    points, viewdirs = _points(6, 2), jnp.ones((6, 1, 3))
    params = field.init(jax.random.key(0), points, viewdirs)
    density, _ = field.apply(
      params, points, viewdirs, jnp.full((6, 2, 3), 90.0)
    )
    np.testing.assert_allclose(
      density, density[0, 0] * np.ones((6, 2)), atol=1e-6
    )
    narrow, _ = field.apply(params, points, viewdirs, jnp.zeros((6, 2, 3)))
    usual, _ = field.apply(params, points, viewdirs)
    np.testing.assert_allclose(narrow, usual, atol=1e-6)
    self.assertGreater(float(jnp.std(usual)), 1e-2)

  def test_a_skip_past_the_end_is_refused(self):
    point = jnp.ones((1, 3))
    with self.assertRaisesRegex(ValueError, r'skips.*\[0, 4\).*\(4,\)'):
      _make(skips=(4,)).init(jax.random.key(0), point, point)


class ProjectTest(chex.TestCase):
  def test_value_and_gradients(self):
    w = jax.random.normal(jax.random.key(0), (5, 3))
    x = jax.random.normal(jax.random.key(1), (5, 7))
    np.testing.assert_allclose(
      ops.project(w, x), np.asarray(w).T @ np.asarray(x), rtol=1e-5
    )
    g = np.arange(21.0, dtype=np.float32).reshape(3, 7)
    dw, dx = jax.grad(
      lambda w, x: jnp.sum(g * ops.project(w, x)), argnums=(0, 1)
    )(w, x)
    # d/dw_io sum_on g_on w_io x_in, and so on, by hand.
    np.testing.assert_allclose(dw, np.asarray(x) @ g.T, rtol=1e-5)
    np.testing.assert_allclose(dx, np.asarray(w) @ g, rtol=1e-5)

  def test_relu(self):
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])
    np.testing.assert_array_equal(ops.relu(x), [0.0, 0.0, 0.0, 3.0])
    slope = jax.grad(lambda x: jnp.sum(2.0 * ops.relu(x)))(x)
    np.testing.assert_array_equal(slope, [0.0, 0.0, 0.0, 2.0])

  def test_a_nan_stays_one(self):
    """Else a fault would be hidden from the check of the update."""
    seen = ops.relu(jnp.array([jnp.nan, 1.0]))
    np.testing.assert_array_equal(seen, [np.nan, 1.0])


class PrecisionTest(chex.TestCase):
  def test_bfloat16_is_of_the_features_alone(self):
    exact, rough = _make(), _make(dtype='bfloat16')
    points, viewdirs = _points(6, 5), _points(6, 1)
    params = rough.init(jax.random.key(0), points, viewdirs)
    chex.assert_trees_all_equal(
      params, exact.init(jax.random.key(0), points, viewdirs)
    )
    expected = exact.apply(params, points, viewdirs)
    seen = rough.apply(params, points, viewdirs)
    chex.assert_trees_all_equal_dtypes(seen, expected)
    for x, y in zip(seen, expected, strict=True):
      difference = np.max(np.abs(x - y)) / np.max(np.abs(y))
      self.assertLess(difference, 0.05)  # Of 8 bits, through some layers.
      self.assertGreater(difference, 1e-4)  # But not float32.

  def test_gradients_of_bfloat16_are_float32(self):
    field = _make(dtype='bfloat16')
    points, viewdirs = _points(6, 5), _points(6, 1)
    params = field.init(jax.random.key(0), points, viewdirs)
    grads = jax.grad(lambda p: jnp.sum(field.apply(p, points, viewdirs)[1]))(
      params
    )
    chex.assert_trees_all_equal_dtypes(grads, params)
    chex.assert_tree_all_finite(grads)


class RematerializeTest(chex.TestCase):
  def _compiled(self, remat, rays):
    field = _make(net_width=64, remat=remat)
    points, viewdirs = _points(rays, 40), _points(rays, 1)
    params = field.init(jax.random.key(0), points, viewdirs)

    def loss(params):
      density, rgb = field.apply(params, points, viewdirs)
      return jnp.sum(density**2) + jnp.sum(rgb**2)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    return compiled(params), memory

  @parameterized.parameters(1, 3, 6, 41)
  def test_changes_nothing(self, rays):
    (value, grads), _ = self._compiled(True, rays)
    (expected, others), _ = self._compiled(False, rays)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for x, y in zip(*map(jax.tree.leaves, (grads, others)), strict=True):
      np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max())

  def test_takes_less_memory(self):
    _, memory = self._compiled(True, 64)
    _, usual = self._compiled(False, 64)
    self.assertLess(memory, 0.5 * usual)


_BOX = np.array([[-1.0, -1.0, -2.0], [1.0, 3.0, 1.0]], np.float32)


def _hash(**changes):
  settings = {
    'box': _BOX,
    'num_levels': 3,
    'features_per_level': 2,
    'hashmap_size': 256,
    'base_resolution': 3,
    'max_resolution': 12,
    'density_width': 8,
    'geo_feat_dim': 5,
    'color_width': 7,
    'color_depth': 2,
    'use_viewdirs': True,
  } | changes
  return _compiled(fields.make_hash_grid(**settings))


class HashTest(chex.TestCase):
  def _slow(self, params, points, viewdirs, depth, use_viewdirs):
    """One point, in NumPy; the grid's features are those of `encodings`."""
    params = {name.removeprefix('hash/'): p for name, p in params.items()}
    levels = hash_grid.grid_levels(
      num_levels=3, base_resolution=3, max_resolution=12, hashmap_size=256
    )
    inside = np.clip((points - _BOX[0]) / (_BOX[1] - _BOX[0]), 0, 1)
    tables = [params['hash'][f'feature_{i}'] for i in range(2)]
    code = hash_grid.interpolate(
      tables, jnp.asarray(inside[:, None], jnp.float32), levels
    )[:, 0]

    def linear(name, x):
      return x @ np.asarray(params[name]['w']) + np.asarray(params[name]['b'])

    hidden = np.maximum(linear('layer_0', np.asarray(code)), 0)
    x = linear('bottleneck', hidden)
    if use_viewdirs:
      direction = encodings.spherical_harmonics(jnp.asarray(viewdirs))
      x = np.concatenate([x, direction])
    for i in range(depth):
      x = np.maximum(linear(f'view_{i}', x), 0)
    rgb = 1 / (1 + np.exp(-linear('rgb', x)))
    return linear('density', hidden)[0], rgb

  @parameterized.parameters((2, True), (0, True), (1, False))
  def test_matches_a_loop(self, depth, use_viewdirs):
    field = _hash(color_depth=depth, use_viewdirs=use_viewdirs)
    points, viewdirs = 2.5 * _points(2, 5), _points(2, 1)
    viewdirs /= jnp.linalg.norm(viewdirs, axis=-1, keepdims=True)
    params = field.init(jax.random.key(0), points, viewdirs)
    params = jax.tree.map(  # Features that matter, biases that are not 0.
      lambda x: x + 0.5 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params
    )
    density, rgb = field.apply(params, points, viewdirs)
    for i, j in ((0, 0), (1, 3), (1, 4)):
      expected = self._slow(
        params, points[i, j], viewdirs[i, 0], depth, use_viewdirs
      )
      np.testing.assert_allclose(density[i, j], expected[0], atol=1e-4)
      np.testing.assert_allclose(rgb[i, j], expected[1], atol=1e-4)

  def test_without_color_the_density_is_the_same(self):
    usual, plain = _hash(), _hash(has_color=False)
    points = _points(2, 5)
    params = usual.init(jax.random.key(0), points, points)
    kept = {'hash', 'hash/layer_0', 'hash/density'}
    params = {name: x for name, x in params.items() if name in kept}
    chex.assert_trees_all_equal_shapes(
      plain.init(jax.random.key(0), points, points), params
    )
    density, rgb = plain.apply(params, points, points)
    expected, _ = usual.apply(
      usual.init(jax.random.key(0), points, points), points, points
    )
    np.testing.assert_array_equal(density, expected)
    np.testing.assert_array_equal(rgb, np.zeros((2, 5, 3)))

  def test_initial_features_are_small_and_of_both_signs(self):
    field = _hash()
    params = field.init(jax.random.key(0), _points(1), _points(1))
    table = params['hash']['feature_0']
    self.assertLess(float(jnp.max(jnp.abs(table))), 1e-4 + 1e-9)
    self.assertGreater(float(jnp.std(table)), 5e-5)

  def test_remat_changes_nothing(self):
    points, viewdirs = _points(6, 4), _points(6, 1)
    usual, again = _hash(), _hash(remat=True)
    params = usual.init(jax.random.key(0), points, viewdirs)

    def total(field):
      return jax.grad(
        lambda p: sum(jnp.sum(x**2) for x in field.apply(p, points, viewdirs))
      )(params)

    chex.assert_trees_all_close(total(usual), total(again), atol=1e-5)

  @parameterized.parameters(False, True)
  def test_levels_fade_for_gaussians(self, remat):
    """As if each level's features had been smaller all along."""
    points, viewdirs = _points(6, 1), _points(6, 1)
    field = _hash(remat=remat)
    params = field.init(jax.random.key(0), points, viewdirs)
    tables = {n: x * 3e3 for n, x in params['hash'].items()}
    params = {**params, 'hash': tables}
    levels = hash_grid.grid_levels(
      num_levels=3, base_resolution=3, max_resolution=12, hashmap_size=256
    )
    deviation = np.array([0.05, 0.1, 0.2]) * (_BOX[1] - _BOX[0])
    variance = jnp.asarray(deviation**2, jnp.float32)
    weights = hash_grid.level_weights(
      jnp.mean(jnp.asarray([0.05, 0.1, 0.2]) ** 2, keepdims=True), levels, 1
    )[:, 0]
    of_rows = np.repeat(np.asarray(weights), levels.sizes)
    smaller = {name: x * of_rows for name, x in tables.items()}
    found = field.apply(
      params, points, viewdirs, jnp.broadcast_to(variance, points.shape)
    )
    expected = _hash().apply({**params, 'hash': smaller}, points, viewdirs)
    chex.assert_trees_all_close(found, expected, atol=1e-5)
    usual = field.apply(params, points, viewdirs)
    self.assertGreater(float(jnp.max(jnp.abs(usual[0] - found[0]))), 1e-3)

  def test_a_table_that_is_no_power_of_two(self):
    with self.assertRaisesRegex(ValueError, 'hashmap_size .* got 100'):
      _hash(hashmap_size=100).init(jax.random.key(0), _points(1), _points(1))
