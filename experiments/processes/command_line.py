"""What all programs do with flags, streams and the text of errors."""

import io
import itertools
import sys

from absl import flags

from nerf_haiku import errors

# What a user can fix: printed as one line. All else keeps its traceback.
USER_ERRORS = (errors.UserError, errors.WriteError)


def in_one_line(text: object) -> str:
  """Returns text as one line."""
  return '. '.join(line.strip() for line in str(text).splitlines() if line)


def make_outputs_safe() -> None:
  """Escapes what the encoding of a terminal, pipe or log cannot show."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      # By lines: also into a pipe or a log.
      stream.reconfigure(errors='backslashreplace', line_buffering=True)


def check_text_flags() -> None:
  """Checks that flags can be names of files.

  Raises:
    UserError: names a flag that holds a NUL character.
  """
  for name, value in flags.FLAGS.flag_values_dict().items():
    if isinstance(value, str) and '\0' in value:
      raise errors.UserError(
        f'--{name}: got {value!r}; must be without a NUL character.'
      )


def describe_unexpected(argument: str) -> str:
  """Returns an error for an argument that is neither a flag nor its value."""
  for before, after in itertools.pairwise(sys.argv):
    name = before.lstrip('-')
    is_boolean = name in flags.FLAGS and flags.FLAGS[name].boolean
    if after == argument and is_boolean:  # All others have their values there.
      return f'unexpected argument {argument!r}: write --{name}={argument}.'
  return f'unexpected argument {argument!r}: flags are written --NAME=VALUE.'
