"""Sessions: small frames while a camera moves, then sharp ones."""

import dataclasses
import threading
import time
from unittest import mock

import chex
import numpy as np

from experiments.viewer import pictures, sessions
from nerf_haiku import camera_paths, image_rendering
from tests.support import trained

_POSES = camera_paths.circle(8)
_TIMEOUT = 20.0  # Seconds until something that never happens is missed.


class _Model:
  """Renders pieces of 100 pixels whose red is their index over the size.

  Each piece waits for the semaphore `gate`, if there is one.
  """

  def __init__(self, scene, gate=None):
    self.scene, self._gate, self.pieces = scene, gate, 0

  def render_strips(self, camera, crop):
    self.crop = crop
    height, width = (int(x) for x in camera.sizes[0])
    red = np.arange(height * width) / (height * width)
    for start in range(0, len(red), 100):
      if self._gate is not None:
        self._gate.acquire(timeout=_TIMEOUT)
      self.pieces += 1
      part = red[start : start + 100].astype(np.float32)
      yield image_rendering.RenderedImage(
        np.stack([part, 0 * part, 0 * part], -1),
        part + 2,
        part,
        np.ones_like(part),
        np.zeros((len(part), 2)),
      )


class _Screen:
  def __init__(self):
    self.shown, self._event = [], threading.Event()

  def show(self, picture, depth):
    self.shown.append(picture)
    chex.assert_shape(depth, picture.shape[:2])
    self._event.set()

  def wait_for(self, size):
    """Waits for a picture of a size, (height, width)."""
    end = time.monotonic() + _TIMEOUT
    while time.monotonic() < end:
      if any(x.shape[:2] == size for x in self.shown):
        return
      self._event.wait(0.05)
      self._event.clear()
    raise AssertionError(f'{size}: {[x.shape for x in self.shown]}')


def _look(pose=0, width=80, height=40, mode='color'):
  return sessions.Look(_POSES[pose], 0.7, width, height, mode)


class SessionTest(chex.TestCase):
  def _start(self, model, rate=400 * pictures.FPS):
    renderer = sessions.Renderer(
      lambda: model, trained.scene(), shares_time=False
    )
    renderer.rate = rate
    renderer._measure = lambda *_: None
    screen = _Screen()
    session = sessions.Session(renderer, screen)
    self.addCleanup(session.join, _TIMEOUT)
    self.addCleanup(session.close)
    session.start()
    return session, screen

  def test_a_small_frame_then_a_sharp_one(self):
    session, screen = self._start(_Model(trained.scene()))
    session.look(_look())
    screen.wait_for((40, 80))
    sizes = [x.shape[:2] for x in screen.shown]
    # 400 rays a frame, at least 32 pixels a side.
    self.assertEqual(sizes[0], (32, 64))
    red = screen.shown[-1][..., 0].reshape(-1) / 255
    np.testing.assert_allclose(red, np.arange(3200) / 3200, atol=3e-3)

  def test_a_move_interrupts_the_sharp_frame(self):
    # The small frame has 21 pieces, and the sharp one waits for its fifth.
    gate = threading.Semaphore(25)
    model = _Model(trained.scene(), gate)
    session, screen = self._start(model)
    session.look(_look())
    screen.wait_for((32, 64))
    while model.pieces < 25:
      time.sleep(0.01)
    session.look(_look(pose=1))
    gate.release(1000)
    end = time.monotonic() + _TIMEOUT
    sizes = []
    while sizes.count((32, 64)) < 2 and time.monotonic() < end:
      time.sleep(0.01)
      sizes = [x.shape[:2] for x in screen.shown]
    # No sharp one is between them.
    self.assertEqual(sizes[:2], [(32, 64), (32, 64)])

  def test_a_small_frame_at_rest_is_sharpened(self):
    """Beside training: a frame that moves would be as large as the window."""
    model = _Model(trained.scene())
    renderer = sessions.Renderer(
      lambda: model, trained.scene(), shares_time=True, sleep=lambda _: None
    )
    renderer.rate = 2 * 3200 * pictures.FPS
    renderer._measure = lambda *_: None
    screen = _Screen()
    session = sessions.Session(renderer, screen)
    session.look(_look())
    session._moved_at -= 10.0  # It rests for long.
    session._changed.set()
    self.addCleanup(session.join, _TIMEOUT)
    self.addCleanup(session.close)
    session.start()
    screen.wait_for((40, 80))
    self.assertEqual(screen.shown[0].shape[:2], (32, 64))

  def test_another_mode_shows_another_picture(self):
    session, screen = self._start(_Model(trained.scene()))
    session.look(_look())
    screen.wait_for((40, 80))
    screen.shown.clear()
    session.look(_look(mode='opacity'))
    screen.wait_for((40, 80))
    self.assertTrue(np.all(screen.shown[-1] == 255))

  def test_a_crop_reaches_the_model(self):
    model = _Model(trained.scene())
    session, screen = self._start(model)
    session.look(dataclasses.replace(_look(), crop=(0, 1, 2, 3, 4, 5)))
    screen.wait_for((40, 80))
    np.testing.assert_array_equal(model.crop, [[0, 1, 2], [3, 4, 5]])

  def test_a_closed_session_ends(self):
    session, screen = self._start(_Model(trained.scene()))
    session.look(_look())
    screen.wait_for((32, 64))
    session.close()
    session.join(_TIMEOUT)
    self.assertFalse(session.is_alive())


class RendererTest(chex.TestCase):
  def _render(self, *, moving, seconds=0.1):
    now = [0.0]
    slept = []

    def clock():
      now[0] += seconds / 2
      return now[0]

    renderer = sessions.Renderer(
      lambda: None,
      trained.scene(),
      shares_time=True,
      clock=clock,
      sleep=slept.append,
    )
    camera = pictures.make_camera(_POSES[0], 0.7, 20, 20)
    done = renderer.render(
      _Model(trained.scene()),
      camera,
      moving=moving,
      on_piece=lambda piece: True,
    )
    self.assertTrue(done)
    return renderer, slept

  def test_training_keeps_its_share_of_the_time(self):
    for moving, share in ((True, 0.5), (False, 0.1)):
      _, slept = self._render(moving=moving)
      self.assertLen(slept, 4)
      worked = 4 * 0.05
      self.assertAlmostEqual(worked / (worked + sum(slept)), share, places=6)

  def test_the_speed_is_measured(self):
    with mock.patch.object(sessions, '_NEW_WEIGHT', 1.0):
      renderer, _ = self._render(moving=True)
    self.assertAlmostEqual(renderer.rate, 100 / 0.05)
