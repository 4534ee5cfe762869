"""The viewer's page in a real browser, and its picture in the docs.

  python -m tests.programs.viewer_browser_test docs/images/viewer.png MODEL_DIR

makes the screenshot that README shows.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import chex
import numpy as np
import pytest
from PIL import Image

from experiments.outputs import json_files, run_dir
from tests.support import configs, ports, trained

_ROOT = pathlib.Path(__file__).parents[2]
_BROWSER = shutil.which('chromium')
_ARGS = (
  '--no-sandbox',
  '--use-gl=angle',
  '--use-angle=swiftshader',
  '--enable-unsafe-swiftshader',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
)
_TIMEOUT = 120.0  # Seconds until something that never happens is missed.


@contextlib.contextmanager
def _serve(model_dir, *flags):
  """Runs view.py, and yields its port and process."""
  port = ports.free_port()
  program = subprocess.Popen(
    [
      sys.executable,
      'experiments/view.py',
      f'--model_dir={model_dir}',
      f'--port={port}',
      *flags,
    ],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  try:
    end = time.monotonic() + _TIMEOUT
    while True:
      try:
        urllib.request.urlopen(f'http://127.0.0.1:{port}', timeout=5).close()
        break
      except OSError:
        if program.poll() is not None or time.monotonic() > end:
          raise AssertionError(program.communicate()[0]) from None
        time.sleep(0.1)
    yield port, program
  finally:
    program.kill()
    program.communicate()


@contextlib.contextmanager
def _open_page(port, **size):
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=_BROWSER, headless=True, args=list(_ARGS)
    )
    page = browser.new_page(viewport=size)
    page.requested = []
    page.on('request', lambda request: page.requested.append(request.url))
    page.on('websocket', lambda request: page.requested.append(request.url))
    page.goto(f'http://127.0.0.1:{port}')
    page.get_by_text('Keep this camera').wait_for(timeout=1e3 * _TIMEOUT)
    yield page
    browser.close()


def _picture(page):
  """Returns the left half of the page, where no control is."""
  path = pathlib.Path(page.screenshot_folder) / 'page.png'
  page.screenshot(path=path)
  pixels = np.asarray(Image.open(path).convert('RGB')).astype(int)
  return pixels[150:, : pixels.shape[1] // 2]


def _wait_for(condition):
  end = time.monotonic() + _TIMEOUT
  while not condition():
    if time.monotonic() > end:
      raise AssertionError('It never happened.')
    time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(_BROWSER is None, reason='there is no Chromium here')
class ViewerBrowserTest(chex.TestCase):
  def test_a_page_shows_the_scene_and_asks_no_other_machine(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    record = trained.record('occupancy')
    scene = trained.scene(box=np.array([[-1.0] * 3, [1.0] * 3]))
    trained.write_run(folder, record, scene)
    settings = run_dir.run_settings(
      configs.small(width=16, num_train=2, num_test=1),
      seed=0,
      data_dir=None,
      init_from=None,
    )
    json_files.write_json(folder / run_dir.CONFIG, settings)
    path = folder / 'path.json'
    with (
      _serve(folder, '--nophotos', f'--save_path={path}') as (port, program),
      _open_page(port, width=900, height=600) as page,
    ):
      page.screenshot_folder = folder
      _wait_for(lambda: np.ptp(_picture(page)) > 30)
      # A drag turns the scene, and the picture with it.
      before = _picture(page)
      page.mouse.move(300, 400)
      page.mouse.down()
      page.mouse.move(200, 350, steps=5)
      page.mouse.up()
      _wait_for(lambda: np.mean(np.abs(_picture(page) - before)) > 1)
      page.get_by_role('checkbox', name='box').check()
      page.get_by_text('Keep this camera').click()
      page.mouse.move(300, 400)
      page.mouse.wheel(0, 500)
      time.sleep(1)
      page.get_by_text('Keep this camera').click()
      page.get_by_text('Write path.json').click()
      _wait_for(path.exists)
      # A second client, whose tab is closed.
      other = page.context.browser.new_page(
        viewport={'width': 500, 'height': 400}
      )
      other.screenshot_folder = folder
      other.goto(f'http://127.0.0.1:{port}')
      _wait_for(lambda: np.ptp(_picture(other)) > 30)
      other.close()
      page.set_viewport_size({'width': 700, 'height': 500})
      _wait_for(lambda: np.ptp(_picture(page)) > 30)
      hosts = {url.split('/')[2] for url in page.requested if '//' in url}
      self.assertEqual(hosts, {f'127.0.0.1:{port}'})
      program.send_signal(signal.SIGINT)
      said, _ = program.communicate(timeout=_TIMEOUT)
      self.assertEqual(program.returncode, 130, said)


def _take_screenshot(path: str, model_dir: str) -> None:
  with (
    _serve(os.path.abspath(model_dir)) as (port, _),
    _open_page(port, width=1000, height=640) as page,
  ):
    time.sleep(15)  # Photographs are read, and the view is sharp.
    with contextlib.suppress(Exception):
      page.locator('.mantine-Notification-closeButton').first.click()
    page.get_by_role('checkbox', name='training cameras').check()
    page.get_by_role('checkbox', name='box').check()
    # From above.
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(250, 310, steps=10)
    page.mouse.up()
    page.mouse.move(20, 620)
    time.sleep(8)
    page.screenshot(path=path)


if __name__ == '__main__':
  _take_screenshot(*sys.argv[1:])
