"""The types of arrays in annotations."""

import jax
import numpy as np

# An array of the host or of a device, where a function takes either.
Array = jax.Array | np.ndarray
