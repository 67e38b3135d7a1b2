# SPDX-License-Identifier: Apache-2.0
"""What changes the meaning of KV bytes, as sixteen bytes.

Responsible for the digest of the weights' content, for remembering it so that a
later start costs a stat, and for gathering the other facts from vLLM's resolved
configuration. Must not know pools, slots or requests. The one idea: names, sizes
and headers are equal for every fine-tune, so only content identifies weights;
whatever else is in doubt is put into the digest, for a cache may forget.

Weight files are digested by SHA-256 because that is what the hub names its files
by: a snapshot from the hub needs no reading at all.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

IDENTITY_BYTES = 16
MEMORY = "weights.json"
_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz")
_BLOB = re.compile(r"[0-9a-f]{64}")
# Seconds: ctime is taken from a clock that ticks with the scheduler.
CLOCK_SLACK = 0.05
# Rotary embeddings whose values do not depend on the longest sequence; others may.
_PLAIN_ROPE = {"default", "linear", "llama3", "mrope"}
# Noise in a Hugging Face configuration: says where it came from, not what it is.
_NOISE = {"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"}


class NoContent(Exception):
    """The weights' content can't be read, and why."""


def stamp(path: Path) -> list[int]:
    """What changes when a file does."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recall(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: dict[str, Any]) -> None:
    """Replace the memory as a whole; losing it only costs reading the weights again."""
    fresh = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        fresh.touch(mode=0o600)  # who may write it may call other weights these
        fresh.chmod(0o600)
        fresh.write_text(json.dumps(known, indent=1, sort_keys=True))
        os.replace(fresh, memory)
    except OSError:
        fresh.unlink(missing_ok=True)


def changed_since(files: Iterable[Path], since: float) -> str | None:
    """Which of the files, of the links to them or of their folders changed after a moment.

    What was loaded may then be other than what lies there now. ctime can't be set back; the
    kernel's clock for it runs up to some ms behind.
    """
    bound = since - CLOCK_SLACK
    for path in sorted(files):
        places = [path, *path.parents]
        links = [place for place in places if place.is_symlink()]
        real = path.resolve()
        for place, when in [
            *((link, link.lstat().st_ctime) for link in links),
            *((there, there.stat().st_ctime) for there in (real, real.parent)),
        ]:
            if when > bound:
                return str(place)
    return None


def content_digests(
    files: Iterable[Path], memory: Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, str]:
    """File name -> SHA-256 of its content. Raises NoContent where it changes meanwhile.

    memory: JSON file with what is known of files by device, inode, size, mtime and
        ctime; an entry that does not match is never believed
    say: told of long work
    """
    known = _recall(memory)
    digests: dict[str, str] = {}
    unread: list[tuple[Path, list[int]]] = []
    for path in sorted(files):
        real = path.resolve()
        if real.parent.name == "blobs" and _BLOB.fullmatch(real.name):
            digests[path.name] = real.name  # the hub's name is the content's SHA-256
            continue
        seen = stamp(real)
        entry = known.get(str(real))
        if isinstance(entry, dict) and entry.get("stamp") == seen:
            digests[path.name] = str(entry.get("sha256"))
        else:
            unread.append((path, seen))
    if not unread:
        return digests
    size = sum(seen[2] for _, seen in unread)
    say(f"reading {size / 1e9:.1f} GB of weights once, to know them by content")
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for (path, seen), digest in zip(
            unread, pool.map(lambda job: _sha256(job[0]), unread), strict=True
        ):
            if stamp(path.resolve()) != seen:
                raise NoContent(f"{path} changed while it was read")
            digests[path.name] = digest
            known[str(path.resolve())] = {"stamp": seen, "sha256": digest}
    say(f"read them in {time.monotonic() - began:.1f} s")
    _remember(memory, known)
    return digests


def weight_files(
    model: str, revision: str | None, load_format: str, download_dir: str | None = None
) -> list[Path]:
    """The files that the weights of `model` are loaded from. Raises NoContent.

    download_dir: where vLLM keeps what it downloads, None for the hub's own place
    """
    modelscope = os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true")
    if modelscope and not Path(model).exists():
        raise NoContent("weights from ModelScope are not looked for")
    if load_format in ("dummy", "tensorizer") or "://" in model:
        raise NoContent(f"weights of load format {load_format!r} at {model} are not in files")
    folder = Path(model)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        try:
            from huggingface_hub import snapshot_download

            folder = Path(
                snapshot_download(
                    model, revision=revision, cache_dir=download_dir, local_files_only=True
                )
            )
        except Exception as error:
            raise NoContent(f"no snapshot of {model} is on this machine ({error})") from error
    files = [path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file()]
    if not files:
        raise NoContent(f"{folder} holds no weight files")
    # Which tensor comes from which file; and how images become numbers.
    beside = [*folder.glob("*.index.json"), *folder.glob("*processor_config.json")]
    return files + [path for path in beside if path.is_file()]


def code_files(folder: Path, hf_config: dict[str, Any]) -> list[Path]:
    """The model's own code, where it is trusted. Raises NoContent for code from elsewhere."""
    elsewhere = [
        str(place)
        for places in (hf_config.get("auto_map") or {}).values()
        for place in (places if isinstance(places, list | tuple) else [places])
        if "--" in str(place)
    ]
    if elsewhere:
        raise NoContent(f"the model's code is in another repository ({elsewhere[0]})")
    return sorted(path for path in folder.glob("*.py") if path.is_file())


def _plain(value: Any) -> Any:
    """Something that JSON can hold and that is equal for equal values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if str(key) not in _NOISE}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _rope_types(config: Any) -> set[str]:
    """Every rope type named anywhere in a configuration."""
    if isinstance(config, dict):
        found = {str(config[key]) for key in ("rope_type",) if key in config}
        return found.union(*(_rope_types(item) for item in config.values()), set())
    if isinstance(config, list):
        return set[str]().union(*(_rope_types(item) for item in config))
    return set()


def facts(vllm_config: Any, version: str) -> dict[str, Any]:
    """What else changes the bytes, as vLLM resolved it."""
    model = vllm_config.model_config
    cache = vllm_config.cache_config
    parallel = vllm_config.parallel_config
    config = _plain(model.hf_config.to_dict())
    length = model.max_model_len if _rope_types(config) - _PLAIN_ROPE else None
    return {
        "vllm": version,
        "device": str(vllm_config.device_config.device_type),
        "config": config,
        "text_config": _plain(model.hf_text_config.to_dict()),
        "max_model_len": length,
        "dtype": str(model.dtype),
        "quantization": _plain(model.quantization),
        "quantization_config": _plain(model.quantization_config),
        "code_revision": model.code_revision,
        "model_impl": str(model.model_impl),
        "disable_sliding_window": model.disable_sliding_window,
        "cache_dtype": str(cache.cache_dtype),
        "kv_scales": _plain(getattr(cache, "calculate_kv_scales", None)),
        "block_size": cache.block_size,
        "hash": cache.prefix_caching_hash_algo,
        "tensor_parallel": parallel.tensor_parallel_size,
        "loader": _plain(vllm_config.load_config.model_loader_extra_config),
        "load_format": str(vllm_config.load_config.load_format),
        "ignored_files": _plain(vllm_config.load_config.ignore_patterns),
        "images": _plain(
            getattr(getattr(model, "multimodal_config", None), "mm_processor_kwargs", None)
        ),
    }


def identity(parts: dict[str, Any]) -> bytes:
    """Sixteen bytes of everything."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:IDENTITY_BYTES]
