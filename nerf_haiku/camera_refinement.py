"""Corrections of the training cameras, learned beside the field.

A camera is turned, moved and, where requested, has its focal length scaled. A
camera's numbers are correlated, and of different units; the parameters are
therefore preconditioned as in Park et al., *CamP: Camera Preconditioning for
Neural Radiance Fields*, 2023 (section 4): one unit of any of them moves what
the camera sees by about a radian, whatever the scene's units.
"""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, cameras, poses

NAME = 'cameras'  # Of these parameters among those of a run.
_MODULE = 'corrections'

# Weight of the diagonal beside the correlations (the lambda of CamP): it damps
# what a photograph hardly determines, such as a turn that a move undoes.
_DAMPING = 0.1
# A camera is sampled at this many positions along each side of its image, and
# at these depths, in typical ones.
_NUM_POSITIONS = 4
_DEPTHS = (0.5, 1.0, 2.0)
# Squared angles below this have the series of their sine and cosine.
_TINY = 1e-8
# Least singular value of what is one direction more, of unit vectors.
_MIN_INDEPENDENT = 1e-4


def init(num_cameras: int, *, focal: bool) -> hk.Params:
  """Returns parameters that correct nothing; `focal` for focal lengths too."""
  size = 7 if focal else 6
  return {_MODULE: {'preconditioned': jnp.zeros((num_cameras, size))}}


def rotations(vectors: jax.Array) -> jax.Array:
  """Returns the turns `[N, 3, 3]` about vectors `[N, 3]` by their lengths.

  The exponential map of so(3), Rodrigues' formula. At 0 it is exactly the
  identity, and differentiable.
  """
  square = jnp.sum(vectors**2, axis=-1)[:, None, None]
  is_tiny = square < _TINY
  angle = jnp.sqrt(jnp.where(is_tiny, 1.0, square))
  sine = jnp.where(is_tiny, 1.0 - square / 6.0, jnp.sin(angle) / angle)
  half = jnp.sin(angle / 2.0) / angle
  cosine = jnp.where(is_tiny, 0.5 - square / 24.0, 2.0 * half**2)
  x, y, z = vectors.T
  zero = jnp.zeros_like(x)
  cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
  cross = cross.reshape(-1, 3, 3)
  twice = jnp.matmul(cross, cross, precision='highest')
  return jnp.eye(3)[None] + sine * cross + cosine * twice


def correct(
  cams: cameras.Cameras, preconditioners: arrays.Array, params: hk.Params
) -> cameras.Cameras:
  """Returns corrected cameras; gradients flow to the parameters.

  Args:
    cams: `N` cameras, those of the scene or as `similarity.move_cameras`
      returns them: their corrections are the same.
    preconditioners: `[N, K, K]` of them, see `make_preconditioners`.
    params: as from `init`.

  Returns:
    The cameras. Parameters of 0 leave each number of a camera as it is.
  """
  scaled = params[_MODULE]['preconditioned']
  count, size = scaled.shape
  pose = jnp.asarray(cams.camera_to_world)
  chex.assert_shape(
    [pose, preconditioners], [(count, 3, 4), (count, size, size)]
  )
  numbers = _transform(jnp.asarray(preconditioners), scaled)
  axes, centers = pose[:, :, :3], pose[:, :, 3]
  lengths = jnp.linalg.norm(axes, axis=1, keepdims=True)
  turns = _transform(axes / lengths, numbers[:, :3])
  moves = _transform(axes, numbers[:, 3:6])
  turned = jnp.matmul(rotations(turns), axes, precision='highest')
  moved = (centers + moves)[..., None]
  cams = cams._replace(
    camera_to_world=jnp.concatenate([turned, moved], axis=-1)
  )
  if size == 6:
    return cams
  focal, center = jnp.split(jnp.asarray(cams.intrinsics), 2, axis=-1)
  focal *= jnp.exp(numbers[:, 6:])
  return cams._replace(intrinsics=jnp.concatenate([focal, center], axis=-1))


def _transform(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
  """Returns products `[N, I]` of `[N, I, J]` and `[N, J]`."""
  return jnp.einsum('nij,nj->ni', matrices, vectors, precision='highest')


def make_gauge(
  cams: cameras.Cameras, preconditioners: np.ndarray
) -> np.ndarray:
  """Computes which corrections turn, move or scale the whole scene.

  Photographs do not determine them: the field may move with its cameras.

  Args:
    cams: `N` cameras.
    preconditioners: `[N, K, K]` of them.

  Returns:
    `[N * K, G]` float32, the orthonormal basis of such parameters; `G` is 7,
    or less for few cameras.
  """
  pose = np.asarray(cams.camera_to_world, np.float64)
  count, size, _ = preconditioners.shape
  axes, offsets = pose[:, :, :3], pose[:, :, 3] - pose[:, :, 3].mean(axis=0)
  # Of the world; in a row each turn, move and scale.
  turns, moves = np.zeros((2, count, 7, 3))
  turns[:, :3] = np.eye(3)
  moves[:, :3] = np.cross(np.eye(3)[None], offsets[:, None])
  moves[:, 3:6] = np.eye(3)
  moves[:, 6] = offsets
  numbers = np.zeros((count, size, 7))
  numbers[:, :3] = np.einsum('nji,ngj->nig', axes, turns)
  numbers[:, 3:6] = np.einsum('nji,ngj->nig', axes, moves)
  changes = np.linalg.solve(np.float64(preconditioners), numbers)
  changes = changes.reshape(count * size, 7)
  changes /= np.maximum(np.linalg.norm(changes, axis=0), 1e-30)
  basis, values, _ = np.linalg.svd(changes, full_matrices=False)
  return basis[:, values > _MIN_INDEPENDENT].astype(np.float32)


def fix_gauge(params: hk.Params, gauge: arrays.Array) -> hk.Params:
  """Returns parameters without what turns, moves or scales the whole scene.

  Of all corrections that photographs cannot tell apart, it is that which moves
  the images least; parameters of 0 stay as they are.

  Args:
    params: as from `init`.
    gauge: see `make_gauge`.
  """
  scaled = params[_MODULE]['preconditioned']
  flat = scaled.reshape(-1)
  common = jnp.matmul(flat, gauge, precision='highest')
  flat -= jnp.matmul(jnp.asarray(gauge), common, precision='highest')
  return {_MODULE: {'preconditioned': flat.reshape(scaled.shape)}}


def typical_depths(
  cams: cameras.Cameras, near: float, far: float
) -> np.ndarray:
  """Returns how far away is what `N` cameras look at, `[N]` scene units.

  It is the point that they all look at, or, where there is none, the geometric
  mean of `near` and `far`; never outside of these.
  """
  target = poses.find_target(np.asarray(cams.camera_to_world))
  depths = np.full(len(cams.sizes), np.sqrt(near * far))
  if target is not None:
    depths = target.depths
  clipped: np.ndarray = np.clip(depths, near, far)
  return clipped


def make_preconditioners(
  cams: cameras.Cameras, depths: np.ndarray, *, focal: bool
) -> np.ndarray:
  """Computes the factors of corrections (CamP, equation 9).

  With `J` the derivatives of projected points with respect to the numbers of a
  camera, and `D` the diagonal of `J^T J`, CamP's factor is a root of
  `(J^T J + damping * D)^-1`. This root, `D^-1/2 (C + damping * I)^-1/2` with
  the correlations `C`, is the same in all units of the scene.

  Args:
    cams: `N` cameras.
    depths: `[N]` typical depths, over 0.
    focal: whether focal lengths are corrected.

  Returns:
    `[N, K, K]` float32. The `K` numbers are a turn about the camera's axes,
    radians; a move along them, scene units; and with `focal` the logarithm of
    the factor of the focal length.
  """
  derivatives = _derivatives(cams, depths)[..., : 7 if focal else 6]
  products = np.einsum('npi,npj->nij', derivatives, derivatives)
  products /= derivatives.shape[1] / 2  # A point has two coordinates.
  root = np.sqrt(np.einsum('nii->ni', products))
  correlations = products / (root[:, :, None] * root[:, None])
  values, vectors = np.linalg.eigh(
    correlations + _DAMPING * np.eye(products.shape[1])
  )
  inverse = np.einsum('nij,nj,nkj->nik', vectors, values**-0.5, vectors)
  factors: np.ndarray = inverse / root[:, :, None]
  return factors.astype(np.float32)


def _derivatives(cams: cameras.Cameras, depths: np.ndarray) -> np.ndarray:
  """Returns the derivatives `[N, P, 7]` of positions at depth 1, x and y."""
  place = (np.arange(_NUM_POSITIONS) + 0.5) / _NUM_POSITIONS
  grid = np.stack(np.meshgrid(place, place, indexing='ij'), -1).reshape(-1, 2)
  count = len(depths)
  positions = np.asarray(cams.sizes)[:, None] * grid[None]
  camera = np.repeat(np.arange(count), len(grid))
  plane = cameras.image_plane(cams, camera, positions.reshape(-1, 2))
  plane = plane.reshape(count, 1, -1, 3)
  depth = depths[:, None, None] * np.reshape(_DEPTHS, (1, -1, 1))
  plane, depth = np.broadcast_arrays(plane, depth[..., None])
  u, v, inverse = plane[..., 0], plane[..., 1], 1.0 / depth[..., 0]
  zero, one = np.zeros_like(u), np.ones_like(u)
  # Of a point (u, v, -1) * depth that turns by -r and moves by -m.
  x = [-u * v, one + u * u, v, -inverse, zero, -u * inverse, u]
  y = [-one - v * v, u * v, -u, zero, -inverse, -v * inverse, v]
  stacked = np.stack([np.stack(x, -1), np.stack(y, -1)], axis=-2)
  return stacked.reshape(count, -1, 7)
