"""Models of known renderings: that of `reference/model.npz`, and haze."""

import functools

import haiku as hk
import jax.numpy as jnp
import numpy as np

from nerf_haiku import backgrounds, cameras, encodings, fields
from nerf_haiku.renderers import base, hierarchical

# Our names of layers, and those of the reference.
_NAMES = {f'layer_{i}': f'trunk{i}' for i in range(8)} | {
  'density': 'sigma',
  'bottleneck': 'bottleneck',
  'view': 'view',
  'rgb': 'rgb',
}


def renderer() -> hierarchical.HierarchicalRenderer:
  """Its renderer: nothing is random."""
  field = fields.make_mlp(
    encode_position=functools.partial(encodings.positional, num_octaves=10),
    encode_direction=functools.partial(encodings.positional, num_octaves=4),
    net_depth=8,
    net_width=64,
    skips=(4,),
    use_viewdirs=True,
  )
  return hierarchical.make_hierarchical(
    field,
    field,
    num_samples=32,
    num_importance=32,
    perturb=False,
    lindisp=False,
    raw_noise_std=0.0,
    density_activation='relu',
    infinite_end=True,
    background=backgrounds.WHITE,
  )


def params(reference: dict[str, np.ndarray]) -> base.Params:
  """Its weights."""
  return {
    network: {
      f'mlp/{ours}': {
        x: jnp.asarray(reference[f'{network}_{theirs}_{x}']) for x in 'wb'
      }
      for ours, theirs in _NAMES.items()
    }
    for network in ('coarse', 'fine')
  }


def rays(reference: dict[str, np.ndarray], step: int) -> cameras.Rays:
  """The rays of a step."""
  origins = jnp.asarray(reference['batch_origins'][step])
  directions = jnp.asarray(reference['batch_directions'][step])
  viewdirs = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
  near, far = (
    jnp.full((len(origins), 1), float(reference[x])) for x in ('near', 'far')
  )
  return cameras.Rays(origins, directions, viewdirs, near, far)


def haze(density, color):
  """A field of one density and color everywhere, without parameters."""

  def apply(params, points, viewdirs):
    del params, viewdirs
    shape = points.shape[:-1]
    return jnp.full(shape, density), jnp.broadcast_to(color, (*shape, 3))

  return hk.Transformed(lambda *_: {}, apply)
