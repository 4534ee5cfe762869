"""Writes models of COLMAP, by the definition of their binary files."""

import struct

POSE = (1.0, 0.0, 0.0, 0.0, 0.5, 0.25, 2.0)


def records(*contents, count=None):
  """A file of some records, which may declare another number of them."""
  count = len(contents) if count is None else count
  return struct.pack('<Q', count) + b''.join(contents)


def camera(
  number=1, model=1, width=64, height=48, params=(50.0, 51.0, 31.0, 23.0)
):
  head = struct.pack('<IiQQ', number, model, width, height)
  return head + struct.pack(f'<{len(params)}d', *params)


def image(number=1, pose=POSE, camera=1, name=b'a.png', num_points=2):
  head = struct.pack('<I7dI', number, *pose, camera) + name + b'\0'
  observation = struct.pack('<ddQ', 3.0, 4.0, 2**64 - 1)
  return head + struct.pack('<Q', num_points) + num_points * observation


def point(number=1, position=(1.0, 2.0, 3.0), length=2):
  head = struct.pack('<Q3d3BdQ', number, *position, 9, 8, 7, 0.5, length)
  return head + length * struct.pack('<II', 1, 0)


def write(folder, cameras=(), images=(), points=()):
  """Writes a model; without arguments, of one camera, image and point."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, contents in (
    ('cameras.bin', cameras or [camera()]),
    ('images.bin', images or [image()]),
    ('points3D.bin', points or [point()]),
  ):
    (folder / name).write_bytes(records(*contents))
