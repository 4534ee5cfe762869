import json
import os
import signal
import subprocess
import threading
import time
from unittest import mock

import chex

from experiments.processes import heartbeat
from tests.support import stores

_OTHER = heartbeat._Process(name='host1, pid 7', pid=7, namespace='other')


class HeartbeatTest(chex.TestCase):
  """Process 0 of two; the test is process 1."""

  def setUp(self):
    super().setUp()
    self.store = stores.Store()
    self.exit_code, self.exited = None, threading.Event()
    self.reported = b''

  def _exit(self, code):
    if not self.exited.is_set():
      self.exit_code = code
      self.exited.set()

  def _write(self, descriptor, text):
    self.assertEqual(descriptor, 2)
    self.reported += text

  def _start(self, other=_OTHER, timeout=0.3):
    self.store.key_value_set('process/1', json.dumps(other))
    system = mock.Mock(wraps=os, _exit=self._exit, write=self._write)
    self.enterContext(mock.patch.object(heartbeat, 'os', system))
    self.enterContext(mock.patch.object(heartbeat, 'on_abort'))
    started = heartbeat.Heartbeat(
      self.store, 0, 2, '127.0.0.1:1', interval=0.02, timeout=timeout
    )
    self.addCleanup(self._end, started)
    return started

  def _end(self, started):
    self.store.key_value_set('exit/1', '', allow_overwrite=True)
    started.exit_process(0, None)

  def _beat(self, number):
    self.store.key_value_set('heartbeat/1', str(number), allow_overwrite=True)

  def test_ends_if_another_process_is_silent(self):
    self._start()
    self._beat(1)
    self.assertTrue(self.exited.wait(10))
    self.assertEqual(self.exit_code, 1)
    what = 'has sent no heartbeat for 0.3 s'
    self.assertIn(
      f'Process 1 (host1, pid 7) {what}. Process 0 exits. Run the same command',
      self.reported.decode(),
    )
    self.assertEqual(self.store.values['exit/0'], f'process 1 {what}')

  def test_ends_if_another_process_has_failed(self):
    self._start(timeout=60)
    self.store.key_value_set('exit/1', 'config.num_rand: got 255.')
    self.assertTrue(self.exited.wait(10))
    self.assertEqual(self.exit_code, 1)
    self.assertIn(
      'Process 1 (host1, pid 7) failed: config.num_rand: got 255. Process 0',
      self.reported.decode(),
    )

  def test_continues_while_another_process_sends_heartbeats(self):
    self._start(timeout=1.0)
    for number in range(75):
      self._beat(number)
      time.sleep(0.02)
    self.assertFalse(self.exited.is_set())
    self.assertGreater(int(self.store.values['heartbeat/0']), 1)

  def test_continues_after_another_process_has_finished(self):
    self._start()
    self._beat(1)
    self.store.key_value_set('exit/1', '')
    self.assertFalse(self.exited.wait(0.6))

  def test_the_exit_of_process_0_waits_for_the_others(self):
    started = self._start(timeout=60)
    thread = threading.Thread(target=started.exit_process, args=(7, None))
    thread.start()
    self.assertFalse(self.exited.wait(0.2))
    self.store.key_value_set('exit/1', '')
    thread.join(10)
    self.assertEqual(self.exit_code, 7)

  def _suspended(self):
    process = subprocess.Popen(['sleep', '60'])
    self.addCleanup(process.wait)
    self.addCleanup(process.kill)
    process.send_signal(signal.SIGSTOP)
    return process

  def test_kills_a_suspended_process_of_this_host(self):
    if not hasattr(os, 'pidfd_open'):
      self.skipTest('needs os.pidfd_open.')
    process = self._suspended()
    this = heartbeat._this_process()
    self._start(this._replace(pid=process.pid))
    self.assertTrue(self.exited.wait(10))
    self.assertEqual(process.wait(10), -signal.SIGKILL)

  def test_kills_no_process_that_only_has_the_same_pid(self):
    process = self._suspended()
    self._start(_OTHER._replace(pid=process.pid))
    self.assertTrue(self.exited.wait(10))
    self.assertIsNone(process.poll())
