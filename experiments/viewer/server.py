"""The page of a viewer: what is in the scene, and its controls.

Everything on the page is in the moved coordinates of the field (the data's
without a similarity), which a browser's float32 can hold; cameras that come
from the page, or go to files, are in those of the data.
"""

import contextlib
import io
import pathlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial import transform

from experiments.viewer import pictures, sessions
from nerf_haiku import (
  camera_files,
  camera_paths,
  cameras,
  errors,
  extras,
  models,
  scenes,
  similarity,
)
from nerf_haiku import poses as poses_lib
from nerf_haiku.io import media

_MAX_SIDE = 1600  # Pixels of a picture.
_THUMBNAIL = 96  # Pixels of the longer side of a photo in the scene.
_MAX_CELLS = 50_000  # Occupied cells that are drawn.
_SECONDS_PER_STOP = 2.0  # Of a path that is played.
_PATH_FPS = 30

Photo = Callable[[int], np.ndarray]  # index -> [H, W, 3] uint8.


class Viewer:
  """A server whose page shows a model; a context manager."""

  def __init__(
    self,
    model: Callable[[], models.Model],
    scene: scenes.Scene,
    *,
    host: str,
    port: int,
    shares_time: bool = False,
    path_file: pathlib.Path | None = None,
    cameras_file: pathlib.Path | None = None,
  ):
    """Starts the server.

    Args:
      model: returns the newest model.
      scene: its cameras and bounds; see `seen_from_anywhere` for the model's.
      host: address that it listens at.
      port: its port.
      shares_time: whether a training run has most of the time.
      path_file: the one file that the page may write: cameras of a path.
      cameras_file: cameras that the page begins with as a path.

    Raises:
      UserError: if viser is not installed, or the port cannot be had.
    """
    viser = extras.load('viser', 'viewer')
    check_port(host, port)
    self._renderer = sessions.Renderer(model, scene, shares_time=shares_time)
    self._sessions: dict[int, sessions.Session] = {}
    self._scene = scene
    self._path_file = path_file
    self._kept: list[np.ndarray] = []  # [3, 4] poses of a path, of the data.
    if cameras_file is not None:
      poses = camera_files.read(cameras_file).camera_to_world
      self._kept = list(np.asarray(poses, np.float64))
    self._photo: Photo | None = None
    with contextlib.redirect_stdout(io.StringIO()):  # It prints a banner.
      self._server = viser.ViserServer(host=host, port=port, verbose=False)
    self._server.gui.configure_theme(show_logo=False, show_share_button=False)
    self._server.scene.set_up_direction(_up(self._moved_poses()))
    self._frusta: list[Any] = []
    self._cropped: Any = None  # The checkbox, and two corners.
    self._crop: list[Any] = []
    self._add_scene()
    self._add_controls()
    self._server.on_client_connect(self._connect)
    self._server.on_client_disconnect(self._disconnect)

  def __enter__(self) -> 'Viewer':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends all sessions and the server."""
    open_sessions = list(self._sessions.values())
    for session in open_sessions:
      session.close()
    # A thread that renders while the process ends would abort it.
    for session in open_sessions:
      session.join()
    with contextlib.redirect_stdout(io.StringIO()):  # It tells so.
      self._server.stop()

  def refresh(self) -> None:
    """Shows the newest model to all clients."""
    self._step.value = f'{self._renderer.model().step:,}'
    for session in list(self._sessions.values()):
      session.refresh()

  @property
  def num_clients(self) -> int:
    """The number of open pages."""
    return len(self._sessions)

  def show_photos(self, photo: Photo) -> None:
    """Puts the photographs of the training cameras into the scene."""
    self._photo = photo
    for i, frustum in enumerate(self._frusta):
      image = photo(i)
      step = max(1, max(image.shape[:2]) // _THUMBNAIL)
      frustum.image = image[::step, ::step]

  # The scene.

  def _moved_poses(self) -> np.ndarray:
    return np.asarray(
      similarity.move_poses(
        self._scene.similarity,
        np.asarray(self._scene.train.cameras.camera_to_world, np.float64),
      )
    )

  def _add_scene(self) -> None:
    poses, cams = self._moved_poses(), self._scene.train.cameras
    scale = 0.05 * _spread(poses)
    for i, pose in enumerate(poses):
      height, width = (int(x) for x in cams.sizes[i])
      wxyz, position = to_page(pose)
      frustum = self._server.scene.add_camera_frustum(
        f'/cameras/{i:04}',
        fov=2 * float(np.arctan(0.5 * height / cams.intrinsics[i, 1])),
        aspect=width / height,
        scale=scale,
        thickness=1.5,
        thickness_units='screen',
        color=(230, 120, 20),
        wxyz=wxyz,
        position=position,
        visible=False,
      )
      frustum.on_click(lambda event, i=i: self._visit(event.client, i))
      self._frusta.append(frustum)

  def _add_box(self) -> Any:
    corners = np.stack(
      np.meshgrid(*self._model_box().T, indexing='ij'), axis=-1
    ).reshape(-1, 3)
    edges = [
      (a, b) for a in range(8) for b in range(a) if bin(a ^ b).count('1') == 1
    ]
    return self._server.scene.add_line_segments(
      '/box',
      points=corners[np.array(edges)].astype(np.float32),
      colors=np.array([40, 90, 220], np.uint8),
      line_width=2.0,
    )

  def _model_box(self) -> np.ndarray:
    """Returns the box, where it is one on the page."""
    box = np.asarray(self._renderer.model().field_box, np.float64)
    if self._scene.contracted:
      return np.clip(box, -1.0, 1.0)  # What is not contracted.
    return box

  def _add_cells(self) -> Any:
    model = self._renderer.model()
    points = occupied_cells(model)
    if model.scene.ndc is not None or model.scene.contracted:
      points = model.from_field(points)
      if model.scene.similarity is not None:
        points = similarity.move_points(model.scene.similarity, points)
      near = np.linalg.norm(points, axis=-1) < 4 * _spread(self._moved_poses())
      points = points[near]
    return self._server.scene.add_point_cloud(
      '/cells',
      points=points.astype(np.float32),
      colors=np.array([60, 160, 90], np.uint8),
      point_size=0.01 * _spread(self._moved_poses()),
    )

  # The controls.

  def _add_controls(self) -> None:
    gui = self._server.gui
    self._step = gui.add_text(
      'step', f'{self._renderer.model().step:,}', disabled=True
    )
    self._mode = gui.add_dropdown('show', pictures.MODES)
    self._mode.on_update(lambda _: self._look_again())
    self._limit = gui.add_slider('pixels', 100, _MAX_SIDE, 50, 800)
    self._limit.on_update(lambda _: self._look_again())
    with gui.add_folder('scene'):
      shown = gui.add_checkbox('training cameras', False)
      shown.on_update(lambda _: self._show_cameras(shown.value))
      for label, add in (
        ('box', self._add_box),
        ('occupied cells', self._add_cells),
      ):
        self._add_toggle(label, add)
    if self._scene.ndc is None:
      self._add_crop()
    with gui.add_folder('path'):
      self._count = gui.add_text('cameras', str(len(self._kept)), disabled=True)
      gui.add_button('Keep this camera').on_click(
        lambda event: self._keep(event.client)
      )
      gui.add_button('Forget the last').on_click(lambda _: self._forget())
      gui.add_button('Play').on_click(lambda event: self._play(event.client))
      gui.add_button('Download').on_click(
        lambda event: self._download(event.client)
      )
      if self._path_file is not None:
        gui.add_button(f'Write {self._path_file.name}').on_click(
          lambda event: self._write(event.client)
        )

  def _add_crop(self) -> None:
    """Adds the controls of a box outside of which nothing is seen."""
    gui, box = self._server.gui, self._model_box()
    step = float(np.max(box[1] - box[0])) / 200
    with gui.add_folder('crop', expand_by_default=False):
      self._cropped = gui.add_checkbox('crop to', False)
      self._crop = [
        gui.add_vector3(name, tuple(corner.tolist()), step=step)
        for name, corner in zip(('from', 'to'), box, strict=True)
      ]
    for control in (self._cropped, *self._crop):
      control.on_update(lambda _: self._look_again())

  def _crop_box(self) -> tuple[float, ...] | None:
    """Returns the corners of the crop, if there is one."""
    if self._cropped is None or not self._cropped.value:
      return None
    return tuple(float(x) for corner in self._crop for x in corner.value)

  def _add_toggle(self, label: str, add: Callable[[], Any]) -> None:
    box = self._server.gui.add_checkbox(label, False)
    shown: list[Any] = []

    def toggle(event: Any) -> None:
      del event
      while shown:
        shown.pop().remove()
      if box.value:
        shown.append(add())

    box.on_update(toggle)

  def _show_cameras(self, visible: bool) -> None:
    with self._server.atomic():
      for frustum in self._frusta:
        frustum.visible = visible

  # The clients.

  def _connect(self, client: Any) -> None:
    session = sessions.Session(self._renderer, _Page(client, self._scale()))
    self._sessions[client.client_id] = session
    pose = self._moved_poses()[0]
    with client.atomic():
      self._go_to(client, pose)
    session.start()
    client.camera.on_update(lambda _: self._look(client))
    self._look(client)

  def _disconnect(self, client: Any) -> None:
    session = self._sessions.pop(client.client_id, None)
    if session is not None:
      session.close()

  def _scale(self) -> float:
    return similarity.field_units(self._scene.similarity)

  def _go_to(self, client: Any, pose: np.ndarray) -> None:
    """Puts the camera of a client where a pose of the page is."""
    wxyz, position = to_page(pose)
    depth = np.linalg.norm(pose[:, 3])  # About the middle of the scene.
    client.camera.up_direction = _up(self._moved_poses())
    client.camera.position = position
    client.camera.look_at = position - (depth or 1.0) * pose[:, 2]
    client.camera.wxyz = wxyz
    cams = self._scene.train.cameras
    client.camera.fov = 2 * float(
      np.arctan(0.5 * cams.sizes[0, 0] / cams.intrinsics[0, 1])
    )

  def _look(self, client: Any) -> None:
    session = self._sessions.get(client.client_id)
    if session is None:
      return
    camera = client.camera
    # Never larger than the window.
    height = min(int(self._limit.value), int(camera.image_height or _MAX_SIDE))
    width = max(1, round(height * camera.aspect))
    if width > _MAX_SIDE:
      width, height = _MAX_SIDE, max(1, round(_MAX_SIDE / camera.aspect))
    session.look(
      sessions.Look(
        pose=self._pose_of(client),
        fov=float(camera.fov),
        width=width,
        height=height,
        mode=self._mode.value,
        crop=self._crop_box(),
      )
    )

  def _look_again(self) -> None:
    for client in self._server.get_clients().values():
      self._look(client)

  def _pose_of(self, client: Any) -> np.ndarray:
    """Returns the pose `[3, 4]` of a client's camera, of the data."""
    pose = from_page(client.camera.wxyz, client.camera.position)
    if self._scene.similarity is None:
      return pose
    back = similarity.invert(self._scene.similarity)
    moved: np.ndarray = similarity.move_poses(back, pose[None])[0]
    return moved

  def _visit(self, client: Any, index: int) -> None:
    """Looks from a training camera, with its photograph beside the page."""
    with client.atomic():
      self._go_to(client, self._moved_poses()[index])
    if self._photo is None:
      return
    camera = cameras.take(self._scene.train.cameras, [index])
    rendered = media.to_uint8(self._renderer.model().render(camera).rgb)
    both = media.side_by_side([self._photo(index), rendered])
    with client.gui.add_modal(f'Training camera {index}') as modal:
      client.gui.add_markdown('Its photograph, and what is rendered.')
      client.gui.add_image(both)
      client.gui.add_button('Close').on_click(lambda _: modal.close())

  # The path.

  def _keep(self, client: Any) -> None:
    self._kept.append(self._pose_of(client))
    self._count.value = str(len(self._kept))

  def _forget(self) -> None:
    if self._kept:
      self._kept.pop()
    self._count.value = str(len(self._kept))

  def _path(self, client: Any) -> cameras.Cameras | None:
    """Returns the path through the kept cameras, or tells what is missing."""
    if len(self._kept) < 2:
      client.add_notification(
        'A path goes through two cameras or more', 'Keep some more.'
      )
      return None
    count = round(_PATH_FPS * _SECONDS_PER_STOP * (len(self._kept) - 1))
    poses = camera_paths.interpolate(np.stack(self._kept), count)
    height = int(self._limit.value)
    width = max(1, round(height * client.camera.aspect))
    focal = 0.5 * height / np.tan(0.5 * float(client.camera.fov))
    return cameras.pinhole(
      poses, np.full((count, 2), (height, width)), np.full(count, focal)
    )

  def _play(self, client: Any) -> None:
    path = self._path(client)
    if path is None:
      return
    poses = similarity.move_poses(
      self._scene.similarity, np.asarray(path.camera_to_world, np.float64)
    )

    def play() -> None:
      start = time.monotonic()
      while client.client_id in self._sessions:
        frame = int((time.monotonic() - start) * _PATH_FPS)
        if frame >= len(poses):
          return
        with client.atomic():
          self._go_to(client, np.asarray(poses[frame]))
        time.sleep(1.0 / pictures.FPS)

    threading.Thread(target=play, daemon=True).start()

  def _write(self, client: Any) -> None:
    path = self._path(client)
    if path is None or self._path_file is None:
      return
    try:
      camera_files.write(self._path_file, path)
    except errors.WriteError as error:
      client.add_notification('Not written', str(error))
      return
    client.add_notification(
      f'Wrote {len(path.sizes)} cameras', str(self._path_file)
    )

  def _download(self, client: Any) -> None:
    path = self._path(client)
    if path is not None:
      client.send_file_download('cameras.json', camera_files.encode(path))


class _Page:
  """The background of a client's page."""

  def __init__(self, client: Any, scale: float):
    self._client, self._scale = client, scale

  def show(self, picture: np.ndarray, depth: np.ndarray) -> None:
    """See `sessions.Screen`."""
    self._client.scene.set_background_image(
      picture,
      format='jpeg',
      jpeg_quality=90,
      depth=(self._scale * depth).astype(np.float32),
    )


def to_page(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the quaternion (w, x, y, z) and position of a pose `[3, 4]`."""
  rotation = transform.Rotation.from_matrix(pose[:, :3] @ poses_lib.OPENCV)
  return rotation.as_quat(scalar_first=True), np.asarray(pose[:, 3])


def from_page(wxyz: np.ndarray, position: np.ndarray) -> np.ndarray:
  """Returns the pose `[3, 4]` of a page's camera."""
  rotation = transform.Rotation.from_quat(wxyz, scalar_first=True).as_matrix()
  pose: np.ndarray = np.concatenate(
    [rotation @ poses_lib.OPENCV, np.asarray(position)[:, None]], axis=1
  )
  return pose


def occupied_cells(model: models.Model) -> np.ndarray:
  """Returns the middles of occupied cells `[N, 3]`, in the field's own space.

  At most 50,000, evenly; none where the renderer keeps no grid.
  """
  march = model.record['renderer'].get('march')
  if march is None:
    return np.zeros((0, 3))
  box, count = np.asarray(march['box'], np.float64), march['resolution']
  middle = (np.indices((count,) * 3).reshape(3, -1).T + 0.5) / count
  points = box[0] + middle * (box[1] - box[0])
  points = points[model.occupied(points)]
  return points[:: -(-len(points) // _MAX_CELLS) or 1]


def check_port(host: str, port: int) -> None:
  """Checks that a server can listen.

  Raises:
    UserError: if it cannot.
  """
  try:
    with contextlib.closing(socket.socket()) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind((host, port))
  except OSError as error:
    raise errors.UserError(
      f'--port: {host}:{port} cannot be used ({error.strerror}). Choose '
      'another --port, or --host=127.0.0.1.'
    ) from error


def seen_from_anywhere(scene: scenes.Scene) -> scenes.Scene:
  """Returns a scene whose rays reach its box from far outside.

  Where there is no box nothing else ends the rays: near and far stay.
  """
  if scene.box is None:
    return scene
  return scene._replace(near=0.05 * scene.near, far=20 * scene.far)


def photos_of(split: scenes.Split[Any], background: Any) -> Photo:
  """Returns a function of an index that returns a photograph as shown."""
  return lambda i: media.to_uint8(
    scenes.to_float(split.images[i], background=background)
  )


def _up(poses: np.ndarray) -> np.ndarray:
  """Returns the unit vector that is up for most cameras."""
  up = poses[:, :, 1].mean(axis=0)
  length = np.linalg.norm(up)
  return up / length if length > 0.1 else np.array([0.0, 0.0, 1.0])


def _spread(poses: np.ndarray) -> float:
  """Returns how far cameras are from their middle, 1 for a single one."""
  middle = poses[..., 3].mean(axis=0)
  distance = np.linalg.norm(poses[..., 3] - middle, axis=-1)
  return float(np.max(distance)) or 1.0
