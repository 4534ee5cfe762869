"""Facts of compiled programs: by hand, and what must not rise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import pytest

from experiments.benchmarks import compiled
from experiments.processes import environment

_ROOT = Path(__file__).parents[3]

# A loop of three turns with two kernels each, one of them in a loop of unknown
# length; and a conditional.
_PROGRAM = """
HloModule made_up

%fused (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4] parameter(0)
  ROOT %negate = f32[8,4] negate(%p)
}

%rare (r: (f32[8,4])) -> (f32[8,4]) {
  %r = (f32[8,4]) parameter(0)
  %x = f32[8,4] get-tuple-element(%r), index=0
  %a = f32[8,4] fusion(%x), kind=kInput, calls=%fused
  %b = f32[8,4] fusion(%a), kind=kLoop, calls=%fused
  ROOT %t = (f32[8,4]) tuple(%b)
}

%step (s: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %s = (s32[], f32[8,4]) parameter(0)
  %x.1 = f32[8,4] get-tuple-element(%s), index=1
  %y = f32[8,4] fusion(%x.1), kind=kLoop, calls=%fused
  %product = (f32[8,8], s8[16]) custom-call(%y, %y), custom_call_target="gemm"
  %w = (f32[8,4]) while(%v), condition=%c, body=%rare
  ROOT %t.1 = (s32[], f32[8,4]) tuple(%i, %y)
}

ENTRY %main (p.1: bf16[100]) -> bf16[100] {
  %p.1 = bf16[100] parameter(0)
  %copy.1 = bf16[100] copy(%p.1)
  %l = (s32[], f32[8,4]) while(%u), body=%step, C={"known_trip_count":{"n":"3"}}
  %q = f32[8,4] conditional(%i), branch_computations={%rare, %fused}
  ROOT %out = bf16[100] bitcast(%copy.1)
}
"""


class CountTest(chex.TestCase):
  def test_kernels_bytes_and_waits(self):
    program = compiled.parse(_PROGRAM)
    matrix = 8 * 4 * 4
    product = 8 * 8 * 4 + 16 + 2 * matrix
    self.assertEqual(
      compiled.count(program, 'step'),
      compiled.Count(2, 2 * matrix + product, waits=1, rare=2),
    )
    # Of the conditional, whose branches have two kernels and one.
    self.assertEqual(
      compiled.count(program),
      compiled.Count(
        1 + 3 * 2,
        2 * 200 + 3 * (2 * matrix + product),
        waits=3 + 1,
        rare=3 * 2 + 3,
      ),
    )

  def test_a_step_is_the_loop_of_so_many_turns(self):
    program = compiled.parse(_PROGRAM)
    self.assertEqual(compiled.find_step(program, 3), 'step')
    self.assertEqual(compiled.find_step(program, 1), 'ENTRY')


@pytest.mark.slow
@pytest.mark.skipif(
  environment.cuda_plugin() is None,
  reason="jax's CUDA plugin is not installed, see benchmarks/compiled.py.",
)
class CompiledTest(chex.TestCase):
  def test_what_must_not_rise(self):
    done = subprocess.run(
      [sys.executable, 'experiments/benchmarks/compiled.py', '--atomics'],
      cwd=_ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
      capture_output=True,
      text=True,
      check=True,
    )
    rows = [
      [x.strip() for x in line.split('|')[1:-1]]
      for line in done.stdout.splitlines()
      if re.match(r'\| (hash|fast|paper)', line)
    ]
    self.assertLen(rows, 4)
    forward, gradient, fast, paper = rows
    self.assertLessEqual(int(forward[1]), 4)
    # One looks for points without a gradient: on an H100 the step takes 3.8
    # instead of 14 ms for it.
    self.assertLessEqual(int(gradient[1]), 7)
    self.assertLessEqual(int(fast[1]), 180)
    self.assertLessEqual(int(fast[2]), 2)
    self.assertEqual(paper[2], '0')
    self.assertLessEqual(float(paper[5]), 26.0)
    for row in rows:
      self.assertEqual(row[7].split(' + ')[1], '0', row)  # Compare and swap.
