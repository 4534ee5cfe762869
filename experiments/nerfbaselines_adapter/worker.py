"""Answers the calls of `bridge.Method`, in the environment of nerf_haiku."""

import os
import pathlib
import sys
import traceback
from typing import Any

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.nerfbaselines_adapter import messages, method
from experiments.processes import environment
from nerf_haiku import errors


def main() -> None:
  """Reads calls from the standard input, and answers until it ends."""
  answers = os.fdopen(os.dup(sys.stdout.fileno()), 'wb')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Whatever is printed.
  environment.quiet_libraries()
  environment.set_compilation_cache(environment.default_cache())
  current: method.Method | None = None
  answer: dict[str, Any]
  results: dict[str, Any]
  while True:
    try:
      values, arrays = messages.read(sys.stdin.buffer)
    except EOFError:
      return
    call = values.pop('call')
    try:
      if call == 'open':
        current = method.open_method(values, arrays)
        answer, results = {}, {}
      else:
        assert current is not None
        answer, results = method.answer(current, call, values, arrays)
    except errors.UserError as error:
      answer, results = {'error': str(error)}, {}
    except Exception:
      answer, results = {'error': traceback.format_exc()}, {}
    messages.write(answers, answer, results)


if __name__ == '__main__':
  main()
