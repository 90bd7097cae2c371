"""Stores without renames, that fail now and then, or refuse."""

import json
import random
from dataclasses import replace

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from recinject.foundation import stores
from recinject.foundation.errors import RecinjectError
from recinject.foundation.seals import seal_folder
from recinject.foundation.storage import MANIFEST_NAME, RunManifest
from recinject.foundation.stores import Store, is_url


class FlakyFileSystem(MemoryFileSystem):
    """Files in memory behind a line that drops one request in twenty, before or after its work."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    chance = random.Random(1)
    dropped = 0

    @classmethod
    def _drop(cls):
        if cls.chance.random() < 1 / 20:
            cls.dropped += 1
            raise ConnectionResetError("dropped")

    def put_file(self, *given, **settings):
        self._drop()
        super().put_file(*given, **settings)
        self._drop()

    def get_file(self, *given, **settings):
        self._drop()
        super().get_file(*given, **settings)

    def cat_file(self, *given, **settings):
        self._drop()
        return super().cat_file(*given, **settings)

    def pipe_file(self, *given, **settings):
        self._drop()
        super().pipe_file(*given, **settings)

    def ls(self, *given, **settings):
        self._drop()
        return super().ls(*given, **settings)


class BarredFileSystem(MemoryFileSystem):
    """Files that may be read and not written."""

    protocol = "barred"
    store, pseudo_dirs = {}, [""]

    def put_file(self, *given, **settings):
        raise PermissionError("not yours")

    pipe_file = put_file


@pytest.fixture(autouse=True)
def file_systems(monkeypatch):
    monkeypatch.setattr(stores, "_FIRST_WAIT", 0.0)
    for kind in (FlakyFileSystem, BarredFileSystem):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
        kind.store.clear()


@pytest.fixture
def folder(tmp_path):
    """A finished stage of sixty files."""
    made = tmp_path / "made"
    for number in range(60):
        file = made / f"task{number % 3}" / f"{number:02d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * (number + 1))
    manifest = RunManifest("samples", "1", {"seed": 1}, {})
    replace(manifest, files=seal_folder(made)).write(made)
    return made


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def comes_back(url, folder, back):
    store = Store(url) / "samples"
    assert store.manifest() is None and store.names() == set()
    store.put(folder)
    assert store.names() == {"task0", "task1", "task2", MANIFEST_NAME}
    store.get(back)
    assert contents(back) == contents(folder)
    assert store.manifest() == RunManifest.read(folder)
    store.write("note", b"text")
    assert store.read("note") == b"text" and store.read("nothing") is None
    store.remove("note")
    store.remove("note")
    assert store.read("note") is None


def test_a_stage_comes_back_from_memory(folder, tmp_path):
    comes_back("memory://runs/mine", folder, tmp_path / "back")


def test_a_stage_comes_back_though_one_request_in_twenty_fails(folder, tmp_path):
    before = FlakyFileSystem.dropped
    comes_back("flaky://runs/mine", folder, tmp_path / "back")
    assert FlakyFileSystem.dropped - before >= 3


def test_a_stage_comes_back_from_a_server_that_speaks_s3(folder, tmp_path, monkeypatch):
    server = pytest.importorskip("moto.server", reason="moto is absent")
    pytest.importorskip("s3fs", reason="s3fs is absent: recinject[s3]")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    s3 = server.ThreadedMotoServer(port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        settings = {"endpoint_url": f"http://{host}:{port}", "skip_instance_cache": True}
        monkeypatch.setitem(fsspec.config.conf, "s3", settings)
        fsspec.filesystem("s3").mkdir("bucket")
        comes_back("s3://bucket/runs", folder, tmp_path / "back")
    finally:
        s3.stop()


def test_until_its_manifest_a_stage_is_not_there(folder, monkeypatch):
    store = Store("memory://runs/torn")
    store.put(folder)
    upload = Store._upload

    def torn(self, file, name):
        if name.endswith("31.parquet"):
            raise KeyboardInterrupt
        upload(self, file, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "_upload", torn)
        store.put(folder)
    assert store.manifest() is None
    store.put(folder)
    assert store.manifest() == RunManifest.read(folder)


def test_what_was_changed_in_the_store_is_refused(folder, tmp_path):
    store = Store("memory://runs/changed")
    store.put(folder)
    store.write("task0/03.parquet", b"other")
    with pytest.raises(RecinjectError, match=r"03\.parquet has 5 bytes, and had 4"):
        store.get(tmp_path / "back")
    content = json.loads(store.read(MANIFEST_NAME))
    store.write(MANIFEST_NAME, json.dumps(content | {"version": "2"}).encode())
    with pytest.raises(RecinjectError, match="was changed"):
        store.manifest()


def test_a_store_that_refuses_is_named_at_once(folder):
    with pytest.raises(RecinjectError, match=r"barred://runs/task0/00\.parquet: refused \(Permi"):
        Store("barred://runs").put(folder)


def test_a_kind_of_url_that_nobody_knows_is_named():
    with pytest.raises(RecinjectError, match=r"nothing://runs: cannot be opened(.|\n)*install"):
        Store("nothing://runs").manifest()
    assert is_url("s3://bucket/runs") and not is_url("runs/quickstart")
