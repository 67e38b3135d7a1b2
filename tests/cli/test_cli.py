"""The command line, seen from outside: output, exit codes, refusals, help and manual.

Responsible for what a person or a script relies on. Must not know the library: pools are made by
`tutti format` and filled by the example program. Speeds are printed by bench and doctor; no test
here judges one.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TUTTI = Path(os.environ.get("TUTTI_BIN", ROOT / "build" / "tutti"))
EXAMPLE = TUTTI.parent / "examples" / "retrieve_store"
COMMANDS = ["format", "info", "check", "scrub", "bench", "doctor", "devices", "bind", "unbind",
            "disable", "enable"]  # fmt: skip
SMALL = ["--layers", "4", "--parts", "2", "--object-bytes", "8KiB", "--block-tokens", "16"]
DONE, FOUND_BAD, USAGE, CANNOT = 0, 1, 2, 3
F_OFD_SETLK = 37  # Linux: a lock of the open file, as pools take it


def run(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TUTTI, *arguments], capture_output=True, text=True, timeout=120, check=False, **more
    )


def answer(*arguments: str | Path, status: int = DONE, **more: Any) -> dict[str, Any]:
    """Run with --json: one object on standard output, and the exit status as expected."""
    done = run(*arguments, "--json", **more)
    assert done.returncode == status, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    home = tmp_path / "pool"
    answer("format", home, "--size", "64MiB", *SMALL)
    return home


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A pool that holds the example's 8 blocks of 4 layers."""
    home = tmp_path / "filled"
    subprocess.run([EXAMPLE, home], check=True, capture_output=True, timeout=60)
    return home


def object_bytes(layer: int, part: int, block: int) -> bytes:
    """What the example stores there (examples/retrieve_store.c)."""
    plane = layer * 2 + part
    start = (plane * 8 + block) * 8192
    return bytes((i // 8192 * 3 + i) & 0xFF for i in range(start, start + 8192))


def flip(home: Path, layer: int, part: int, block: int) -> None:
    """Change one byte of one object; a second time changes it back."""
    member = home / "rank0.member0.tutti"
    expected = object_bytes(layer, part, block)
    content = member.read_bytes()
    places = range(0, len(content), 4096)
    place = next(at for at in places if content[at : at + 4000] == expected[:4000])
    with member.open("r+b") as file:
        file.seek(place + 5000)
        byte = file.read(1)[0]
        file.seek(place + 5000)
        file.write(bytes([byte ^ 0x10]))


# Formatting.


def test_format_says_what_it_made(tmp_path: Path) -> None:
    home = tmp_path / "p"
    made = answer("format", home, "--size", "64MiB", *SMALL)
    rank = made["ranks"][0]
    assert rank["slots"] > 0
    assert rank["members"] == [str(home / "rank0.member0.tutti")]
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    files = sum(f.stat().st_blocks * 512 for f in home.glob("*.tutti"))
    assert files <= 64 << 20, "the capacity is a bound"


def test_format_says_what_whole_extents_leave(tmp_path: Path) -> None:
    half = run("format", tmp_path / "p", "--size", "64MiB", "--model", "llama3-8b", "--progress")
    assert "31 MiB of the size are left" in half.stdout
    assert "with 65 MiB it has one more" in half.stdout
    assert "100%" in half.stderr
    whole = run("format", tmp_path / "q", "--size", "65MiB", "--model", "llama3-8b")
    assert "2 extents" in whole.stdout
    assert "are left" not in whole.stdout


def test_format_in_words(tmp_path: Path) -> None:
    done = run("format", tmp_path / "p", "--size", "256MiB", "--model", "glm-4-9b")
    assert done.returncode == DONE, done.stderr
    assert "40 layers x 2 parts x 8 KiB" in done.stdout


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("64MiB", 64 << 20), ("64M", 64 << 20), ("67108864", 64 << 20), ("0.0625g", 64 << 20),
     ("70MB", 70_000_000)],
)  # fmt: skip
def test_sizes(tmp_path: Path, text: str, bytes_: int) -> None:
    rank = answer("format", tmp_path / "p", "--size", text, *SMALL)["ranks"][0]
    assert bytes_ - (4 << 20) < rank["bytes"] <= bytes_


@pytest.mark.parametrize("text", ["", "x", "12Q", "-5G", "0", "1.5", "4GiBs", "0x10", "99999999P"])
def test_a_bad_size_is_wrong_usage(tmp_path: Path, text: str) -> None:
    done = run("format", tmp_path / "p", f"--size={text}", *SMALL)
    assert done.returncode == USAGE
    assert "--size" in done.stderr
    assert "200GiB" in done.stderr
    assert not (tmp_path / "p").exists()


def test_an_unknown_model_lists_the_known(tmp_path: Path) -> None:
    done = run("format", tmp_path / "p", "--size", "64MiB", "--model", "gpt-9")
    assert done.returncode == USAGE
    assert "gpt-9" in done.stderr
    assert "llama3-8b" in done.stderr
    assert "deepseek-v3" in done.stderr


def test_model_and_numbers_exclude_each_other(tmp_path: Path) -> None:
    done = run("format", tmp_path / "p", "--size", "64MiB", "--model", "glm-4-9b", "--layers", "3")
    assert done.returncode == USAGE
    assert "exclude" in done.stderr
    done = run("format", tmp_path / "p", "--size", "64MiB")
    assert done.returncode == USAGE
    assert "name a shape" in done.stderr


def test_a_second_format_is_refused(pool: Path) -> None:
    before = (pool / "rank0.member0.tutti").read_bytes()
    refused = answer("format", pool, "--size", "64MiB", *SMALL, status=CANNOT)
    assert refused["errno"] == "EEXIST"
    assert "rank0.member0.tutti" in refused["error"]
    assert (pool / "rank0.member0.tutti").read_bytes() == before


def test_other_data_needs_force(tmp_path: Path) -> None:
    member = tmp_path / "precious"
    member.write_bytes(b"not a pool" * 1000)
    where = ["--size", "64MiB", "--member", str(member), *SMALL]
    assert answer("format", tmp_path / "p", *where, status=CANNOT)["errno"] == "EEXIST"
    assert member.read_bytes() == b"not a pool" * 1000
    answer("format", tmp_path / "p", *where, "--force")
    assert answer("info", tmp_path / "p", "--member", member)["ranks"][0]["members"] == [
        str(member)
    ]


def test_ranks_and_members(tmp_path: Path) -> None:
    home = tmp_path / "p"
    where = ["--member", f"{tmp_path}/a{{rank}}", "--member", f"{tmp_path}/b{{rank}}"]
    made = answer("format", home, "--size", "64MiB", "--ranks", "2", *where, *SMALL)
    assert [len(r["members"]) for r in made["ranks"]] == [2, 2]
    assert (tmp_path / "a0").exists()
    assert (tmp_path / "b1").exists()
    told = answer("info", home, *where)
    assert len(told["ranks"]) == 2
    assert answer("check", home, *where)["ranks"] == 2


def test_one_file_for_two_ranks_is_wrong_usage(tmp_path: Path) -> None:
    done = run("format", tmp_path / "p", "--size", "64MiB", "--ranks", "2", "--member",
               tmp_path / "one", *SMALL)  # fmt: skip
    assert done.returncode == USAGE
    assert "{rank}" in done.stderr


def test_tensor_parallel_splits_heads(tmp_path: Path) -> None:
    whole = answer("format", tmp_path / "a", "--size", "128MiB", "--model", "glm-4-9b")
    half = answer("format", tmp_path / "b", "--size", "128MiB", "--model", "glm-4-9b",
                  "--ranks", "2")  # fmt: skip
    assert (
        whole["ranks"][0]["geometry"]["object_bytes"]
        == 2 * half["ranks"][1]["geometry"]["object_bytes"]
    )


# Looking.


def test_info(pool: Path) -> None:
    told = answer("info", pool, "--scan")
    rank = told["ranks"][0]
    assert told["disabled"] is False
    assert len(told["pool_id"]) == 32
    assert rank["shapes"][0]["layers"] == 4
    assert rank["scan"]["valid"] == 0
    assert rank["scan"]["empty"] == rank["shapes"][0]["slots"]
    assert rank["health"] == [None]
    words = run("info", pool)
    assert words.returncode == DONE
    assert told["pool_id"] in words.stdout


def test_info_says_how_drives_are(tmp_path: Path) -> None:
    """Drives of software; the second warns by its option."""
    drives: list[str | Path] = []
    for name, options in (("a", ""), ("b", ",warns=10")):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 40 << 20)
        drives += ["--member", f"soft:{tmp_path / name}{options}"]
    answer("format", tmp_path / "p", "--size", "32MiB", *SMALL, *drives)
    well, ill = answer("info", tmp_path / "p", *drives)["ranks"][0]["health"]
    assert not any(well[word] for word in ("read_only", "hot", "unreliable", "low_on_spare"))
    assert (well["used"], well["spare_left"], well["celsius"]) == (3, 100, 37)
    assert ill["read_only"]
    assert ill["hot"]
    said = run("info", tmp_path / "p", *drives).stdout
    assert "health: 3 % worn, 100 % spare, 37 C, 2 media errors\n" in said
    assert "WARNS: read-only, too hot or too cold" in said


def test_info_counts_what_is_stored(filled: Path) -> None:
    rank = answer("info", filled, "--scan")["ranks"][0]
    assert rank["scan"]["valid"] == 8
    assert rank["written_bytes"] >= 8 * 4 * 2 * 8192


@pytest.mark.parametrize("command", ["info", "check"])
def test_no_pool(tmp_path: Path, command: str) -> None:
    refused = answer(command, tmp_path / "nowhere", status=CANNOT)
    assert refused["errno"] == "ENOENT"
    assert "nowhere" in refused["error"]
    done = run(command, tmp_path / "nowhere")
    assert done.returncode == CANNOT
    assert done.stdout == ""
    assert "tutti format" in done.stderr


def test_a_damaged_superblock_is_told(pool: Path) -> None:
    with (pool / "rank0.member0.tutti").open("r+b") as file:
        file.write(b"\xff" * 4096)
    assert answer("info", pool)["ranks"], "one copy is enough"
    with (pool / "rank0.member0.tutti").open("r+b") as file:
        file.seek(65536)
        file.write(b"\xff" * 4096)
    assert answer("info", pool, status=CANNOT)["errno"] == "EUCLEAN"


# Checking.


def test_check_finds_nothing_wrong(filled: Path) -> None:
    told = answer("check", filled, "--data")
    assert told["bad_slots"] == 0
    assert told["valid"] == 8
    assert told["bad"] == []
    assert "every layer agrees" in run("check", filled, "--data").stdout


def test_strangers_are_named(filled: Path) -> None:
    for left_by_a_crash in ("secret.0a1b", "disabled.x1y2z3"):
        (filled / left_by_a_crash).touch()
    assert answer("check", filled)["strangers"] == []
    stranger = filled / "notes.txt"
    stranger.touch()
    assert answer("check", filled)["strangers"] == ["notes.txt"]
    assert "notes.txt: not of this pool" in run("check", filled).stdout
    stranger.unlink()


def test_a_flipped_byte_is_named(filled: Path) -> None:
    flip(filled, layer=2, part=1, block=5)
    assert answer("check", filled)["bad_slots"] == 0, "the records are whole"
    told = answer("check", filled, "--data", status=FOUND_BAD)
    assert told["bad_slots"] == 1
    bad = told["bad"][0]
    assert bad["rank"] == 0
    assert bad["layer"] == 2
    words = run("check", filled, "--data")
    assert words.returncode == FOUND_BAD
    assert f"slot {bad['slot']} layer 2" in words.stdout
    flip(filled, layer=2, part=1, block=5)
    answer("check", filled, "--data")


def test_two_flipped_bytes_name_two_slots(filled: Path) -> None:
    flip(filled, layer=0, part=0, block=1)
    flip(filled, layer=3, part=1, block=2)
    told = answer("check", filled, "--data", status=FOUND_BAD)
    first, second = sorted(told["bad"], key=lambda bad: int(bad["layer"]))
    assert (first["layer"], second["layer"]) == (0, 3)
    assert second["slot"] == first["slot"] + 1, "neighbours of one run"


def test_progress_goes_to_standard_error(filled: Path) -> None:
    done = run("check", filled, "--data", "--progress", "--json")
    assert "100%" in done.stderr
    json.loads(done.stdout)
    assert run("check", filled, "--data").stderr == ""


# Scrubbing.


def test_scrub_drops_for_good(filled: Path) -> None:
    """Control: check finds the flipped byte before, and no slot of the others is touched."""
    flip(filled, layer=2, part=1, block=5)
    bad = answer("check", filled, "--data", status=FOUND_BAD)["bad"][0]
    told = answer("scrub", filled, "--rate", "1GiB", status=FOUND_BAD)
    assert (told["scanned"], told["bad"], told["dropped"], told["torn"]) == (8, 1, 1, 0)
    assert told["bytes"] == 8 * 4 * 2 * 8192
    assert told["seconds"] > 0
    assert (told["slots"][0]["slot"], told["slots"][0]["layer"]) == (bad["slot"], 2)
    after = answer("check", filled, "--data")
    assert (after["valid"], after["bad_slots"]) == (7, 0)
    again = answer("scrub", filled, "--rate", "1GiB")
    assert (again["scanned"], again["bad"], again["dropped"]) == (7, 0, 0)
    words = run("scrub", filled, "--rate", "1GiB/s")
    assert words.returncode == DONE
    assert "7 slots scanned" in words.stdout


def test_scrub_drops_torn_records(filled: Path) -> None:
    record = first_record(filled)
    with (filled / "rank0.member0.tutti").open("r+b") as file:
        file.seek(record + 100)
        file.write(b"\xff")
    assert answer("check", filled)["torn"] == 1
    told = answer("scrub", filled, "--rate", "1GiB", status=FOUND_BAD)
    assert (told["scanned"], told["torn"], told["dropped"]) == (7, 1, 1)
    assert "record" in run("scrub", filled).stdout
    after = answer("check", filled)
    assert (after["valid"], after["torn"]) == (7, 0)


def first_record(home: Path) -> int:
    """Offset of a record in the member, by its magic."""
    return (home / "rank0.member0.tutti").read_bytes().index(b"TTTREC01")


def test_scrub_keeps_to_its_rate(filled: Path) -> None:
    """Eight slots are 512 KiB: 256 KiB a second take longer than no bound. No upper bound."""
    fast = answer("scrub", filled, "--rate", "100GiB")["seconds"]
    slow = answer("scrub", filled, "--rate", "256KiB")["seconds"]
    assert slow > 1.0 > fast / 10


def test_scrub_refuses_a_pool_in_use(filled: Path) -> None:
    with (filled / "rank0.member0.tutti").open("r+b") as file:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, F_OFD_SETLK, lock)
        refused = answer("scrub", filled, status=CANNOT)
    assert refused["errno"] == "EBUSY"
    assert "in use" in refused["error"]
    answer("scrub", filled)


def test_scrub_usage(tmp_path: Path) -> None:
    assert run("scrub").returncode == USAGE
    assert run("scrub", tmp_path, "--rate", "fast").returncode == USAGE
    assert answer("scrub", tmp_path / "nowhere", status=CANNOT)["errno"] == "ENOENT"


# The kill switch.


def test_disable_and_enable(pool: Path) -> None:
    assert answer("disable", pool, "drive is being replaced")["disabled"] is True
    told = answer("info", pool)
    assert told["disabled"] is True
    assert told["reason"] == "drive is being replaced"
    assert "drive is being replaced" in run("info", pool).stdout
    assert answer("disable", pool)["disabled"] is True, "again is no error"
    assert answer("enable", pool)["disabled"] is False
    assert answer("enable", pool)["disabled"] is False, "again is no error"
    assert answer("info", pool)["disabled"] is False


def test_disable_needs_a_folder(tmp_path: Path) -> None:
    assert answer("disable", tmp_path / "nowhere", status=CANNOT)["errno"] == "ENOENT"
    assert run("disable").returncode == USAGE
    assert run("disable", "a", "b", "c").returncode == USAGE


def test_a_member_goes_and_comes_back(tmp_path: Path) -> None:
    home = tmp_path / "p"
    where = ["--member", str(tmp_path / "a"), "--member", str(tmp_path / "b")]
    answer("format", home, "--size", "64MiB", *where, *SMALL)
    told = answer("disable", home, "slow", "--member", "1")
    assert told["disabled"] is False
    assert told["fenced"] == [{"rank": 0, "member": 1, "reason": "slow"}]
    assert answer("info", home, *where)["ranks"][0]["fenced"] == {"1": "slow"}
    assert "fenced: slow" in run("info", home, *where).stdout
    assert answer("check", home, *where)["strangers"] == []
    # nobody has told yet where the member is, and it is not in the folder: it cannot be looked at
    refused = answer("enable", home, "--member", "1", status=CANNOT)
    assert "member 1 of rank 0 stays off" in refused["error"]
    switch = home / "disabled.rank0.member1"
    switch.write_text(f"slow\n{tmp_path / 'b'}\n")
    assert answer("enable", home, "--member", "0")["fenced"] != [], "it is not about member 1"
    assert answer("enable", home, "--member", "1")["fenced"] == []
    assert not switch.exists()
    assert answer("info", home, *where)["ranks"][0]["fenced"] == {}


def test_a_member_that_still_fails_stays_off(pool: Path) -> None:
    member = pool / "rank0.member0.tutti"
    answer("disable", pool, "errs", "--member", "0")
    with member.open("r+b") as file:
        head = file.read(4096)
        file.seek(65536)
        copy = file.read(4096)
        for offset in (0, 65536):
            file.seek(offset)
            file.write(b"\xff" * 4096)
    for arguments in ((), ("--member", "0")):
        refused = answer("enable", pool, *arguments, status=CANNOT)
        assert refused["errno"] == "EUCLEAN"
        assert "stays off" in refused["error"]
    with member.open("r+b") as file:
        file.write(head)
        file.seek(65536)
        file.write(copy)
    size = member.stat().st_size
    os.truncate(member, size - (1 << 20))
    assert answer("enable", pool, status=CANNOT)["errno"] == "EFBIG"
    os.truncate(member, size)
    assert answer("enable", pool)["fenced"] == [], "without --member everything that is off"


def test_member_usage(pool: Path) -> None:
    assert run("enable", pool, "--member", "16").returncode == USAGE
    assert run("disable", pool, "--rank", "1").returncode == USAGE


# Measuring.


def test_doctor(tmp_path: Path) -> None:
    done = run("doctor", tmp_path, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == (DONE if told["verdict"] == "good" else FOUND_BAD)
    assert told["engine"] in ("uring", "threads")
    assert told["mode"] in ("direct", "staged")
    assert told["read_gb_s"] > 0
    assert told["write_gb_s"] > 0
    names = {finding["name"] for finding in told["findings"]}
    assert {"kernel", "io_uring", "huge pages", "file system", "free space", "direct I/O"} <= names
    for finding in told["findings"]:
        assert finding["grade"] == "good" or finding["remedy"] or finding["name"] == "speed"
    assert {shape["model"] for shape in told["shapes"]} >= {"llama3-8b", "deepseek-v3"}
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_doctor_in_words(tmp_path: Path) -> None:
    words = run("doctor", tmp_path / "not" / "made" / "yet").stdout
    assert f"looked at {tmp_path}" in words
    assert "needs GB/s" in words


def test_doctor_cannot(tmp_path: Path) -> None:
    assert "error" in answer("doctor", "/proc", status=CANNOT)


def refuse_io_uring() -> None:
    """A seccomp filter as container runtimes have it: io_uring_setup (425) gives EPERM."""

    def instruction(code: int, jt: int, jf: int, k: int) -> bytes:
        return struct.pack("HBBI", code, jt, jf, k)

    program = (
        instruction(0x20, 0, 0, 0)  # load the call's number
        + instruction(0x15, 0, 1, 425)
        + instruction(0x06, 0, 0, 0x00050001)  # errno EPERM
        + instruction(0x06, 0, 0, 0x7FFF0000)  # allow
    )
    code = ctypes.create_string_buffer(program)
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.prctl(22, 2, head, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def test_without_io_uring(tmp_path: Path) -> None:
    told = answer("doctor", tmp_path, status=FOUND_BAD, preexec_fn=refuse_io_uring)
    assert told["engine"] == "threads"
    assert "io_uring" in told["reason"]
    finding = next(f for f in told["findings"] if f["name"] == "io_uring")
    assert finding["grade"] == "worse"
    assert "seccomp" in finding["remedy"]
    told = answer("bench", *SMALL, "--tokens", "256", "--pairs", "1", "--pool", tmp_path,
                  preexec_fn=refuse_io_uring)  # fmt: skip
    assert told["engine"] == "threads"
    assert told["raw"] == "threads"
    assert told["wrong_bytes"] == 0


def test_bench(tmp_path: Path) -> None:
    told = answer("bench", *SMALL, "--tokens", "1024", "--pairs", "2", "--pool", tmp_path)
    assert told["wrong_bytes"] == 0
    assert told["failed_blocks"] == 0
    assert told["bytes"] == 64 * 4 * 2 * 8192
    for direction in ("store", "retrieve"):
        pairs = told[direction]["pairs"]
        assert [pair["first"] for pair in pairs] == ["ours", "raw"]
        assert told[direction]["ratio"] > 0
        for pair in pairs:
            assert pair["ratio"] == pytest.approx(pair["raw_seconds"] / pair["seconds"], rel=1e-3)
    assert told["retrieve"]["first_layer_ms"] > 0
    assert told["command_line"].startswith("tutti bench")
    assert told["machine"]["cpus"] >= 1
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_bench_turns(tmp_path: Path) -> None:
    told = answer("bench", *SMALL, "--tokens", "320", "--turns", "--pairs", "1", "--extent",
                  "32MiB", "--pool", tmp_path)  # fmt: skip
    assert len(told["turns"]) == 21
    assert told["turns"][-1]["tokens"] == 320 + 2000
    assert sum(turn["stored_blocks"] for turn in told["turns"]) == (320 + 2000) // 16
    assert told["runs"] >= 1
    assert told["wrong_bytes"] == 0
    assert list(tmp_path.iterdir()) == []


def test_bench_usage() -> None:
    assert run("bench").returncode == USAGE
    assert run("bench", "--model", "glm-4-9b", "--tokens", "3").returncode == USAGE
    assert run("bench", "--model", "glm-4-9b", "--engine", "magic").returncode == USAGE
    assert run("bench", "--model", "glm-4-9b", "stray").returncode == USAGE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [TUTTI, "bench", "--model", "glm-4-9b", "--pool", tmp_path, "--pairs", "50"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as bench:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("tutti-scratch-*/pool/*.tutti")):
            assert time.monotonic() < deadline
            assert bench.poll() is None
            time.sleep(0.01)
        bench.send_signal(number)
        assert bench.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_bench_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "tutti-scratch-abcdef"
    left.mkdir()
    (left / "raw").write_bytes(b"x" * 1000)
    other = tmp_path / "mine"
    other.mkdir()
    os.utime(left, (1, 1))
    answer("bench", *SMALL, "--tokens", "64", "--pairs", "1", "--pool", tmp_path)
    assert list(tmp_path.iterdir()) == [other]


# Help and manual.


def test_without_a_command() -> None:
    done = run()
    assert done.returncode == USAGE
    assert "format" in done.stderr
    assert run("frobnicate").returncode == USAGE
    done = run("--help")
    assert done.returncode == DONE
    assert all(command in done.stdout for command in COMMANDS)
    assert re.fullmatch(r"tutti \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_exit_codes(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == DONE
    assert f"Example:\n  tutti {command} " in done.stdout
    assert "Exit status: 0" in done.stdout
    assert "--json" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_has_every_option(command: str) -> None:
    page = (ROOT / "docs" / "man" / f"tutti-{command}.1").read_text()
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES"):
        assert f".Sh {section}\n" in page
    options = set(re.findall(r"--([a-z][a-z-]*)", run(command, "--help").stdout))
    assert "json" in options
    for option in options:
        assert re.search(rf"Fl -{option}\b", page), f"--{option} is not in the manual"
    assert f"tutti {command} " in page.split(".Sh EXAMPLES")[1]


def test_the_manual_names_every_page() -> None:
    page = (ROOT / "docs" / "man" / "tutti.1").read_text()
    assert all(f"Xr tutti-{command} 1" in page for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_wrong_usage(command: str) -> None:
    done = run(command, "--no-such-option")
    assert done.returncode == USAGE
    assert "--help" in done.stderr
