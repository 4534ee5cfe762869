"""From a folder of photographs, or a video, to a model of COLMAP."""

import os
import pathlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import nerf_haiku
from experiments.outputs import json_files
from experiments.reconstruction import (
  capture_folder,
  child,
  photo_files,
  stages,
  video_frames,
)
from nerf_haiku import errors
from nerf_haiku.io import memory

_MIN_PHOTOS = 3
_MIN_REGISTERED = 0.5  # Of the photographs.
# Up to so many, all pairs are matched.
_MAX_EXHAUSTIVE = 100
# Memory that a thread takes to find features, for each pixel.
_BYTES_PER_PIXEL = 400
_MAX_FEATURE_THREADS = 8
_CURE = (
  'Take more photographs, with more overlap (each part of the scene in three '
  'or more, some steps apart), more light, and fewer reflections and blank '
  'walls'
)


class Settings(NamedTuple):
  """What the result depends on, beside the photographs; named as the flags."""

  frames: int  # of a video, at most.
  matching: str  # 'auto', 'exhaustive' or 'sequential'.
  max_size: int  # of the longer side where features are found, pixels.
  num_features: int  # of a photograph, at most.


def reconstruct(
  photos: pathlib.Path,
  out: pathlib.Path,
  settings: Settings,
  *,
  mapping_threads: int,
) -> str:
  """Reconstructs the cameras of photographs, unless that is done.

  Progress and notices are printed.

  Args:
    photos: a folder, or a video.
    out: folder of the result; see `capture_folder`.
    settings: what the result depends on.
    mapping_threads: of the mapper; with 1 the result can be repeated.

  Returns:
    One line: what was registered, and the command to run next.

  Raises:
    UserError: if the photographs, the folders or the packages cannot be used,
      or fewer than half of the photographs are registered.
    OSError: if a file cannot be read or written.
  """
  versions = child.check_installed()
  capture_folder.check_places(photos, out)
  folder = photos if photos.is_dir() else photos.parent
  paths = photo_files.find(photos, out) if photos.is_dir() else [photos]
  given = settings._asdict()
  if photos.is_dir():
    del given['frames']
  identity = {
    'settings': given,
    'photos_sha256': capture_folder.digest(paths, folder),
  }
  capture_folder.finish(out)
  report = capture_folder.read_finished(out, identity)
  if report is not None:
    print(f'{out} is finished: nothing is done again.')
    return summarize(report, out)
  with capture_folder.workspace(out) as work, stages.Stages() as shown:
    if not photos.is_dir():
      folder = work / 'frames'
      folder.mkdir()
      _notify(video_frames.extract(photos, folder, settings.frames, shown))
      paths = photo_files.find(folder)
    report = identity | _reconstruct_in(
      work, paths, folder, photos, settings, mapping_threads, shown
    )
    report['versions'] = {'nerf_haiku': nerf_haiku.__version__, **versions}
    json_files.write_json(work / capture_folder.REPORT, report)
    capture_folder.finish(out)
  return summarize(report, out)


def _reconstruct_in(
  work: pathlib.Path,
  paths: Sequence[pathlib.Path],
  folder: pathlib.Path,
  photos: pathlib.Path,
  settings: Settings,
  mapping_threads: int,
  shown: stages.Stages,
) -> dict[str, Any]:
  """Writes images and model into a folder; returns what the report says."""
  staging, masks = work / 'staged', work / 'masks'
  model = work / capture_folder.MODEL
  for path in (staging, masks, model):
    path.mkdir(parents=True)
  staged, unused = photo_files.stage(paths, folder, staging, masks, shown)
  if unused:
    reasons = ', '.join(f'{x.source} ({x.reason})' for x in unused)
    _notify(f'{len(unused)} of {len(paths)} files are not used: {reasons}.')
  if len(staged) < _MIN_PHOTOS:
    raise errors.UserError(
      f'--photos: {photos} has {len(staged)} photographs that can be used: at '
      f'least {_MIN_PHOTOS} are required, and some dozens advised.'
    )
  exhaustive = settings.matching == 'exhaustive' or (
    settings.matching == 'auto' and len(staged) <= _MAX_EXHAUSTIVE
  )
  result = child.run(
    {
      'images': str(staging.absolute()),
      'work': str(work.absolute()),
      'output': str(model.absolute()),
      'groups': photo_files.group(staged),
      'masked': [x.staged for x in staged if x.masked],
      'masks': str(masks.absolute()),
      'final_names': {x.staged: x.name for x in staged},
      'exhaustive': exhaustive,
      'max_size': settings.max_size,
      'num_features': settings.num_features,
      'feature_threads': _feature_threads(settings.max_size),
      'match_threads': _cores(),
      'mapping_threads': mapping_threads,
    },
    work / 'log.txt',
    shown,
  )
  report = _describe(result, staged, unused, exhaustive)
  _check(report, photos)
  for photo in staged:
    image = work / capture_folder.IMAGES / photo.name
    image.parent.mkdir(parents=True, exist_ok=True)
    (staging / photo.staged).rename(image)
  return report


def _describe(
  result: dict[str, Any],
  photos: Sequence[photo_files.Photo],
  unused: Iterable[photo_files.Unused],
  exhaustive: bool,
) -> dict[str, Any]:
  """Returns what the report says of a result of `sfm.reconstruct`."""
  registered = set(result.pop('registered'))
  return {
    'registered': [x.name for x in photos if x.staged in registered],
    'not_registered': [x.name for x in photos if x.staged not in registered],
    'not_used': {x.source: x.reason for x in unused},
    'renamed': {x.source: x.name for x in photos if x.source != x.name},
    'matched': 'exhaustive' if exhaustive else 'sequential',
    **result,
  }


def _check(report: dict[str, Any], photos: pathlib.Path) -> None:
  """Checks that enough photographs are registered; names the others.

  Raises:
    UserError: if fewer than half are, or fewer than three.
  """
  registered, others = report['registered'], report['not_registered']
  total = len(registered) + len(others)
  if len(registered) < max(_MIN_PHOTOS, _MIN_REGISTERED * total):
    hint = ''
    if report['matched'] == 'sequential':
      hint = '. Or try --matching=exhaustive, which matches all pairs'
    raise errors.UserError(
      f'--photos: {photos}: {len(registered)} of {total} photographs were '
      f'registered, too few for a scene. {_CURE}{hint}.'
    )
  if others:
    _notify(
      f'{len(others)} of {total} photographs were not registered: '
      f'{", ".join(others)}.'
    )


def summarize(report: dict[str, Any], out: pathlib.Path) -> str:
  """Returns the last line of the program.

  Args:
    report: of the folder.
    out: the folder.
  """
  registered = len(report['registered'])
  total = registered + len(report['not_registered'])
  focal = [f'{x["focal_length"]:.0f}' for x in report['cameras']]
  lengths = 'lengths' if len(focal) > 1 else 'length'
  folder = shlex.quote(str(out))
  model_dir = shlex.quote(f'runs/{out.resolve().name}')
  return (
    f'Registered {registered} of {total} photographs, mean reprojection error '
    f'{report["reprojection_error"]:.2f} pixels, focal {lengths} '
    f'{", ".join(focal)} pixels. Next: python experiments/train.py '
    f'--config=experiments/configs/capture.py --data_dir={folder} '
    f'--model_dir={model_dir}'
  )


def _notify(text: str | None) -> None:
  if text:
    print(text, file=sys.stderr)


def _cores() -> int:
  if hasattr(os, 'sched_getaffinity'):  # Not on macOS.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _feature_threads(max_size: int) -> int:
  """Returns how many threads find features within half of the free memory."""
  available = memory.available()
  threads = min(_cores(), _MAX_FEATURE_THREADS)
  if available is None:
    return threads
  needed = _BYTES_PER_PIXEL * max_size * max_size
  return max(1, min(threads, available // 2 // needed))
