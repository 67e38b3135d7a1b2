# SPDX-License-Identifier: Apache-2.0
"""Keys of kv_connector_extra_config: sizes, paths, and every mistake with its sentence."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tutti_kv.config import Config, ConfigError, check_parallel, parse, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200GiB", 200 << 30),
        ("1.5TB", 1_500_000_000_000),
        ("64 MiB", 64 << 20),
        ("4k", 4096),
        ("4KB", 4000),
        ("4096", 4096),
        (4096, 4096),
        ("1_000B", 1000),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text, "size") == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "3 apples", "1e9", True, None, 1.5])
def test_no_sizes(text: object) -> None:
    if text == 1.5:
        assert parse_size(text, "size") == 1  # a number without a unit is bytes
        return
    with pytest.raises(ConfigError, match='"size"'):
        parse_size(text, "size")


@given(st.integers(1, 1 << 50))
def test_whole_sizes_are_exact(size: int) -> None:
    assert parse_size(str(size), "size") == parse_size(f"{size}B", "size") == size


def test_least() -> None:
    config = parse({"pool": "/data/tutti"})
    assert (config.mode, config.on_error, config.size) == ("auto", "fail", None)
    assert config.member_paths(0, 0) == []


def test_scrub() -> None:
    assert parse({"pool": "/x"}).scrub == 16 << 20
    assert parse({"pool": "/x", "scrub": "50MiB"}).scrub == 50 << 20
    assert parse({"pool": "/x", "scrub": "0"}).scrub == parse({"pool": "/x", "scrub": 0}).scrub == 0


def test_placeholders() -> None:
    config = parse({"pool": "/d{dp}/tutti", "members": ["/nvme{rank}/{dp}", "/more{rank}"]})
    assert config.home(3) == "/d3/tutti"
    assert config.member_paths(1, 3) == ["/nvme1/3", "/more1"]


def test_rank_in_pool_makes_folders() -> None:
    """The home is rank 0's; each rank's member lies in its own folder."""
    config = parse({"pool": "/nvme{rank}/tutti"})
    assert config.home(0) == "/nvme0/tutti"
    assert config.member_paths(2, 0) == ["/nvme2/tutti"]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, 'lacks "pool"'),
    ({"pool": ""}, "is not a path"),
    ({"pool": 7}, "is not a path"),
    ({"pool": "/x", "sise": 1}, "unknown key 'sise'.*known are pool, size"),
    ({"pool": "/x/{tp}"}, r"\{tp\} in '/x/\{tp\}' is unknown"),
    ({"pool": "/x", "members": ["/a", "/a"]}, "names a path twice"),
    ({"pool": "/x", "mode": "quick"}, "none of auto, preload, layerwise"),
    ({"pool": "/x", "on_error": "ignore"}, "none of fail, disable"),
    ({"pool": "/x", "engine": "spdk"}, "none of auto, uring, threads"),
    ({"pool": "/x", "alignment": 1000}, "neither 512 nor 4096"),
    ({"pool": "/x", "unverified": "yes"}, "not true or false"),
    ({"pool": "/x", "cpus": [-1]}, "not a number of at least 0"),
    ({"pool": "/x", "load_timeout": 0}, "not a number of at least"),
    ({"pool": "/x", "identity": 5}, "is not a text"),
    ({"pool": "/x", "scrub": "slowly"}, "\"scrub\": 'slowly' is not a size"),
    ({"pool": "/x", "scrub": -1}, "not a positive size"),
]


@pytest.mark.parametrize(("extra", "words"), MISTAKES)
def test_mistakes(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(extra)


def test_shared_paths_are_refused(tmp_path: Path) -> None:
    """Ranks and replicas never share a member; a folder is fine, each rank has its file there."""
    check_parallel(parse({"pool": "/x"}), 2, 1)
    check_parallel(parse({"pool": "/x", "members": [str(tmp_path)]}), 2, 1)
    with pytest.raises(ConfigError, match="2 ranks would share /dev/nvme1n1"):
        check_parallel(parse({"pool": "/x", "members": ["/dev/nvme1n1"]}), 2, 1)
    with pytest.raises(ConfigError, match="replicas would share one pool"):
        check_parallel(parse({"pool": "/x"}), 1, 2)
    check_parallel(parse({"pool": "/x{dp}"}), 1, 2)


def test_every_key_is_in_the_guide() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "operators-guide.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    for field in fields(Config):
        assert any(f"`{field.name}`" in row.split("|")[1] for row in rows), field.name
