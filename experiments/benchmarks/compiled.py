"""What XLA makes of the training step for a GPU, on a machine without one.

    version=$(python -c 'import jax; print(jax.__version__)')
    pip install --no-deps --target=plugin \
        jax-cuda13-plugin==$version jax-cuda13-pjrt==$version
    PYTHONPATH=plugin python experiments/benchmarks/compiled.py

jax's CUDA plugin compiles for a device that is described, and not there.
Nothing runs, and kernels are not tuned: there are no times, but what costs time
can be counted. For each step the kernels that it launches; the loops and
conditionals whose end the host has to wait for; the memory it works in; the
bytes that its kernels read and write, at most; and atomic additions, native
ones and loops of compare-and-swap (`--atomics`: it takes minutes).
"""

import collections
import contextlib
import functools
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import (
  Mesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

# The checkout: nothing needs `experiments` to be installed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.benchmarks import machine
from experiments.builders import experiment as experiment_lib
from experiments.builders import inputs
from experiments.configs import fast_blender_lego_half, paper_blender_lego
from experiments.processes import environment
from nerf_haiku import devices, hash_grid, training

_WHAT = flags.DEFINE_list(
  'what', ['grid', 'fast', 'paper'], 'What is compiled: grid, fast, paper.'
)
_DTYPES = flags.DEFINE_list(
  'dtypes', ['float32'], 'Data types of the networks.'
)
_MICROBATCH = flags.DEFINE_list(
  'microbatches', ['0'], "Rays of a piece of the paper's step."
)
_NUM_SAMPLES = flags.DEFINE_integer(
  'fast_samples', 2**18, 'Most samples of the fast step.'
)
_NUM_RAND = flags.DEFINE_integer('fast_rays', 2**15, 'Rays of the fast step.')
_NUM_STEPS = flags.DEFINE_integer('steps_of_a_call', 16, 'Steps of a call.')
_ATOMICS = flags.DEFINE_boolean(
  'atomics', False, 'Whether atomic additions are counted.'
)
_KERNELS = flags.DEFINE_boolean(
  'kernels', False, 'Whether kernels are listed by their kind and origin.'
)

# What jax's compiler has to know of an NVIDIA H100 with 80 GB.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" device_address_bits: 64
  name: "NVIDIA H100 80GB HBM3" driver_version: "13.0.0"
  runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
  's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8,
}  # fmt: skip
# Instructions of a compiled program that launch nothing.
_NO_KERNEL = frozenset(
  ('parameter', 'get-tuple-element', 'tuple', 'constant', 'bitcast')
)
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(
  r'\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(,|$)'
)
_PRINTED = 40  # Kinds of kernels.


class Instruction(NamedTuple):
  """An instruction that takes time."""

  kind: str
  num_bytes: int  # of its operands and its result.
  calls: tuple[str, ...]  # the computations of a loop or conditional.
  trips: int | None  # of a loop, where it is known.
  origin: str


class Count(NamedTuple):
  """What a program does once."""

  kernels: int
  num_bytes: int
  waits: int  # loops and conditionals whose end the host waits for.
  rare: int  # kernels in these, of one turn each.

  def plus(self, other: 'Count', times: int = 1) -> 'Count':
    """Returns the sum with another that is done some times."""
    return Count(*(x + times * y for x, y in zip(self, other, strict=True)))


def gpu() -> Any:
  """Returns an H100 that is not there."""
  return topologies.get_topology_desc(
    platform='cuda', topology_name='', target_config=_H100, topology='1x1x1'
  ).devices[0]


def parse(text: str) -> dict[str, list[Instruction]]:
  """Reads a compiled program: the instructions of each computation.

  The first computation that runs is called 'ENTRY'.
  """
  found: dict[str, list[Instruction]] = {}
  shapes: dict[str, str] = {}
  rows: list[Instruction] | None = None
  for line in text.splitlines():
    head = _COMPUTATION.match(line)
    if head:
      rows, shapes = [], {}
      found['ENTRY' if head[1] else head[2]] = rows
    elif line.startswith('}'):
      rows = None
    elif rows is not None and (match := _INSTRUCTION.match(line)):
      name, shape, operation, operands = match.group(1, 2, 3, 4)
      shapes[name] = shape
      if operation not in _NO_KERNEL:
        read = [shapes.get(x.strip(' %'), '') for x in operands.split(',')]
        rows.append(_instruction(operation, line, [shape, *read]))
  return found


def _instruction(operation: str, line: str, shapes: list[str]) -> Instruction:
  kind, calls, trips = operation, (), None
  if operation == 'fusion':
    kind = _first(r'"kind":"(\w+)"', line) or _first(r'kind=(\w+)', line)
  elif operation == 'custom-call':
    kind = _first(r'custom_call_target="([^"]+)"', line)
  elif operation in ('while', 'conditional'):
    shapes = []
    named = re.findall(
      r'(?:body|true_computation|false_computation)=%?([\w.\-]+)', line
    )
    branches = _first(r'branch_computations=\{([^}]*)\}', line)
    named += [x.strip(' %') for x in branches.split(',') if x.strip()]
    calls = tuple(named)
    known = _first(r'known_trip_count":\{"n":"(\d+)"', line)
    trips = int(known) if known else None
  return Instruction(
    kind,
    sum(map(_size, shapes)),
    calls,
    trips,
    _first(r'op_name="([^"]*)"', line),
  )


def _first(pattern: str, line: str) -> str:
  match = re.search(pattern, line)
  return match[1] if match else ''


def _size(shape: str) -> int:
  return sum(
    _BYTES.get(dtype, 0) * int(np.prod([int(x) for x in sides.split(',') if x]))
    for dtype, sides in re.findall(r'(\w+)\[([\d,]*)\]', shape)
  )


def count(program: dict[str, list[Instruction]], name: str = 'ENTRY') -> Count:
  """Counts what a computation does, in the usual case.

  Loops of unknown length are taken as not entered, see `Count.rare`.
  """
  total = Count(0, 0, 0, 0)
  for row in program[name]:
    inner = Count(0, 0, 0, 0)
    for called in row.calls:
      inner = inner.plus(count(program, called))
    if row.kind == 'while' and row.trips is not None:
      total = total.plus(inner, row.trips)
    elif row.calls:
      total = total.plus(
        Count(0, 0, 1 + inner.waits, inner.kernels + inner.rare)
      )
    else:
      total = total.plus(Count(1, row.num_bytes, 0, 0))
  return total


def find_step(program: dict[str, list[Instruction]], num_steps: int) -> str:
  """Returns the computation of one step: the body of a loop over steps."""
  if num_steps == 1:
    return 'ENTRY'
  bodies = [
    row.calls[0]
    for rows in program.values()
    for row in rows
    if row.kind == 'while' and row.trips == num_steps
  ]
  return max(bodies, key=lambda name: count(program, name).kernels)


@contextlib.contextmanager
def _computing_on_gpu() -> Iterator[Mesh]:
  """Makes `jax.pmap` compile for one GPU that is not there."""
  mesh = Mesh(np.array([gpu()]), (training.AXIS,))
  along, everywhere = PartitionSpec(training.AXIS), PartitionSpec()

  def pmap(update: Any = None, *axis: str, **unused: Any) -> Any:
    if update is None:  # As a decorator: of what renders, not compiled here.
      return lambda render: render
    del axis, unused

    def one(state: Any, data: Any, key: jax.Array) -> Any:
      state, data = jax.tree.map(lambda x: x[0], (state, data))
      state, scalars = update(state, data, key)
      return jax.tree.map(lambda x: x[None], state), scalars

    mapped = jax.shard_map(
      one,
      mesh=mesh,
      in_specs=(along, along, everywhere),
      out_specs=(along, everywhere),
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)

  with (
    mock.patch.object(jax, 'pmap', pmap),
    mock.patch.object(devices, 'are_cpus', return_value=False),
  ):
    yield mesh


def compile_update(config: Any, size: int, num_steps: int) -> Any:
  """Compiles the update of a config, for images of a size, with a GPU."""
  scene = machine.make_scene(size)
  if config.box:
    scene = scene._replace(box=np.reshape(np.float32(config.box), (2, 3)))
  with _computing_on_gpu() as mesh:
    experiment = experiment_lib.make_experiment(
      config, scene, drawn_on=inputs.DEVICE
    )
    update: Any = experiment.make_update(num_steps)
    data = experiment.inputs.shapes()

    def place(spec: PartitionSpec, shape: Any) -> Any:
      lead = (1,) if spec else ()
      return jax.ShapeDtypeStruct(
        (*lead, *shape.shape), shape.dtype, sharding=NamedSharding(mesh, spec)
      )

    along = functools.partial(place, PartitionSpec(training.AXIS))
    state = jax.tree.map(along, experiment.state_shapes())
    data = jax.tree.map(
      lambda x: along(jax.ShapeDtypeStruct(x.shape[1:], x.dtype)), data
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return update.lower(state, data, place(PartitionSpec(), key)).compile()


def compile_grid(num_points: int, *, gradient: bool) -> Any:
  """Compiles a hash grid of 8 levels of 2 features, or its gradient."""
  levels = hash_grid.grid_levels(
    num_levels=8, base_resolution=16, max_resolution=512, hashmap_size=2**17
  )

  def interpolate(tables: list[jax.Array], points: jax.Array) -> jax.Array:
    return hash_grid.interpolate(tables, points, levels)

  def pull_back(
    tables: list[jax.Array], points: jax.Array, of_features: jax.Array
  ) -> Any:
    _, pull = jax.vjp(lambda x: interpolate(x, points), tables)
    return pull(of_features)

  place = SingleDeviceSharding(gpu())

  def shape(*sides: int) -> Any:
    return jax.ShapeDtypeStruct(sides, jnp.float32, sharding=place)

  tables = [shape(levels.num_rows())] * 2
  points = shape(3, num_points)
  if not gradient:
    return jax.jit(interpolate).lower(tables, points).compile()
  of_features = shape(16, num_points)
  return jax.jit(pull_back).lower(tables, points, of_features).compile()


def _settings() -> Iterator[tuple[str, Callable[[], Any], int]]:
  """Yields names, what compiles, and the steps of a call."""
  if 'grid' in _WHAT.value:
    for gradient in (False, True):
      yield (
        f'hash grid, {"gradient" if gradient else "forward"}',
        functools.partial(compile_grid, _NUM_SAMPLES.value, gradient=gradient),
        1,
      )
  for dtype in _DTYPES.value:
    if 'fast' in _WHAT.value:
      config = fast_blender_lego_half.get_config()
      config.num_rand, config.dtype = _NUM_RAND.value, dtype
      config.occupancy.max_samples = _NUM_SAMPLES.value
      num_steps = _NUM_STEPS.value
      yield (
        f'fast, {_NUM_SAMPLES.value} samples, {dtype}',
        functools.partial(compile_update, config, 400, num_steps),
        num_steps,
      )
    for microbatch in _MICROBATCH.value if 'paper' in _WHAT.value else ():
      config = paper_blender_lego.get_config()
      config.microbatch, config.dtype = int(microbatch), dtype
      yield (
        f'paper, {config.num_rand} rays, microbatch {microbatch}, {dtype}',
        functools.partial(compile_update, config, 800, _NUM_STEPS.value),
        _NUM_STEPS.value,
      )


def _count_atomics(folder: str) -> str:
  """Counts and removes the atomics of what was compiled last."""
  found: collections.Counter[str] = collections.Counter()
  for path in pathlib.Path(folder).glob('*.ptx'):
    names = re.findall(r'(?<![a-z.])(?:atom|red)\.[a-z0-9.]+', path.read_text())
    found.update('cas' if '.cas' in name else 'native' for name in names)
    path.unlink()
  return f'{found["native"]} + {found["cas"]}'


def _print_kernels(program: dict[str, list[Instruction]], name: str) -> None:
  kinds: collections.Counter[tuple[str, str]] = collections.Counter()
  for row in program[name]:
    kinds[row.kind, '/'.join(row.origin.split('/')[-3:])[-70:]] += 1
  for (kind, origin), number in kinds.most_common(_PRINTED):
    print(f'  {number:4} {kind:24} {origin}')


def main(argv: list[str]) -> None:
  """Compiles, counts and prints the table."""
  del argv
  environment.mend_atomics()
  dump = tempfile.mkdtemp()
  xla = '--xla_gpu_autotune_level=0'
  if _ATOMICS.value:
    xla += f' --xla_dump_to={dump} --xla_dump_emitter_re=.*'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {xla}'
  environment.quiet_libraries()
  rows = []
  for name, compile_, num_steps in _settings():
    compiled = compile_()
    program = parse(compiled.as_text())
    step = find_step(program, num_steps)
    counted, memory = count(program, step), compiled.memory_analysis()
    whole = count(program)
    rows.append(
      [
        name,
        str(counted.kernels),
        str(counted.waits),
        str(counted.rare),
        str(whole.waits - num_steps * counted.waits) if num_steps > 1 else '-',
        f'{counted.num_bytes / 1e9:.2f}',
        f'{memory.temp_size_in_bytes / 1e6:.0f}',
        _count_atomics(dump) if _ATOMICS.value else '-',
      ]
    )
    if _KERNELS.value:
      print(name)
      _print_kernels(program, step)
  print(
    f'jax {jax.__version__}, for one {gpu().device_kind} that is not there; '
    f'{_NUM_STEPS.value} steps a call.'
  )
  machine.print_table(
    (
      'what',
      'kernels',
      'waits',
      'kernels in these',
      'waits between steps',
      'GB moved, at most',
      'works in, MB',
      'atomics + loops',
    ),
    rows,
  )


if __name__ == '__main__':
  app.run(main)
