# SPDX-License-Identifier: Apache-2.0
"""Weights are known by content, read once, and never mistaken for others."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tutti_kv import identity


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_content_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look costs a stat."""
    file, memory = tmp_path / "model.safetensors", tmp_path / "memory"
    file.write_bytes(b"weights")
    assert identity.content_digests([file], memory) == {file.name: digest(b"weights")}
    monkeypatch.setattr(identity, "_sha256", lambda path: pytest.fail("read again"))
    assert identity.content_digests([file], memory) == {file.name: digest(b"weights")}


def test_the_memory_is_private(tmp_path: Path) -> None:
    """It once took the umask; who can write it can call other weights these."""
    file, memory = tmp_path / "model.safetensors", tmp_path / "memory"
    file.write_bytes(b"weights")
    before = os.umask(0)
    try:
        identity.content_digests([file], memory)
    finally:
        os.umask(before)
    assert memory.stat().st_mode & 0o777 == 0o600


def test_other_bytes_of_the_same_size_and_time_are_seen(tmp_path: Path) -> None:
    """mtime can be put back, ctime can't."""
    file, memory = tmp_path / "model.safetensors", tmp_path / "memory"
    file.write_bytes(b"weights")
    stat = file.stat()
    identity.content_digests([file], memory)
    file.write_bytes(b"weighty")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity.content_digests([file], memory) == {file.name: digest(b"weighty")}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}', b"\xff"])
def test_garbage_in_the_memory_is_no_harm(tmp_path: Path, content: bytes) -> None:
    file, memory = tmp_path / "model.safetensors", tmp_path / "memory"
    file.write_bytes(b"weights")
    memory.write_bytes(content)
    assert identity.content_digests([file], memory) == {file.name: digest(b"weights")}
    assert json.loads(memory.read_text())


def test_the_hub_names_files_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot's blobs need no reading."""
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)
    monkeypatch.setattr(identity, "_sha256", lambda path: pytest.fail("read"))
    assert identity.content_digests([link], tmp_path / "memory") == {link.name: "a" * 64}


def test_what_has_no_content(tmp_path: Path) -> None:
    for model, load_format in ((str(tmp_path), "dummy"), ("s3://x/y", "auto")):
        with pytest.raises(identity.NoContent):
            identity.weight_files(model, None, load_format)
    with pytest.raises(identity.NoContent, match="no weight files"):
        identity.weight_files(str(tmp_path), None, "auto")


def test_a_file_that_changes_while_it_is_read_has_no_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would be of one, half of the other; and what was loaded is neither."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")

    def meanwhile(path: Path) -> str:
        path.write_bytes(b"weighty")
        return digest(b"weights")

    monkeypatch.setattr(identity, "_sha256", meanwhile)
    with pytest.raises(identity.NoContent, match="changed while it was read"):
        identity.content_digests([file], tmp_path / "memory")


def in_place(folder: Path) -> None:
    content = (folder / "w" / "a.safetensors").read_bytes()
    (folder / "w" / "a.safetensors").write_bytes(content)


def put_in_its_place(folder: Path) -> None:
    (folder / "other.safetensors").replace(folder / "w" / "a.safetensors")


def folder_renamed(folder: Path) -> None:
    (folder / "w").rename(folder / "old")
    (folder / "x").rename(folder / "w")


def link_moved(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to(folder / "x")


@pytest.mark.parametrize("change", [in_place, put_in_its_place, folder_renamed, link_moved])
def test_what_changed_since_the_start_is_seen(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Weights are digested after they were loaded: what lies there then may be others."""
    for name in ("w", "x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "other.safetensors").write_bytes(b"weights")
    (tmp_path / "link").symlink_to(tmp_path / "w")
    file = tmp_path / "link" / "a.safetensors"
    time.sleep(2 * identity.CLOCK_SLACK)  # what is as young as that counts as changed
    since = time.time()
    assert identity.changed_since([file], since) is None
    time.sleep(2 * identity.CLOCK_SLACK)
    change(tmp_path)
    assert identity.changed_since([file], since) is not None


def test_code_that_is_trusted_is_part_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "modeling_x.py").write_text("x = 1")
    own = {"auto_map": {"AutoModel": "modeling_x.X", "AutoTokenizer": ["t.T", None]}}
    assert identity.code_files(tmp_path, own) == [tmp_path / "modeling_x.py"]
    with pytest.raises(identity.NoContent, match="another repository"):
        identity.code_files(tmp_path, {"auto_map": {"AutoModel": "other/code--modeling_x.X"}})


def test_modelscope_is_refused_where_the_files_are_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "true")
    with pytest.raises(identity.NoContent, match="ModelScope"):
        identity.weight_files("some/model", None, "auto")
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    assert identity.weight_files(str(tmp_path), None, "auto") == [tmp_path / "a.safetensors"]


class Thing:
    """An object with these attributes."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def configuration(**changes: Any) -> Any:
    config = {"rope_parameters": {"rope_type": "default"}, "hidden_size": 4, "_name_or_path": "a"}
    config.update(changes.pop("config", {}))
    hf = Thing(to_dict=lambda: config)
    model = {
        "hf_config": hf,
        "hf_text_config": hf,
        "max_model_len": 100,
        "dtype": "float32",
        "quantization": None,
        "quantization_config": None,
        "code_revision": None,
        "model_impl": "auto",
        "disable_sliding_window": False,
        "multimodal_config": None,
    }
    cache = {"cache_dtype": "auto", "block_size": 16, "prefix_caching_hash_algo": "sha256"}
    parallel = {"tensor_parallel_size": 1}
    load = {"model_loader_extra_config": {}, "load_format": "auto", "ignore_patterns": []}
    device = {"device_type": "cpu"}
    for name, value in changes.items():
        target = next(d for d in (model, cache, parallel, load, device) if name in d)
        target[name] = value
    return Thing(
        model_config=Thing(**model),
        cache_config=Thing(**cache),
        parallel_config=Thing(**parallel),
        load_config=Thing(**load),
        device_config=Thing(**device),
    )


def who(**changes: Any) -> bytes:
    return identity.identity(identity.facts(configuration(**changes), "0.32.0"))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"cache_dtype": "fp8"},
        {"block_size": 32},
        {"tensor_parallel_size": 2},
        {"quantization": "awq"},
        {"load_format": "pt"},
        {"device_type": "cuda"},
        {"ignore_patterns": ["original/**"]},
        {"multimodal_config": Thing(mm_processor_kwargs={"do_pan_and_scan": True})},
        {"config": {"hidden_size": 8}},
        {"config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}},
    ],
)
def test_what_changes_the_bytes_changes_the_identity(changes: dict[str, Any]) -> None:
    assert who(**changes) != who()


def test_what_does_not_does_not() -> None:
    assert who(config={"_name_or_path": "b"}) == who()
    assert who(max_model_len=200) == who(), "plain rope does not depend on the length"


def test_length_counts_where_rope_depends_on_it() -> None:
    long = {"rope_parameters": {"rope_type": "longrope"}}
    assert who(config=long, max_model_len=200) != who(config=long)
