import pathlib
import pickle
from unittest import mock

import chex
import jax
import numpy as np
from absl.testing import parameterized

from experiments.processes import messages, multihost
from nerf_haiku import cameras, checkpoints, errors
from tests.support import hostile, stores

_VIEWS = cameras.Cameras(
  np.ones((2, 3, 4)), np.ones((2, 4)), np.ones((2, 2), np.int32)
)


class InitializeTest(chex.TestCase):
  @parameterized.parameters(
    ((None, 2, 0), '--coordinator is required together with --num_processes, '),
    (('a:1', None, 0), '--num_processes is required together with --coordi'),
    (('a:1', 2, None), '--process_index is required together with --coordi'),
    (('a:1', 2, 2), '--process_index: got 2; must be from 0 to 1'),
    (('a:1', 2, -1), '--process_index: got -1'),
    (('a:1', 0, 0), '--num_processes: got 0; must be at least 1'),
    (('a', 2, 0), "--coordinator: got 'a'; must be host:port"),
    (('a:65536', 2, 0), "--coordinator: got 'a:65536'; must be host:port"),
  )
  def test_names_a_wrong_flag(self, flags, message):
    with self.assertRaisesRegex(errors.UserError, message):
      multihost.initialize(*flags)

  @parameterized.parameters(
    ('UNKNOWN: Failed to start RPC server', 'cannot listen at 127.0.0.1:1;'),
    ('DEADLINE_EXCEEDED: a\nb', r'300 s, .* \(DEADLINE_EXCEEDED: a\)\.$'),
  )
  def test_explains_why_processes_cannot_connect(self, reason, message):
    with (
      mock.patch.object(multihost.heartbeat, 'on_abort'),
      mock.patch.object(
        multihost.coordination, 'initialize', side_effect=RuntimeError(reason)
      ),
      self.assertRaisesRegex(errors.UserError, message),
    ):
      multihost.initialize('127.0.0.1:1', 2, 0)
    self.assertFalse(multihost.is_multihost())

  def test_one_process_stays_alone(self):
    multihost.initialize('127.0.0.1:1', 1, 0)
    multihost.initialize(None, None, None)
    self.assertFalse(multihost.is_multihost())
    self.assertEqual(multihost.run_on_main(lambda: 3), 3)
    self.assertIs(multihost.collective(len, ()), len)
    multihost.check_same({'--seed': 3})
    # These return, and so errors are raised as usual.
    multihost.exit_process(3)
    multihost.wait_for_failed_process(RuntimeError('UNKNOWN'))
    multihost.exit_with_traceback(RuntimeError('a'))


class RunOnMainTest(chex.TestCase):
  """Process 0 and another one, one after the other, at the same store."""

  def setUp(self):
    super().setUp()
    self.store = stores.Store()

  def _run(self, is_main, task):
    """Returns what a task returns in process 0, or in another one."""
    channel = multihost._Channel(self.store, mock.Mock())
    with (
      mock.patch.object(multihost, '_channel', channel),
      mock.patch.object(multihost, 'is_main', return_value=is_main),
    ):
      return task()

  @parameterized.parameters(
    (None,),
    (True,),
    (15,),
    ('text',),
    ({'psnr': None, 'times': {'a': 1.5}, 'views': [1, 2], 'b': (1, 'a')},),
    (({'psnr': 3.0}, 'text'),),
  )
  def test_plain_results_arrive_as_they_are(self, result):
    first = self._run(True, lambda: multihost.run_on_main(lambda: result))
    other = self._run(False, lambda: multihost.run_on_main(self.fail))
    self.assertIs(first, result)
    self.assertEqual(repr(other), repr(result))

  def test_named_tuples_arrive_with_their_types(self):
    result = (_VIEWS, checkpoints.CheckpointInfo(7, 0, {'seed': 3}))
    like = (jax.eval_shape(lambda: _VIEWS), checkpoints.CheckpointInfo)
    self._run(True, lambda: multihost.run_on_main(lambda: result, like=like))
    other = self._run(
      False, lambda: multihost.run_on_main(self.fail, like=like)
    )
    chex.assert_trees_all_equal(other, result)
    self.assertEqual([type(x) for x in other], [type(x) for x in result])

  def test_other_processes_take_part_in_collective_functions(self):
    calls = []

    def task(variables):
      def render(variables, views, index, viewdir_camera=None):
        calls.append((variables, views, index, viewdir_camera))
        return index + 1

      types = (cameras.Cameras, int, cameras.Cameras)
      collectives = [
        multihost.collective(lambda _: self.fail(), ()),
        multihost.collective(render, types),
      ]

      def main():
        render = collectives[1]
        return [render(variables, _VIEWS, 3), render('a', _VIEWS, 4, _VIEWS)]

      return multihost.run_on_main(main, variables)

    self.assertEqual(self._run(True, lambda: task('main')), [4, 5])
    first = calls[:]
    calls.clear()
    self.assertEqual(self._run(False, lambda: task('other')), [4, 5])
    self.assertEqual([x[0] for x in calls], ['other', 'other'])
    chex.assert_trees_all_equal([x[1:] for x in calls], [x[1:] for x in first])
    self.assertIs(type(calls[1][3]), cameras.Cameras)
    self.assertEqual(
      self.store.deleted, ['message/1', 'message/2', 'message/3']
    )
    self.assertEqual(self.store.barriers, ['received/3', 'received/3'])

  def test_an_error_of_process_0_is_raised_on_all(self):
    def fail():
      raise OSError('No space left on device')

    with self.assertRaisesRegex(OSError, 'No space'):
      self._run(True, lambda: multihost.run_on_main(fail))
    with self.assertRaisesRegex(multihost.MainProcessFailedError, 'No space'):
      self._run(False, lambda: multihost.run_on_main(self.fail))

  def test_names_a_setting_that_differs(self):
    main = {'--seed': 1, 'config.skips': (4,), 'config.near': 2.0}
    self._run(True, lambda: multihost.check_same(main))
    self._run(False, lambda: multihost.check_same(dict(main)))
    message = r'config.skips: got \(5,\), but process 0 has \(4,\); all proc'
    with self.assertRaisesRegex(errors.UserError, message):
      self._run(
        False, lambda: multihost.check_same(main | {'config.skips': (5,)})
      )

  def test_a_pickled_message_does_not_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'made'
    payload = pickle.dumps(hostile.Payload(folder))
    self.store.key_value_set_bytes('message/1', payload)
    with self.assertRaises(messages.MessageError):
      self._run(False, lambda: multihost.run_on_main(self.fail))
    self.assertFalse(folder.exists())

  @parameterized.parameters(
    ('text',),
    (None,),
    (('result',),),
    (('error', 3),),
    (('run', 'print(1)'),),
    (('call', 1, ()),),
    (('call', -1, ()),),
    (('call', 0, [1]),),
    (('call', 0, (1,)),),
    (('call', 0, ((1, 2), 3)),),
    (('call', 'fail', ()),),
  )
  def test_refuses_a_message_of_no_known_kind(self, message):
    self.store.key_value_set_bytes('message/1', messages.encode(message))

    def task():
      multihost.collective(lambda *_: self.fail(), (cameras.Cameras,))
      multihost.run_on_main(self.fail)

    with self.assertRaises(messages.MessageError):
      self._run(False, task)
