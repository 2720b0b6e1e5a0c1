import errno
import os
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from bit_jax.errors import InputError, UnavailableError
from bit_jax.parallel import sharding
from bit_jax.storage import checkpoint


def make_state(mesh, value):
  state = {
    "step": jnp.int32(value),
    "params": {"norm-pre-head": {"scale": jnp.full((8,), float(value))}},
    "opt_state": (jnp.full((3, 5), -float(value)),),
  }
  return jax.device_put(state, sharding.replicated(mesh))


def abstract(state, mesh):
  whole = sharding.replicated(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_to_another_number_of_devices(tmp_path, mesh, one_device):
  state = make_state(mesh, 3)
  writer = checkpoint.Checkpointer(tmp_path, keep=1)
  writer.save(3, state, {"variant": "R50x1", "names": ["a", "ü"]})
  writer.close()
  path = tmp_path / "3"
  saved = checkpoint.read_saved(path)
  assert saved.metadata == {"variant": "R50x1", "names": ["a", "ü"]}
  assert saved.fields == set(state)
  restored = checkpoint.restore(path, abstract(state, one_device))
  assert_equal(restored, state)
  checkpoint.check(path, saved, restored)
  for leaf in jax.tree.leaves(restored):
    assert leaf.sharding == sharding.replicated(one_device)


def test_keeps_the_newest_and_writes_every_one_asked_for(tmp_path, mesh):
  writer = checkpoint.Checkpointer(tmp_path / "c", keep=2)
  for step in (10, 20, 30):  # No waiting in between.
    writer.save(step, make_state(mesh, step), {})
  writer.close()
  assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["20", "30"]


def test_a_saved_state_is_a_copy(tmp_path, mesh):
  """The next step reuses the state's memory while it is being written."""
  step = jax.jit(lambda x: x + 1.0, donate_argnums=0)
  state = jax.device_put(jnp.zeros((512, 512)), sharding.replicated(mesh))
  writer = checkpoint.Checkpointer(tmp_path, keep=9)
  for i in range(1, 5):
    state = step(state)
    writer.save(i, {"params": {"x": state}}, {})
    for _ in range(3):
      state = step(state)
  writer.close()
  for i in range(1, 5):
    params, _, _ = checkpoint.load_weights(tmp_path / str(i))
    np.testing.assert_array_equal(params["x"], np.full((512, 512), 4 * i - 3))


def test_weights_alone_come_as_arrays_on_the_host(tmp_path, mesh):
  state = make_state(mesh, 7)
  writer = checkpoint.Checkpointer(tmp_path / "checkpoints", keep=1)
  writer.save(7, state, {"class_names": ["x"]})
  writer.close()
  for path in (
    tmp_path,
    tmp_path / "checkpoints",
    tmp_path / "checkpoints" / "7",
  ):
    assert checkpoint.find(path) == tmp_path / "checkpoints" / "7"
  params, stats, metadata = checkpoint.load_weights(checkpoint.find(tmp_path))
  assert isinstance(params["norm-pre-head"]["scale"], np.ndarray)
  assert_equal(params, jax.device_get(state["params"]))
  assert stats == {}
  assert metadata == {"class_names": ["x"]}


def test_find_passes_over_what_is_no_checkpoint(tmp_path):
  assert checkpoint.find(tmp_path) is None
  assert checkpoint.find(tmp_path / "missing") is None
  (tmp_path / "checkpoints" / "12").mkdir(parents=True)
  assert checkpoint.find(tmp_path) is None


def test_damaged_checkpoint_is_named(tmp_path, mesh):
  state = make_state(mesh, 1)
  writer = checkpoint.Checkpointer(tmp_path, keep=1)
  writer.save(1, state, {})
  writer.close()
  for path in (tmp_path / "1" / "state").rglob("*"):
    if path.is_file() and path.stat().st_size:
      path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(InputError, match=f"{tmp_path}/1 cannot be read"):
    checkpoint.load_weights(tmp_path / "1")
  with pytest.raises(InputError, match=f"{tmp_path}/1 cannot be read"):
    checkpoint.restore(tmp_path / "1", abstract(state, mesh))


def test_a_failed_write_names_the_folder(tmp_path, mesh, monkeypatch):
  def disk_full(*_, **__):
    raise OSError(28, "No space left on device")

  with checkpoint.Checkpointer(tmp_path / "c", keep=1) as writer:
    monkeypatch.setattr(writer._manager, "save_async", disk_full)
    message = f"cannot be written to {tmp_path}/c: .*No space left"
    with pytest.raises(UnavailableError, match=message):
      writer.save(1, make_state(mesh, 1), {})


def test_closing_does_not_hide_the_first_error(tmp_path, monkeypatch):
  def fails():
    raise OSError("second")

  writer = checkpoint.Checkpointer(tmp_path / "c", keep=1)
  close = writer._manager.close
  monkeypatch.setattr(writer._manager, "close", fails)
  with pytest.raises(ValueError, match="first"), writer:
    raise ValueError("first")
  with pytest.raises(InputError, match="second"), writer:
    pass
  close()


def save(folder, mesh, *steps, **kw):
  with checkpoint.Checkpointer(folder, **{"keep": 9, **kw}) as writer:
    for step in steps:
      writer.save(step, make_state(mesh, step), {"variant": "x"})


def flip_a_bit(folder):
  """Flips one bit in the middle of the file that holds most."""
  files = [path for path in folder.rglob("*") if path.is_file()]
  path = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_every_so_many_steps_stay(tmp_path, mesh):
  save(tmp_path, mesh, 10, 20, 30, 40, 50, keep=1, keep_every_steps=20)
  assert checkpoint.steps(tmp_path) == [50, 40, 20]
  assert checkpoint.steps(tmp_path / "none") == []


@pytest.mark.skipif(
  not os.path.isdir("/proc/self/fd"), reason="counts open files by /proc"
)
def test_saves_leave_no_open_files_and_threads(tmp_path, mesh):
  def held():
    return len(os.listdir("/proc/self/fd")), threading.active_count()

  state = make_state(mesh, 1)
  with checkpoint.Checkpointer(tmp_path / "c", keep=1) as writer:
    counts = []
    for step in range(1, 9):
      writer.save(step, state, {})
      writer.wait()
      counts.append(held())
  assert counts[-1] == counts[2]


def test_flipped_bits_are_found(tmp_path, mesh):
  noise = jax.random.normal(jax.random.key(0), (100, 100))
  state = jax.device_put({"params": {"x": noise}}, sharding.replicated(mesh))
  message = f"{tmp_path}/3 is damaged: the bits of params/x are not those"
  path = tmp_path / "3"
  with checkpoint.Checkpointer(tmp_path, keep=9) as manager:
    manager.save(3, state, {})
  flip_a_bit(path)
  restored = checkpoint.restore(path, abstract(state, mesh))
  with pytest.raises(checkpoint.DamagedError, match=message):
    checkpoint.check(path, checkpoint.read_saved(path), restored)
  aside = checkpoint.set_aside(path)
  assert aside.name == "3.damaged"
  assert checkpoint.steps(tmp_path) == []
  with checkpoint.Checkpointer(tmp_path, keep=9) as manager:
    manager.save(3, state, {})  # The step can be saved again.
  with pytest.raises(checkpoint.DamagedError, match="damaged: the bits of"):
    checkpoint.load_weights(aside)
  assert_equal(checkpoint.load_weights(tmp_path / "3")[0], state["params"])


def test_metadata_is_what_was_saved(tmp_path, mesh):
  save(tmp_path, mesh, 1)
  assert checkpoint.load_weights(tmp_path / "1")[2] == {"variant": "x"}


def test_a_disk_that_fails_does_not_make_a_checkpoint_damaged(
  tmp_path, mesh, monkeypatch
):
  save(tmp_path, mesh, 1)
  path, state = tmp_path / "1", make_state(mesh, 1)
  checkpoint.silence_orbax()

  def logs(_):  # Orbax logs this error, and returns no arrays.
    logging.warning("failed: %s %s", "x", OSError(errno.EMFILE, "Too many"))
    return types.SimpleNamespace(metadata=None, custom_metadata={"a": 1})

  def raises(*_):
    raise ValueError("INTERNAL: Failed to read [os_error_code='5']")

  filters = list(logging.get_absl_logger().filters)
  monkeypatch.setattr(checkpoint.ocp, "metadata", logs)
  for read in (checkpoint.read_saved, checkpoint.load_weights):
    with pytest.raises(UnavailableError, match=f"{path} cannot be read: .*Too"):
      read(path)
  assert logging.get_absl_logger().filters == filters
  monkeypatch.undo()
  monkeypatch.setattr(checkpoint.ocp, "load", raises)
  with pytest.raises(UnavailableError, match=f"{path} cannot be read: INTER"):
    checkpoint.restore(path, abstract(state, mesh))
  with pytest.raises(UnavailableError, match=f"{path} cannot be read: INTER"):
    checkpoint.load_weights(path)


def test_a_folder_that_cannot_be_opened_for_writing(tmp_path, monkeypatch):
  def no_files_left(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")

  monkeypatch.setattr(checkpoint.ocp.training, "Checkpointer", no_files_left)
  with pytest.raises(UnavailableError, match="cannot be written to .*Too many"):
    checkpoint.Checkpointer(tmp_path, keep=1)


def test_the_checkpoint_of_one_more_step_is_kept(tmp_path, mesh):
  with checkpoint.Checkpointer(tmp_path, keep=1) as manager:
    for step, also in ((1, 0), (2, 2), (3, 2), (4, 3), (5, 3), (6, 5)):
      manager.keep_also(also)
      manager.save(step, make_state(mesh, step), {})
      manager.wait()
      # That of before is removed once the next save is complete.
      wanted = {1: [1], 2: [2], 3: [3, 2], 4: [4, 3], 5: [5, 3], 6: [6, 5]}
      assert checkpoint.steps(tmp_path) == wanted[step]
