# SPDX-License-Identifier: Apache-2.0
"""From the workers' handshakes to a directory.

Responsible for checking that all ranks found one pool, for the identity that this
engine's slots have, and for the line at start. Must not know requests or steps. The
one idea: everything that the scheduler's half needs of the disk is in the handshakes
and the scan files; afterwards it never looks at a member.
"""

import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutti_kv import identity, plugin
from tutti_kv._tutti import Directory, secret_load
from tutti_kv.config import Config
from tutti_kv.metadata import Handshake

logger = logging.getLogger("vllm.tutti_kv")


@dataclass
class Opened:
    """A directory with what it runs under."""

    directory: Directory
    epoch: int
    identity: bytes


def remove_scans(handshakes: Iterable[Handshake]) -> None:
    """The scan files are read once."""
    for shake in handshakes:
        if shake.scan_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(shake.scan_path)


def check(shakes: list[Handshake], pool: bytes, home: str) -> None:
    """Raise ValueError unless all ranks hold members of this pool, of one shape."""
    first = shakes[0]
    for shake in shakes:
        for what, mine, theirs in (
            ("pool", pool.hex(), shake.pool.hex()),
            ("geometry", repr(first.geometry), repr(shake.geometry)),
            ("layout", first.layout, shake.layout),
        ):
            if mine != theirs:
                raise ValueError(
                    f"rank {shake.rank} has another {what} than rank 0 or {home}: "
                    f"{theirs}, not {mine}"
                )


def open_directory(
    shakes: list[Handshake], home: str, config: Config, vllm_config: Any, mode: str
) -> Opened:
    """Take over what all ranks hold. Raises a sentence.

    shakes: in order of rank
    mode: how loads go and why, for the line at start
    """
    first = shakes[0]
    pool, secret = secret_load(home)
    check(shakes, pool, home)
    who = find_identity(first.layout, home, config, vllm_config)
    placement = first.placement.with_extents(min(shake.placement.extents for shake in shakes))
    directory = Directory(placement, first.geometry, len(shakes), secret, who)
    directory.load([shake.scan_path for shake in shakes])
    epoch = 1 + max(shake.epoch for shake in shakes)
    directory.begin_epoch(epoch)
    stats = directory.stats()
    direct = all(shake.direct for shake in shakes)
    reason = next((s.direct_reason for s in shakes if not s.direct and s.direct_reason), "")
    logger.info(
        "Tutti: pool %s (%s), %d slots of %.2f MiB on each of %d ranks, %d found%s; loads: %s; "
        "engine %s, %s%s; %s; epoch %d, identity %s",
        home,
        pool.hex()[:8],
        stats["slots"],
        first.geometry.slot_bytes / 2**20,
        len(shakes),
        stats["visible"],
        f" and {stats['foreign']} of other models, first to go" if stats["foreign"] else "",
        mode,
        first.engine,
        "direct" if direct else "staged",
        f" ({reason})" if reason else "",
        "UNVERIFIED: bytes are not compared with their checksums"
        if config.unverified
        else "verified",
        epoch,
        who.hex()[:8],
    )
    return Opened(directory, epoch, who)


def find_identity(layout: str, home: str, config: Config, vllm_config: Any) -> bytes:
    """What this engine's blocks mean: the weights by content, and all else that counts."""
    from vllm.version import __version__ as version

    weights: Any
    if config.identity:
        weights = {"vouched": config.identity}
        logger.info(
            "Tutti: the weights are %r because the configuration says so; "
            "their content is not looked at",
            config.identity,
        )
    else:
        try:
            weights = find_weights(home, vllm_config)
        except identity.NoContent as error:
            weights = {"unknown": os.urandom(16).hex()}
            logger.warning(
                "Tutti: %s. What is stored now is not found after a restart, unless "
                '"identity" in kv_connector_extra_config names these weights',
                error,
            )
    facts = identity.facts(vllm_config, version)
    return identity.identity({"weights": weights, "facts": facts, "layout": layout})


def find_weights(home: str, vllm_config: Any) -> dict[str, str]:
    """File name -> digest of what was loaded. Raises NoContent.

    The weights were loaded before this is asked: files that changed since are not they.
    """
    model = vllm_config.model_config
    files = identity.weight_files(
        model.model_weights or model.model,
        model.revision,
        str(vllm_config.load_config.load_format),
        vllm_config.load_config.download_dir,
    )
    if model.trust_remote_code:
        files += identity.code_files(files[0].parent, model.hf_config.to_dict())

    def unchanged() -> None:
        since = plugin.registered_at
        place = None if since is None else identity.changed_since(files, since)
        if place is not None:
            raise identity.NoContent(f"{place} changed while the server was starting")

    unchanged()
    digests = identity.content_digests(
        files, Path(home) / identity.MEMORY, lambda line: logger.info("Tutti: %s", line)
    )
    unchanged()
    return digests
