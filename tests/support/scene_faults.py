"""Faults in the files of a scene, for tests with generated bad input.

Each function chooses a fault with hypothesis's `draw`, plants it below `root`,
and returns what a reader must do then: `SAME` (or None), refuse the scene or
load the original views; `OTHER`, refuse it or load what the files now hold;
`LOADS`, load the original views.
"""

import io
import json
import os
import pathlib
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable

import hypothesis
import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.support.bad_scenes import SHAPE

SAME, OTHER, LOADS = 'same', 'other', 'loads'
OUTSIDE = 'outside'  # A folder beside that of the scene.
_SUFFIXES = ('.png', '.json', '.txt', '.npy', '.npz', '.bin')
_NUMBERS = (
  '0',
  '-1',
  '1e-30',
  '-0.0',
  '1e6',
  '1e19',
  '3e38',
  '1e308',
  '1e400',
  'NaN',
  'Infinity',
  '-Infinity',
  '9' * 400,
  '9' * 5000,
  '0x10',
  '1_0',
  'null',
  'true',
  '"x"',
  '[]',
  '{}',
  '',
  '\N{ARABIC-INDIC DIGIT ONE}',
  '1,5',
)
_NAMES = (
  'ein Bild',
  'Зображення',
  '画像',
  'e\u0301',
  '\N{DIGIT FOUR}',
  'a\'b"c',
  'a\nb',
  '%s{0}',
  '-rf',
  'a' * 200,
  os.fsdecode(b'\xff\xfe'),
  '\u202egnp',
)
_FLOATS = (0.0, -1.0, 1e-30, 1e6, 1e19, 1e38, np.nan, np.inf, -np.inf)


def _choose(draw, options):
  options = list(options)
  return draw(st.sampled_from(options)) if options else hypothesis.reject()


def _files(root: pathlib.Path, suffixes=_SUFFIXES) -> list[pathlib.Path]:
  return sorted(
    x for x in root.rglob('*') if x.is_file() and x.suffix in suffixes
  )


def _any_file(draw, root, suffixes=_SUFFIXES):
  """Draws a file; each kind is equally likely, however many files it has."""
  files = _files(root, suffixes)
  suffix = _choose(draw, sorted({x.suffix for x in files}))
  return _choose(draw, [x for x in files if x.suffix == suffix])


def _image(draw, root):
  return _any_file(draw, root, ('.png',))


def drop(draw, root):
  path = _choose(draw, sorted(root.rglob('*')))
  if path.is_dir():
    path.rename(pathlib.Path(tempfile.mkdtemp(dir=root.parent)) / 'dropped')
  else:
    path.unlink()


def truncate(draw, root):
  path = _any_file(draw, root)
  os.truncate(path, draw(st.integers(0, path.stat().st_size - 1)))
  return OTHER if path.suffix == '.txt' else SAME


def make_huge(draw, root):
  path = _any_file(draw, root)
  os.truncate(path, _choose(draw, (1 << 30, 1 << 40)))  # Sparse.


def replace_by_other(draw, root):
  path = _any_file(draw, root)
  kind = _choose(
    draw,
    (
      'folder',
      'text',
      'utf-16',
      'zip',
      'pipe',
      'postscript',
      'svg',
      'nothing',
      'deep',
      'another',
    ),
  )
  others = [x for x in _files(root) if x.suffix != path.suffix]
  other = others[0].read_bytes() if others else b'\0'
  was = path.read_bytes()
  path.unlink()
  if kind == 'folder':
    path.mkdir()
  elif kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'zip':
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('../../evil.npy', b'evil')
  elif kind == 'postscript':
    path.write_bytes(
      b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nquit\n'
    )
  else:
    path.write_bytes(
      {
        'text': b'Not what it says.',
        'utf-16': was.decode('latin-1').encode('utf-16'),
        'svg': b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        'nothing': b'',
        'deep': b'[' * 100_000,
        'another': other,
      }[kind]
    )


def flip_bits(draw, root):
  path = _any_file(draw, root)
  content = bytearray(path.read_bytes())
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << draw(st.integers(0, 7))
  path.write_bytes(content)
  return OTHER


def link(draw, root):
  """Replaces a file or folder, or the whole scene, by a symbolic link."""
  path = _choose(draw, [*sorted(root.rglob('*')), root / SHAPE])
  if not path.exists():
    path = _any_file(draw, root)
  moved = root.parent / OUTSIDE / 'moved'
  kind = _choose(draw, ('moved', 'dangling', 'loop', 'device', 'self'))
  path.rename(moved)
  path.symlink_to(
    {
      'moved': moved,
      'dangling': root / 'nowhere',
      'loop': path,
      'device': '/dev/zero',
      'self': root,
    }[kind]
  )


def forbid(draw, root):
  path = _choose(draw, [root, *sorted(root.rglob('*'))])
  path.chmod(_choose(draw, (0o000, 0o111, 0o444) if path.is_dir() else (0,)))


def rename(draw, root):
  path = _choose(draw, sorted(root.rglob('*')))
  name = _choose(draw, _NAMES) + _choose(draw, (path.suffix, '', '.PNG'))
  if path.with_name(name).exists():
    hypothesis.reject()
  path.rename(path.with_name(name))
  return OTHER  # LLFF's views are in the order of their names.


def rename_scene(draw, root):
  """Renames images and poses consistently."""
  name = _choose(draw, _NAMES[:-5])
  quoted = json.dumps(name)[1:-1]
  for path in sorted(root.rglob('*.json')):
    text = path.read_text('utf-8').replace('/r_', f'/{quoted}')
    path.write_text(text, 'utf-8')
  for path in root.rglob('images.bin'):
    path.write_bytes(path.read_bytes().replace(b'r_', name.encode()))
  for path in [*root.rglob('*.png'), *root.rglob('pose/*.txt')]:
    path.rename(path.with_name(name + path.name.removeprefix('r_')))
  return LOADS


def add(draw, root):
  """Adds a file or folder such as systems and people leave behind."""
  folders = [root, *sorted(x for x in root.rglob('*') if x.is_dir())]
  names = '.DS_Store ._r_0.png Thumbs.db notes.txt extra.png images_2 r_0.jpg'
  name = _choose(draw, names.split())
  path = _choose(draw, folders) / name
  if path.exists() or draw(st.booleans()):
    path.mkdir(exist_ok=True)
  else:
    path.write_bytes(b'\0\1')
  return LOADS if name.startswith(('.', 'Thumbs')) else SAME


def png(width: int, height: int, data: bytes) -> bytes:
  def chunk(kind, content):
    crc = struct.pack('>I', zlib.crc32(kind + content))
    return struct.pack('>I', len(content)) + kind + content + crc

  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    chunk(*x) for x in ((b'IHDR', head), (b'IDAT', data), (b'IEND', b''))
  )


def bomb_image(draw, root):
  """Writes a small file whose header declares a large image."""
  sides = _choose(
    draw,
    (
      (50_000, 50_000),
      (2**31 - 1, 2),
      (12_000, 12_000),
      (9_000, 9_000),
      (100_000, 700),
      (0, 0),
    ),
  )
  data = zlib.compress(bytes(100_000))
  _image(draw, root).write_bytes(png(*sides, data))


def convert_image(draw, root):
  """Saves an image in another format, mode or size, under the same name."""
  path = _image(draw, root)
  with Image.open(path) as image:
    image.load()
  kind = _choose(
    draw,
    (
      'JPEG',
      'WEBP',
      'TIFF',
      'BMP',
      'GIF',
      'PPM',
      'PNG',
      'ICO',
      'PDF',
      'TGA',
      'JPEG2000',
    ),
  )
  mode = _choose(draw, ('RGB', 'RGB', 'RGBA', 'CMYK'))
  if draw(st.booleans()):
    sides = st.integers(1, 16)
    image = image.resize((draw(sides), draw(sides)))
  lossless = {'lossless': True} if kind == 'WEBP' else {'quality': 95}
  try:
    image.convert(mode).save(path, kind, **lossless)
  except (OSError, KeyError, ValueError):  # This kind has no such mode.
    image.save(path, 'PNG')
  return OTHER


def edit_text(draw, root):
  """Replaces one number, name or bracket of a JSON or text file."""
  path = _any_file(draw, root, ('.json', '.txt'))
  text = path.read_text()
  spaced = text.replace(',', ' , ').replace(']', ' ] ').split(' ')
  words = [i for i, x in enumerate(spaced) if x.strip()]
  at = _choose(draw, words)
  ending = '\n' if spaced[at].endswith('\n') else ''
  spaced[at] = _choose(draw, (*_NUMBERS, ']', '}', ',', '1 2')) + ending
  path.write_text(' '.join(spaced))
  return OTHER


def edit_json(draw, root):
  """Replaces one value anywhere in a JSON file."""
  path = _any_file(draw, root, ('.json',))
  content = json.loads(path.read_text())
  place = content
  while True:
    keys = sorted(place) if isinstance(place, dict) else range(len(place))
    key = _choose(draw, keys)
    inner = isinstance(place[key], dict | list) and place[key]
    if not inner or draw(st.integers(0, 4)) == 0:
      break
    place = place[key]
  kind = _choose(draw, ('value', 'drop', 'twice', 'nest'))
  if kind == 'drop':
    del place[key]
  elif kind == 'twice' and isinstance(place, list):
    place.append(place[key])
  elif kind == 'nest':
    place[key] = [place[key]]
  else:
    place[key] = _choose(
      draw,
      (
        None,
        True,
        '',
        'x',
        -1,
        0,
        1e-30,
        3.2,
        1e6,
        1e30,
        float('nan'),
        10**400,
        [],
        {},
        [[]],
        float('inf'),
        '\ud800',
        'a\0b',
      ),
    )
  path.write_text(json.dumps(content))
  return OTHER


def lead_out(draw, root):
  """Writes a name into a JSON file that leads out of the scene."""
  path = _any_file(draw, root, ('.json',))
  secret = root.parent / OUTSIDE / 'secret.png'
  content = json.loads(path.read_text())
  frame = _choose(draw, content['frames'])
  (path.parent / 'train' / 'link.png').symlink_to(secret)
  (path.parent / 'train' / 'far').symlink_to(secret.parent)
  frame['file_path'] = _choose(
    draw,
    (
      '../../outside/secret',
      'train/../../../outside/secret',
      str(secret),
      f'file://{secret}',
      f'./{secret}',
      '~/secret',
      '$HOME/secret',
      '..',
      '.',
      '/',
      'train/link',
      'train/far/secret',
      'train\\..\\secret',
      'x/' * 3000,
    ),
  )
  path.write_text(json.dumps(content))


def reorder(draw, root):
  """Reorders the views consistently."""
  tables, arrays = _files(root, ('.json', '.npy')), _files(root, ('.npz',))
  order = draw(st.randoms(use_true_random=False))
  for path in tables:
    if path.suffix == '.json':
      content = json.loads(path.read_text())
      order.shuffle(content['frames'])
      path.write_text(json.dumps(content))
    else:
      rows = np.load(path)
      images = sorted((path.parent / 'images').iterdir())
      ranks = order.sample(range(len(rows)), len(rows))
      for image, rank in zip(images, ranks, strict=True):
        image.rename(image.with_name(f'view{rank}.png'))
      np.save(path, rows[np.argsort(ranks)])
  for path in arrays:
    content = dict(np.load(path))
    ranks = order.sample(range(len(content['poses'])), len(content['poses']))
    content |= {key: content[key][ranks] for key in ('images', 'poses')}
    np.savez(path, **content)
  for folder in root.glob('*/*/pose'):
    stems = [x.stem for x in sorted(folder.iterdir())]
    new = [f'{x:03}' for x in order.sample(range(999), len(stems))]
    for stem, name in zip(stems, new, strict=True):
      for part, suffix in (('pose', '.txt'), ('rgb', '.png')):
        path = folder.parent / part / f'{stem}{suffix}'
        path.rename(path.with_name(f'{name}{suffix}'))
  return LOADS


def _edit(draw, array):
  """Returns an array of other numbers, or another shape or type."""
  kind = _choose(
    draw, ('number', 'number', 'all', 'shape', 'type', 'order', 'cut', 'scale')
  )
  with np.errstate(all='ignore'):
    if kind == 'number':
      array = np.array(array, np.float64)
      at = draw(st.integers(0, array.size - 1))
      array.reshape(-1)[at] = _choose(draw, _FLOATS)
    elif kind == 'all':
      array = np.full(array.shape, _choose(draw, _FLOATS))
    elif kind == 'scale':
      array = array * _choose(draw, (-1, 1e-20, 255, 1e20, 1e300))
    elif kind == 'shape':
      array = _choose(
        draw,
        (
          array.ravel(),
          array[None],
          np.empty((0, *array.shape[1:])),
          np.swapaxes(array, 0, -1) if array.ndim else array[None],
          array[..., :-1] if array.ndim else array,
          np.array(1.0),
        ),
      )
    elif kind == 'type':
      types = (
        'f2',
        'f4',
        '>f8',
        'c16',
        'i8',
        'U9',
        'S9',
        '?',
        'u1',
        'u2',
        'M8[s]',
        'V8',
        'g',
      )
      array = array.astype(np.dtype(_choose(draw, types)))
    elif kind == 'order':
      array = np.asfortranarray(array)
    elif array.ndim:
      array = array[: draw(st.integers(0, len(array)))]
  return array


def edit_array(draw, root):
  """Replaces an array of a scene."""
  path = _any_file(draw, root, ('.npy', '.npz'))
  if path.suffix == '.npy':
    np.save(path, _edit(draw, np.load(path)))
    return OTHER
  content = dict(np.load(path))
  key = _choose(draw, sorted(content))
  if draw(st.integers(0, 9)) == 0:
    del content[key]
  else:
    content[key] = _edit(draw, content[key])
  save = np.savez_compressed if draw(st.booleans()) else np.savez
  save(path, **content)
  return OTHER


def bomb_array(draw, root):
  """Writes an array whose header declares a huge or too small size."""
  path = _any_file(draw, root, ('.npy', '.npz'))
  huge = (10**6, 17), (10**9, 10**9), (2**62, 4), (10**5,) * 4
  shape = _choose(draw, (*huge, (-1, 17), (6, 4, 4), (2, 17), (5, 17)))
  buffer = io.BytesIO()
  header = {'descr': '<f8', 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(buffer, header)
  content = buffer.getvalue() + np.eye(6, 17).tobytes()
  if path.suffix == '.npy':
    path.write_bytes(content)
    return OTHER
  arrays = dict(np.load(path))
  key = _choose(draw, sorted(arrays))
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, array in arrays.items():
      with archive.open(f'{name}.npy', 'w') as file:
        if name == key:
          file.write(content)
        else:
          np.lib.format.write_array(file, array)
  return OTHER


def plant_two(draw, root):
  """Plants one fault after another."""
  first = _choose(draw, [x for x in applicable_to(root) if x not in _NOT_FIRST])
  second = _choose(draw, _SECOND)
  changes = [first(draw, root), second(draw, root)]
  return OTHER if OTHER in changes else SAME


# The kinds of files that each fault needs.
_NEEDS: dict[Callable, tuple[str, ...]] = {
  drop: (),
  truncate: (),
  make_huge: (),
  replace_by_other: (),
  flip_bits: (),
  link: (),
  forbid: (),
  rename: (),
  rename_scene: (),
  add: (),
  reorder: (),
  bomb_image: ('.png',),
  convert_image: ('.png',),
  lead_out: ('.json',),
  edit_json: ('.json',),
  edit_text: ('.json', '.txt'),
  edit_array: ('.npy', '.npz'),
  bomb_array: ('.npy', '.npz'),
  plant_two: (),
}
# After these, files may not be readable or listable.
_NOT_FIRST = (make_huge, replace_by_other, link, forbid, plant_two)
_SECOND = (drop, truncate, flip_bits, link, forbid, rename, add)


def applicable_to(root: pathlib.Path) -> list[Callable]:
  """Returns the faults that can be planted in the files below a folder."""
  return [
    plant
    for plant, suffixes in _NEEDS.items()
    if not suffixes or _files(root, suffixes)
  ]
