"""Tests of remote.py, and of everything that works in gs:// work directories.

The store is in memory and has the limits of a real one: an object cannot be
appended to, a file opened for writing cannot seek, an object becomes visible
when it is closed, and folders are only prefixes of names.
"""

import http.server
import io
import json
import pathlib
import queue
import sys
import tempfile
import threading
import types
import urllib.parse

import fsspec
import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath
from fsspec.implementations import memory
from fsspec.registry import _registry
from tensorboard.backend.event_processing import plugin_event_accumulator

from bit_jax import weights
from bit_jax.data import source
from bit_jax.errors import InputError, UnavailableError
from bit_jax.models import paths
from bit_jax.parallel import sharding
from bit_jax.recipe import resolve
from bit_jax.run import workdir_files
from bit_jax.storage import checkpoint, files, remote
from bit_jax.weights import array_files, param_shapes
from bit_jax.writers import metrics_file, writer
from configs import downstream

RUN = epath.Path("gs://bucket/runs/a")
# Time limit of waits; only a failing test reaches it.
SECS = 20


class HttpError(Exception):
  """An error of gcsfs that is no OSError."""

  __module__ = "gcsfs.retry"


class Upload(io.BytesIO):
  def __init__(self, bucket, path):
    super().__init__()
    self.bucket, self.path = bucket, path

  def seekable(self):
    return False

  def seek(self, *_):
    raise OSError("Seek only available in read mode")

  def close(self):
    if not self.closed:
      content = self.getvalue()
      super().close()
      self.bucket.put(self.path, content)


class Bucket(memory.MemoryFileSystem):
  """A store in memory, whose uploads and errors the test controls.

  Attributes:
    gate: Uploads wait until it is set.
    error: Raised by uploads and reads; None for no error.
    attempts: Receives the name of each file whose upload has ended or failed.
  """

  protocol = ("gs", "gcs")
  cachable = False
  gate, attempts = threading.Event(), queue.Queue()
  error: Exception | None = None

  @classmethod
  def _strip_protocol(cls, path):
    path = path.removeprefix("gs://").strip("/")
    return "/" + path if path else ""

  def mkdir(self, *_, **__):
    pass

  def makedirs(self, *_, **__):
    pass

  def exists(self, path, **kwargs):
    self.fail()
    return super().exists(path, **kwargs)

  def fail(self):
    if self.error:
      raise self.error

  def _open(self, path, mode="rb", **_):
    assert mode in ("rb", "wb"), f"a store cannot open {path} with {mode!r}"
    if mode == "wb":
      return Upload(self, path)
    self.fail()
    return io.BytesIO(super()._open(path).getvalue())

  def put(self, path, content):
    assert self.gate.wait(SECS)
    try:
      self.fail()
      self.store[path] = memory.MemoryFile(self, path, content)
    finally:
      self.attempts.put(path.rpartition("/")[2])


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """Serves an empty store as gs://, and empties the temporary folder."""
  bucket = type("Bucket", (Bucket,), {"store": {}, "pseudo_dirs": [""]})
  bucket.gate, bucket.attempts = threading.Event(), queue.Queue()
  bucket.gate.set()
  monkeypatch.delitem(_registry, "gcs", raising=False)
  fsspec.register_implementation("gcs", bucket, clobber=True)
  monkeypatch.setattr(fsspec.config, "conf", {})
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  backend.fsspec_backend._get_filesystem.cache_clear()
  yield bucket
  backend.fsspec_backend._get_filesystem.cache_clear()


class StorageRequest(http.server.BaseHTTPRequestHandler):
  """Answers TensorStore's requests to write an object and to read one."""

  protocol_version = "HTTP/1.1"

  def do_POST(self):
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
    (name,) = query["name"]
    content = self.rfile.read(int(self.headers["content-length"]))
    if "ifGenerationMatch" in query and self.path_of(name) in self.store:
      self.answer(412, b"")
      return
    self.server.bucket().put(self.path_of(name), content)
    told = {key: "1" for key in ("generation", "metageneration")}
    told |= {"name": name, "bucket": "bucket", "size": str(len(content))}
    told |= dict.fromkeys(("timeCreated", "updated"), "2026-01-01T00:00:00Z")
    self.answer(200, json.dumps(told).encode())

  def do_GET(self):
    name = urllib.parse.urlsplit(self.path).path.rpartition("/")[2]
    found = self.store.get(self.path_of(urllib.parse.unquote(name)))
    if not found:
      self.answer(404, b"")
      return
    content, span = found.getvalue(), self.headers["range"]
    if not span:
      self.answer(200, content)
      return
    first, last = map(int, span.removeprefix("bytes=").split("-"))
    part = content[first : last + 1]
    where = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
    self.answer(206, part, {"Content-Range": where})

  @property
  def store(self):
    return self.server.bucket.store

  def path_of(self, name):
    return f"/bucket/{name}"

  def answer(self, code, content, headers=()):
    self.send_response(code)
    headers = {"X-Goog-Generation": "1", **dict(headers)}
    for key, value in headers.items():
      self.send_header(key, value)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_):
    pass


@pytest.fixture
def api(bucket, monkeypatch):
  """Serves the store to TensorStore too, which does not use fsspec."""
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StorageRequest)
  server.bucket = bucket
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  url = f"http://127.0.0.1:{server.server_port}"
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
  # Else it looks for credentials on this machine.
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  # Comes with gcsfs; Orbax asks it for the kind of the bucket only.
  client = types.SimpleNamespace(get_bucket=lambda name: object())
  storage = types.SimpleNamespace(Client=lambda: client)
  cloud = types.SimpleNamespace(storage=storage)
  monkeypatch.setitem(sys.modules, "google.cloud", cloud)
  yield
  server.shutdown()
  thread.join()
  server.server_close()


def names(bucket, folder=RUN):
  """Returns the names of the objects in a folder."""
  prefix = bucket._strip_protocol(str(folder)) + "/"
  return sorted(path.removeprefix(prefix) for path in bucket.store)


def create(start_step):
  return writer.create(
    RUN, total_steps=40, start_step=start_step, batch_size=8, is_lead=True
  )


@pytest.mark.parametrize(
  ("path", "is_remote", "absolute"),
  [
    ("gs://bucket/run", True, "gs://bucket/run"),
    (RUN, True, "gs://bucket/runs/a"),
    ("/tmp/gs/run", False, "/tmp/gs/run"),
    (epath.Path("run"), False, f"{pathlib.Path.cwd()}/run"),
  ],
)
def test_only_urls_of_a_store_are_remote(path, is_remote, absolute):
  assert remote.is_remote(path) == is_remote
  assert str(remote.absolute(path)) == absolute


def test_check_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  monkeypatch.delitem(_registry, "gcs", raising=False)
  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  backend.fsspec_backend._get_filesystem.cache_clear()
  with pytest.raises(
    InputError, match=r"^--workdir=gs://bucket/runs/a: pip install gcsfs$"
  ):
    remote.check(RUN)


def test_check_accepts_what_is_there_or_not(bucket, tmp_path):
  remote.check(tmp_path / "none")
  remote.check(RUN)
  # A host would not see what others write: gcsfs keeps listings for ever.
  assert not backend.fsspec_backend.fs(RUN).dircache.use_listings_cache
  files.write_text(RUN / "x", "y")
  remote.check(RUN)


@pytest.mark.parametrize(
  "error", [HttpError("no\naccess"), OSError("no access")]
)
def test_check_tells_why_a_store_refuses(bucket, error):
  bucket.error = error
  with pytest.raises(
    InputError, match=r"^weights=gs://bucket/runs/a cannot be used: no access$"
  ):
    remote.check(RUN, "weights")


def test_check_refuses_other_urls():
  with pytest.raises(InputError, match=r"^--workdir=s3://b/r: expected a fold"):
    remote.check("s3://b/r")


def test_errors_that_are_not_of_a_client_stay():
  with pytest.raises(KeyError), remote.os_errors():
    raise KeyError("ours")


def test_metrics_and_events_come_and_are_cut_back_on_resume(bucket, tmp_path):
  for start_step, last in ((0, 40), (20, 30)):
    metrics = create(start_step)
    for step in range(start_step + 10, last + 1, 10):
      metrics.write_scalars(step, {"train/loss": float(last)})
    metrics.close()
  records = metrics_file.read_metrics(RUN / "metrics.jsonl")
  assert [(m["step"], m["train/loss"]) for m in records] == [
    (10, 40.0),
    (20, 40.0),
    (30, 30.0),
  ]
  events = [name for name in names(bucket) if name != "metrics.jsonl"]
  assert len(events) == 2
  assert not list(tmp_path.iterdir())
  # Names end in a counter; both may be of one second.
  events.sort(key=lambda name: int(name.rsplit(".", 1)[1]))
  for i, name in enumerate(events):
    (RUN / name).copy(tmp_path / f"events.out.tfevents.{i}")
  board = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()
  assert [e.step for e in board.Tensors("train/loss")] == [10, 20, 30]


def test_a_malformed_metrics_file_is_named_where_it_is(bucket, tmp_path):
  files.write_text(RUN / "metrics.jsonl", "what\n{}\n")
  with pytest.raises(InputError, match=f"^{RUN}/metrics.jsonl, line 1: "):
    create(0)
  assert (RUN / "metrics.jsonl").read_text() == "what\n{}\n"
  assert not list(tmp_path.iterdir())


def test_metrics_that_cannot_be_read_are_named(bucket):
  bucket.error = HttpError("no access")
  with pytest.raises(
    InputError, match=r"a/metrics\.jsonl: cannot be read: no access"
  ):
    create(0)


def test_flush_copies_soon_and_nothing_waits_for_the_store(bucket):
  metrics = create(0)
  bucket.gate.clear()
  for step in (1, 2, 3):
    metrics.write_scalars(step, {"train/loss": 1.0})
    metrics.flush()
  assert not bucket.store
  bucket.gate.set()
  while bucket.attempts.get(timeout=SECS) != "metrics.jsonl":
    pass
  records = metrics_file.read_metrics(RUN / "metrics.jsonl")
  assert records[0] == {"step": 1, "train/loss": 1.0}
  metrics.close()
  assert len(metrics_file.read_metrics(RUN / "metrics.jsonl")) == 3


def test_what_has_changed_is_copied_now_and_then_and_nothing_else(bucket):
  mirror = remote.Mirror(RUN, every_secs=0.001)

  def place(name, text):
    (mirror.folder.parent / "new").write_text(text)
    (mirror.folder.parent / "new").replace(mirror.folder / name)

  for name, text in (("a", "1"), ("b", "2"), ("b", "34")):
    place(name, text)
    assert bucket.attempts.get(timeout=SECS) == name
    assert (RUN / name).read_text() == text
  mirror.close()
  assert bucket.attempts.empty()


def test_a_copy_that_fails_is_reported_once_and_tried_again(bucket, capsys):
  bucket.error = HttpError("no\nroute")
  mirror = remote.Mirror(RUN, every_secs=0.001)
  (mirror.folder / "a").write_text("1")
  for _ in range(3):
    assert bucket.attempts.get(timeout=SECS) == "a"
  bucket.error = None
  mirror.close()
  assert (RUN / "a").read_text() == "1"
  assert capsys.readouterr().err == (
    "gs://bucket/runs/a: cannot be written: no route; trying again\n"
  )


def test_a_copy_that_fails_at_the_end_is_an_error_and_keeps_the_files(bucket):
  metrics = create(0)
  metrics.write_scalars(1, {"train/loss": 1.0})
  bucket.error = HttpError("no\nroute")
  with pytest.raises(
    InputError,
    match=f"^{RUN}: cannot be written: no route; the metrics are kept in ",
  ) as error:
    metrics.close()
  kept = pathlib.Path(str(error.value).rpartition(" ")[2])
  assert metrics_file.read_metrics(kept / "metrics.jsonl") == [
    {"step": 1, "train/loss": 1.0}
  ]


def test_the_last_copy_comes_after_the_last_event(bucket):
  metrics = create(0)
  # What is closed first is last in this list, see writer_test.py.
  assert isinstance(metrics._writers[0], writer.MirrorWriter)
  metrics.close()


def test_a_request_is_served_once(bucket):
  mirror = remote.Mirror(RUN)
  (mirror.folder / "a").write_text("1")
  mirror.request()
  assert bucket.attempts.get(timeout=SECS) == "a"
  assert not mirror._asked.is_set()
  mirror.close()


def test_threads_end_with_the_writer(bucket):
  before = threading.active_count()
  create(0).close()
  assert threading.active_count() == before


def test_small_files_appear_as_a_whole(bucket):
  for text in ("old", "ä"):
    files.write_text(RUN / "x.json", text)
  assert names(bucket) == ["x.json"]
  assert (RUN / "x.json").read_bytes() == "ä".encode()
  bucket.error = HttpError("no access")
  with pytest.raises(OSError, match="no access"):
    files.write_text(RUN / "x.json", "new")


def test_a_run_claims_its_work_directory(bucket):
  config = resolve.resolve(
    downstream.get_config(), source.DatasetInfo(40, 4, (32, 32))
  )
  run_files = workdir_files.RunFiles(RUN, config)
  run_files.check_unchanged()
  assert workdir_files.read_result(RUN) is None
  run_files.write_config(["a.jpg"], write=True)
  run_files.check_unchanged()
  assert workdir_files.read_held_out(RUN) == ["a.jpg"]
  workdir_files.write_result(RUN, {"step": 3})
  assert workdir_files.read_result(RUN) == {"step": 3}
  assert names(bucket) == ["config.json", "held_out.json", "result.json"]
  bucket.error = HttpError("no access")
  with pytest.raises(
    InputError, match=f"--workdir={RUN} cannot be used: no access"
  ):
    run_files.write_config((), write=True)


def test_weights_come_back(bucket, tmp_path):
  shapes = param_shapes.abstract_params("R14x0.25", 3)
  rng = np.random.default_rng(0)
  params = {k: rng.normal(size=v.shape).astype("f") for k, v in shapes.items()}
  saved = weights.Weights(
    paths.unflatten(params), {}, "R14x0.25", ("a", "b", "c"), {"flip": True}
  )
  weights.save_npz(RUN / "params.npz", saved)
  assert names(bucket) == ["params.npz"]
  for path in (RUN / "params.npz", str(RUN / "params.npz"), RUN):
    loaded = weights.load(path)
    assert loaded.class_names == saved.class_names
    assert loaded.preprocess == saved.preprocess
    for key, value in paths.flatten(loaded.params).items():
      np.testing.assert_array_equal(value, params[key])
  assert not list(tmp_path.iterdir())
  with pytest.raises(InputError, match=f"weights {RUN}/no.npz: no such file"):
    weights.load(RUN / "no.npz")


@pytest.mark.usefixtures("api")
def test_checkpoints_are_kept_found_and_restored(mesh):
  def state(step):
    scale = np.arange(8, dtype=np.float32) + step
    tree = {"step": np.int32(step), "params": {"head": {"bias": scale}}}
    return jax.device_put(tree, sharding.replicated(mesh))

  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state(0),
  )
  folder = RUN / "checkpoints"
  assert checkpoint.steps(folder) == []
  with checkpoint.Checkpointer(folder, keep=2) as saved:
    for step in (1, 2, 3):
      saved.save(step, state(step), {"step": step})
  assert checkpoint.steps(folder) == [3, 2]
  assert not (folder / "1").exists()
  # What was cut off has no such file, and does not count.
  (folder / "3" / "commit_success.txt").unlink()
  assert checkpoint.steps(folder) == [2]
  assert checkpoint.find(RUN) == folder / "2"
  (folder / "3" / "commit_success.txt").write_text("")

  path = folder / "3"
  assert checkpoint.read_saved(path).metadata == {"step": 3}
  restored = checkpoint.restore(path, abstract)
  jax.tree.map(np.testing.assert_array_equal, restored, state(3))
  aside = checkpoint.set_aside(path)
  assert aside == folder / "3.damaged"
  assert (aside / "commit_success.txt").exists()
  assert checkpoint.steps(folder) == [2]
  with checkpoint.Checkpointer(folder, keep=2) as again:
    again.save(3, state(7), {})
    again.wait()
    assert checkpoint.steps(folder) == [3, 2]
    assert checkpoint.restore(path, abstract)["step"] == 7
  params, _, metadata = checkpoint.load_weights(checkpoint.find(folder / "2"))
  np.testing.assert_array_equal(params["head"]["bias"], np.arange(8) + 2.0)
  assert metadata == {"step": 2}


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_array_files(bucket, name):
  path = RUN / name
  arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(1)}
  array_files.write_arrays(path, arrays)
  with array_files.open_arrays(path) as opened:
    for key, array in arrays.items():
      np.testing.assert_array_equal(np.asarray(opened[key]), array)

  def damaged():
    raise InputError("damaged")

  lazy = array_files.LazyArray((2, 3), "float32", damaged)
  with pytest.raises(InputError, match="damaged"):
    array_files.write_arrays(path, {"a": lazy})
  assert names(bucket) == [name]
  with array_files.open_arrays(path) as opened:
    assert opened.keys() == arrays.keys()
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  with (
    pytest.raises(InputError, match=f"weights {path}: not a readable"),
    array_files.open_arrays(path),
  ):
    pass


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_array_files_of_a_store_that_does_not_answer(bucket, name):
  path = RUN / name
  array_files.write_arrays(path, {"a": np.zeros(3)})
  bucket.error = HttpError("no\nroute")
  with (
    pytest.raises(
      InputError, match=f"^weights {path}: cannot be fetched: no route$"
    ),
    array_files.open_arrays(path),
  ):
    pass
  with pytest.raises(
    InputError, match=f"^{path}: cannot be written: no route$"
  ):
    array_files.write_arrays(path, {"a": np.ones(3)})


class ServerDisconnectedError(ConnectionError):
  __module__ = "aiohttp.client_exceptions"


@pytest.mark.parametrize(
  ("error", "code", "kind"),
  [
    (HttpError("slow down"), 429, UnavailableError),
    (HttpError("backend"), "503", UnavailableError),
    (HttpError("no access"), 403, InputError),
    (HttpError("no bucket"), 404, InputError),
    (ServerDisconnectedError("closed"), None, UnavailableError),
  ],
  ids=str,
)
def test_a_store_that_fails_for_a_while_is_told_from_one_that_refuses(
  bucket, error, code, kind
):
  error.code, bucket.error = code, error
  with pytest.raises(kind, match=f"--workdir={RUN} cannot be used: {error}"):
    remote.check(RUN)
  with pytest.raises(kind, match=f"cannot be read: {error}"):
    remote.exists(RUN / "config.json")
