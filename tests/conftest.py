"""Four virtual devices, and errors where JAX would only warn.

What one test compiles is kept for the others, and for the next time.
"""

import tempfile

import chex
import jax
from absl import flags

from experiments import process

# `create_tempdir` of absl's test cases asks for a flag.
flags.FLAGS.mark_as_parsed()
# Results are compared exactly, and devices are four: on the CPU everywhere.
jax.config.update('jax_platforms', 'cpu')
chex.set_n_cpu_devices(4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
process.keep_compiled(f'{tempfile.gettempdir()}/nerf_haiku_tests')
