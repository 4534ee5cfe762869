"""One line for a device whose memory is not enough."""

from typing import Any

import jax
import ml_collections

from nerf_haiku import devices, errors

_MARK = 'RESOURCE_EXHAUSTED'
_SHARE = 0.9  # Of a device's memory that a step may take.


def is_out_of_memory(error: Exception) -> bool:
  """Returns whether an error of jax says that memory is exhausted."""
  return _MARK in str(error)


def explain(
  config: ml_collections.ConfigDict, analysis: Any
) -> errors.UserError:
  """Returns an error that names the field to lower, and a value that fits.

  Args:
    config: of the run.
    analysis: `memory_analysis()` of the compiled update; None: not known.
  """
  if config.renderer == 'occupancy':
    name, now = 'occupancy.max_samples', config.occupancy.max_samples
  else:
    name = 'microbatch'
    now = config.microbatch or -(-config.num_rand // jax.device_count())
  memory, kind = devices.memory(), jax.local_devices()[0].device_kind
  share, text = 0.5, ''
  if analysis is not None and analysis.temp_size_in_bytes and memory:
    needed = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    text = f' A step needs {needed / 1e9:.2g} of {memory.limit / 1e9:.2g} GB.'
    free = _SHARE * memory.limit - analysis.argument_size_in_bytes
    share = min(max(free / analysis.temp_size_in_bytes, 0.0), share)
  value = 1 << (max(1, int(now * share)).bit_length() - 1)
  return errors.UserError(
    f'The memory of {kind} is not enough.{text} Use '
    f'--config.{name}={value} (now {now}): it changes no result, and the run '
    'resumes from its last checkpoint.'
  )
