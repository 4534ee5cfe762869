"""The page's server, without a browser."""

import contextlib
import pathlib
import socket
import urllib.request

import chex
import numpy as np
from absl.testing import parameterized

from experiments.viewer import live, server
from nerf_haiku import camera_paths, errors, scenes
from nerf_haiku.renderers import base
from tests.support import ports, trained


class AxesTest(chex.TestCase):
  def test_there_and_back(self):
    for pose in camera_paths.circle(5).astype(float):
      wxyz, position = server.to_page(pose)
      np.testing.assert_allclose(
        server.from_page(wxyz, position), pose, atol=1e-7
      )

  def test_the_page_looks_along_its_z(self):
    """OpenCV's axes: x right, y down, z ahead."""
    pose = np.concatenate([np.eye(3), [[1], [2], [3]]], axis=1)  # Along -z.
    wxyz, position = server.to_page(pose)
    np.testing.assert_allclose(np.abs(wxyz), [0, 1, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(position, [1, 2, 3])


class ServerTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.scene = trained.scene(box=np.array([[-1.0] * 3, [1.0] * 3]))
    self.model = trained.model(trained.record('occupancy'), self.scene)

  def _open(self, port, **settings):
    return server.Viewer(
      lambda: self.model, self.scene, host='127.0.0.1', port=port, **settings
    )

  def test_it_serves_a_page_at_this_machine_only(self):
    port = ports.free_port()
    with self._open(port):
      page = urllib.request.urlopen(f'http://127.0.0.1:{port}', timeout=10)
      self.assertIn(b'<html', page.read())
      with socket.socket() as other, self.assertRaises(OSError):
        other.settimeout(5)
        address = socket.gethostbyname(socket.gethostname())
        if address.startswith('127.'):
          raise OSError('This machine has no other address.')
        other.connect((address, port))

  def test_no_other_file_is_served(self):
    port = ports.free_port()
    secret = pathlib.Path(self.create_tempfile(content='secret').full_path)
    with self._open(port):
      for path in (str(secret), f'/../../../../../..{secret}', '/etc/passwd'):
        with contextlib.suppress(OSError):
          url = f'http://127.0.0.1:{port}/{path}'
          content = urllib.request.urlopen(url, timeout=10).read()
          self.assertNotIn(b'secret', content)
          self.assertNotIn(b'root:', content)

  def test_a_port_that_is_taken(self):
    with contextlib.closing(socket.socket()) as taken:
      taken.bind(('127.0.0.1', 0))
      taken.listen()
      port = taken.getsockname()[1]
      with self.assertRaisesRegex(
        errors.UserError, f'--port: .*:{port} cannot'
      ):
        self._open(port)

  def test_cells_are_the_occupied_ones(self):
    occupied = np.zeros((8, 8, 8), bool)
    occupied[7, 4, 0] = True  # z, y, x
    grid = self.model.variables.state._replace(occupied=occupied)
    model = self.model.replace(
      base.Variables(self.model.variables.params, grid), 0
    )
    cells = server.occupied_cells(model)
    side = 3.0 / 8
    np.testing.assert_allclose(
      cells, [[-1.5 + side / 2, -1.5 + 4.5 * side, 1.5 - side / 2]]
    )
    none = trained.model(trained.record(), self.scene)
    self.assertEqual(server.occupied_cells(none).shape, (0, 3))

  def test_rays_reach_the_box_from_outside(self):
    wide = server.seen_from_anywhere(self.scene)
    self.assertLess(wide.near, self.scene.near)
    self.assertGreater(wide.far, self.scene.far)
    unbounded = self.scene._replace(box=None)
    self.assertIs(server.seen_from_anywhere(unbounded), unbounded)

  def test_photographs_on_their_background(self):
    photo = np.zeros((2, 3, 4), np.uint8)
    photo[0, 0] = (10, 20, 30, 255)
    split = scenes.Split(
      scenes.LazyImages(1, lambda index: photo), self.scene.train.cameras
    )
    shown = server.photos_of(split, (1.0, 1.0, 1.0))(0)
    np.testing.assert_array_equal(shown[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(shown[1, 1], [255, 255, 255])


class _Viewer:
  def __init__(self):
    self.num_clients, self.refreshed = 0, 0

  def refresh(self):
    self.refreshed += 1


class WatcherTest(parameterized.TestCase):
  def test_variables_are_copied_now_and_then(self):
    now = [100.0]
    model = trained.model(trained.record(), trained.scene())
    watcher = live.Watcher(model, clock=lambda: now[0])
    viewer = watcher.viewer = _Viewer()
    asked = []

    def variables():
      asked.append(now[0])
      return model._replicated

    watcher(1, variables)
    self.assertEqual(asked, [])  # Nobody looks.
    viewer.num_clients = 1
    watcher(2, variables)
    self.assertEqual((watcher.model().step, viewer.refreshed), (2, 1))
    now[0] += live._EVERY - 0.1
    watcher(3, variables)
    self.assertEqual(watcher.model().step, 2)
    now[0] += 0.2
    watcher(4, variables)
    self.assertEqual((watcher.model().step, viewer.refreshed), (4, 2))
    chex.assert_trees_all_equal(
      watcher.model().variables.params, model.variables.params
    )
