"""Unbounded space, computed in float64 by the definitions."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import backgrounds, cameras, contraction, volume


def rays(count=30, far=(3.0, 50.0, 1e3, 1e6)):
  """Rays from within 1 of the origin, and from 5 away, towards its middle."""
  rng = np.random.default_rng(4)
  origins = rng.normal(size=(count, 3))
  origins /= np.linalg.norm(origins, axis=-1, keepdims=True)
  origins *= np.where(np.arange(count) % 5 == 0, 5.0, 0.8)[:, None]
  directions = rng.uniform(-0.7, 0.7, (count, 3)) - origins
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  viewdirs = directions.copy()
  directions *= rng.uniform(0.3, 2, (count, 1))
  near = np.full((count, 1), 0.05)
  ends = np.resize(far, (count, 1))
  arrays = origins, directions, viewdirs, near, ends
  return cameras.Rays(*(jnp.asarray(x, jnp.float32) for x in arrays))


def field():
  """A haze around the origin and all the way to the horizon."""

  def apply(params, points, viewdirs):
    square = jnp.sum(points**2, axis=-1)
    density = 0.6 * jnp.exp(-2 * square) + 0.05
    color = jax.nn.sigmoid(contraction.contract(points) + viewdirs)
    return density + params['haze']['bias'], color

  return hk.Transformed(lambda *_: {'haze': {'bias': jnp.zeros(())}}, apply)


def offsets(rays_):
  """Returns speeds and signed distances at t = 0, `[R, 1]` each."""
  origins, directions = (np.float64(x) for x in rays_[:2])
  speed = np.linalg.norm(directions, axis=-1, keepdims=True)
  return speed, np.sum(origins * directions, axis=-1, keepdims=True) / speed


def to_s(rays_, t):
  """Returns the contracted signed distances `[R, S]` of positions."""
  speed, offset = offsets(rays_)
  x = offset + speed * np.float64(t)
  far = np.sign(x) * (2 - 1 / np.maximum(np.abs(x), 1))
  return np.where(np.abs(x) < 1, x, far)


def to_t(rays_, s):
  """Returns the positions `[R, S]` of contracted signed distances."""
  speed, offset = offsets(rays_)
  far = np.sign(s) / np.maximum(2 - np.abs(s), 1e-9)
  return (np.where(np.abs(s) < 1, s, far) - offset) / speed


def composite(field_, rays_, t):
  """Composites a field at positions `[R, S]`, as the paper does."""
  t = jnp.asarray(t, jnp.float32)
  points = rays_.origins[:, None] + t[..., None] * rays_.directions[:, None]
  density, rgb = field_.apply(
    field_.init(None, None, None), points, rays_.viewdirs[:, None]
  )
  density /= np.maximum(1, np.sum(np.square(points), axis=-1))
  return volume.composite(
    rgb,
    density,
    t,
    rays_.directions,
    near=rays_.near,
    far=rays_.far,
    background=backgrounds.WHITE,
  )


def distortion(weights, s, end, near, far):
  """Computes equation 15 of mip-NeRF 360 of one ray, pair by pair."""
  s, end = (s - near) / (far - near), (end - near) / (far - near)
  total = np.sum(weights**2 * (end - s)) / 3
  for i in range(len(s)):
    total += weights[i] * np.sum(weights * np.abs(s - s[i]))
  return total
