"""Exposure and white balance of photographs: an affine map of color for each.

A camera in automatic mode exposes each photograph in its own way. A training
photograph is therefore compared with `matrix @ rgb + offset` of the color that
the field has, as in Rematas et al., *Urban Radiance Fields*, 2022, equation 5.
The maps of all photographs have the identity as their mean, so that a view
that is rendered without one looks like an average photograph.
"""

from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nerf_haiku import arrays, backgrounds

NAME = 'exposure'  # Of these parameters among those of a run.
_MODULE = 'affine'


class ColorMaps(NamedTuple):
  """The maps `matrix @ rgb + offset` of `N` photographs."""

  matrix: arrays.Array  # [N, 3, 3]
  offset: arrays.Array  # [N, 3]


def init(num_images: int) -> hk.Params:
  """Returns the parameters of `num_images` maps, all the identity."""
  return {
    _MODULE: {
      'matrix': jnp.zeros((num_images, 3, 3)),
      'offset': jnp.zeros((num_images, 3)),
    }
  }


def color_maps(params: hk.Params) -> ColorMaps:
  """Returns the maps of `N` photographs; their mean is the identity."""
  matrix, offset = params[_MODULE]['matrix'], params[_MODULE]['offset']
  return ColorMaps(
    matrix=jnp.eye(3)[None] + matrix - jnp.mean(matrix, axis=0, keepdims=True),
    offset=offset - jnp.mean(offset, axis=0, keepdims=True),
  )


def apply(
  maps: ColorMaps,
  image: jax.Array,
  rgb: jax.Array,
  opacity: jax.Array,
  *,
  background: backgrounds.Color,
) -> jax.Array:
  """Maps what a field renders; the background behind it stays as it is.

  Args:
    maps: of `N` photographs.
    image: `[R]` int32, the photograph of each ray.
    rgb: `[R, 3]` colors on the background.
    opacity: `[R]` in [0, 1].
    background: the color behind what the field renders.

  Returns:
    `[R, 3]` colors on the background, of any value.
  """
  chex.assert_rank([image, rgb, opacity], [1, 2, 1])
  behind = (1.0 - opacity[:, None]) * jnp.asarray(background)[None]
  mapped = jnp.einsum(
    'rij,rj->ri', maps.matrix[image], rgb - behind, precision='highest'
  )
  return mapped + opacity[:, None] * maps.offset[image] + behind


def fit(rgb: np.ndarray, truth: np.ndarray) -> ColorMaps:
  """Fits the map from colors `[P, 3]` to others by least squares.

  Returns:
    The one map, NumPy. Where colors do not determine it, as those of one
    color do not, it is the smallest.
  """
  columns = np.pad(np.float64(rgb), ((0, 0), (0, 1)), constant_values=1.0)
  solution = np.linalg.lstsq(columns, np.float64(truth), rcond=None)[0]
  return ColorMaps(matrix=solution[None, :3].mT, offset=solution[None, 3])
