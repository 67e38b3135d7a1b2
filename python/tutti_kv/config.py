# SPDX-License-Identifier: Apache-2.0
"""The keys of kv_connector_extra_config: what they are, and refusing what they are not.

Responsible for parsing and for every message about a key. Must not know vLLM's
objects, nor touch the disk: it is tested with plain dictionaries. The one idea:
a key that nobody reads is an error, so that a typing mistake never turns into a
default.
"""

import os
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Mode = Literal["auto", "preload", "layerwise"]
OnError = Literal["fail", "disable"]

# As the command line has them: K and KiB are 1024, KB is 1000.
_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 10 ** (3 * i) for i, letter in enumerate("KMGTP", 1)},
    **{
        f"{letter}{rest}": 1 << (10 * i)
        for i, letter in enumerate("KMGTP", 1)
        for rest in ("", "IB")
    },
}
# Under a hundredth of what an NVMe drive reads; 200 GiB are gone through in four idle hours.
DEFAULT_SCRUB = 16 << 20
_PLACEHOLDER = re.compile(r"\{([^}]*)\}")


class ConfigError(ValueError):
    """A message about kv_connector_extra_config that a person can act on."""


def parse_size(value: object, key: str) -> int:
    """Bytes of "200GiB", "1.5TB", 1048576."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        text = str(value).strip().replace(" ", "").replace("_", "")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
        unit = _UNITS.get(match[2].upper()) if match else None
        if match is None or unit is None:
            raise ConfigError(f'"{key}": {value!r} is not a size; write for example "200GiB"')
        size = int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    if size <= 0:
        raise ConfigError(f'"{key}": {value!r} is not a positive size')
    return size


@dataclass(frozen=True)
class Config:
    """What the user asked for.

    pool: folder of the pool's secret and side files, and of its members unless
        `members` names others. May hold {rank} and {dp}
    size: bytes of each rank's members together (as for `tutti format`); needed to
        make a pool, and then a hard bound. None where the pool exists
    members: devices, files or folders of one rank, striped over; may hold {rank}
        and {dp}. Empty: one file in `pool`
    mode: how to load: "preload" (verified before the request runs), "layerwise"
        (while it runs), or "auto"
    on_error: what to do when the pool can't be opened: "fail" or "disable"
        (serve without it, and say so)
    identity: what the weights are, for the user to vouch for where their content
        can't be read; "" reads the content
    engine: "auto", "uring", "threads", "nvme" (and "fault" for tests)
    staging: bytes of staging memory per member; 0 chooses
    alignment: 512 or 4096 for a pool that is made now; 0 asks the devices
    cpus: CPUs for the engine's threads; empty for any
    look_ahead: layers of a layer-wise load read ahead; 0 chooses
    unverified: the unsafe mode: nothing is compared with its checksum
    decode_age: seconds that a block filled by decoding may wait for company
    load_timeout: seconds after which a load counts as failed
    scrub: bytes a second of stored blocks that are verified while nothing else moves;
        0 for none
    fault_rules, fault_inner: for engine "fault"
    """

    pool: str
    size: int | None = None
    members: tuple[str, ...] = ()
    mode: Mode = "auto"
    on_error: OnError = "fail"
    identity: str = ""
    engine: str = "auto"
    staging: int = 0
    alignment: int = 0
    cpus: tuple[int, ...] = ()
    look_ahead: int = 0
    unverified: bool = False
    decode_age: float = 0.5
    load_timeout: float = 30.0
    scrub: int = DEFAULT_SCRUB
    fault_rules: str | None = None
    fault_inner: str | None = None

    def home(self, dp: int) -> str:
        """Folder of the pool that all ranks of an engine share."""
        return _fill(self.pool, 0, dp)

    def member_paths(self, rank: int, dp: int) -> list[str]:
        """This rank's members; none for one file in the home folder."""
        paths = [_fill(path, rank, dp) for path in self.members]
        if not paths and "{rank}" in self.pool:
            paths = [_fill(self.pool, rank, dp)]
        return paths


def _fill(path: str, rank: int, dp: int) -> str:
    return path.replace("{rank}", str(rank)).replace("{dp}", str(dp))


def _path(value: object, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f'"{key}": {value!r} is not a path')
    for name in _PLACEHOLDER.findall(value):
        if name not in ("rank", "dp"):
            raise ConfigError(
                f'"{key}": {{{name}}} in {value!r} is unknown; {{rank}} and {{dp}} are known'
            )
    return os.path.expanduser(value)


def _choice(value: object, key: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f'"{key}": {value!r} is none of {", ".join(choices)}')
    return str(value)


def _number(value: object, key: str, low: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
        raise ConfigError(f'"{key}": {value!r} is not a number of at least {low:g}')
    return float(value)


def _truth(value: object, key: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f'"{key}": {value!r} is not true or false')
    return value


def _list(value: object, key: str) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def parse(extra: dict[str, Any]) -> Config:
    """Make a Config of kv_connector_extra_config. Raises ConfigError."""
    known = [field.name for field in fields(Config)]
    unknown = sorted(set(extra) - set(known))
    if unknown:
        raise ConfigError(
            f"unknown key {', '.join(repr(key) for key in unknown)} in kv_connector_extra_config "
            f"of TuttiConnector; known are {', '.join(known)}"
        )
    if "pool" not in extra:
        raise ConfigError(
            'kv_connector_extra_config of TuttiConnector lacks "pool", the folder of the pool, '
            'for example {"pool": "/data/tutti", "size": "200GiB"}'
        )
    values: dict[str, Any] = {"pool": _path(extra["pool"], "pool")}
    if extra.get("size") is not None:
        values["size"] = parse_size(extra["size"], "size")
    if "members" in extra:
        paths = [_path(path, "members") for path in _list(extra["members"], "members")]
        if len(set(paths)) != len(paths):
            raise ConfigError('"members" names a path twice')
        values["members"] = tuple(paths)
    if "mode" in extra:
        values["mode"] = _choice(extra["mode"], "mode", get_args(Mode))
    if "on_error" in extra:
        values["on_error"] = _choice(extra["on_error"], "on_error", get_args(OnError))
    if "engine" in extra:
        engines = ("auto", "uring", "threads", "nvme", "fault")
        values["engine"] = _choice(extra["engine"], "engine", engines)
    for key in ("identity", "fault_rules", "fault_inner"):
        if extra.get(key) is not None:
            if not isinstance(extra[key], str):
                raise ConfigError(f'"{key}": {extra[key]!r} is not a text')
            values[key] = extra[key]
    if extra.get("staging"):
        values["staging"] = parse_size(extra["staging"], "staging")
    if extra.get("alignment"):
        values["alignment"] = parse_size(extra["alignment"], "alignment")
        if values["alignment"] not in (512, 4096):
            raise ConfigError(f'"alignment": {extra["alignment"]!r} is neither 512 nor 4096')
    if "cpus" in extra:
        values["cpus"] = tuple(int(_number(cpu, "cpus", 0)) for cpu in _list(extra["cpus"], "cpus"))
    if "look_ahead" in extra:
        values["look_ahead"] = int(_number(extra["look_ahead"], "look_ahead", 0))
    if "unverified" in extra:
        values["unverified"] = _truth(extra["unverified"], "unverified")
    if "decode_age" in extra:
        values["decode_age"] = _number(extra["decode_age"], "decode_age", 0)
    if "load_timeout" in extra:
        values["load_timeout"] = _number(extra["load_timeout"], "load_timeout", 0.001)
    if "scrub" in extra:
        values["scrub"] = 0 if extra["scrub"] in (0, "0") else parse_size(extra["scrub"], "scrub")
    return Config(**values)


def check_parallel(config: Config, ranks: int, replicas: int) -> None:
    """Refuse paths that several ranks or replicas would share. Raises ConfigError."""
    places = config.members or (config.pool,)
    if replicas > 1 and not all("{dp}" in place for place in {config.pool, *places}):
        raise ConfigError(
            f"{replicas} data-parallel replicas would share one pool; "
            'write {dp} into "pool"' + (' and "members"' if config.members else "")
        )
    if ranks > 1:
        for place in config.members:
            if "{rank}" not in place and not os.path.isdir(_fill(place, 0, 0)):
                raise ConfigError(
                    f'"members": {ranks} ranks would share {place}; write {{rank}} into it, '
                    "or name a folder"
                )
