"""Four virtual devices, and errors where JAX would only warn."""

import chex
import jax

chex.set_n_cpu_devices(4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
