"""`tutti bind` on made-up machines: what is written, in which order, and what is undone.

Each test's comment says how the command was broken to see the test fail.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
from pathlib import Path
from typing import Any

import machines
import pytest
from machines import Kernel, Machine
from test_cli import CANNOT, DONE, TUTTI, USAGE, answer, run

FIRST, SECOND = "0000:01:00.0", "0000:02:00.0"
UNIT = "/etc/systemd/system/tutti-bind-S1.service"
WANTED = "/etc/systemd/system/multi-user.target.wants/tutti-bind-S1.service"
BOUND = f"/run/tutti/bound/{FIRST}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def steps(told: dict[str, Any]) -> list[str]:
    return [step for device in told["devices"] for step in device["steps"]]


def echoes(told: dict[str, Any]) -> list[str]:
    return [step for step in steps(told) if step.startswith("echo")]


def sysfs(address: str = FIRST) -> list[str]:
    """What binding one drive writes."""
    return [
        f"echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override",
        f"echo {address} > /sys/bus/pci/drivers/nvme/unbind",
        f"echo {address} > /sys/bus/pci/drivers_probe",
    ]


def without_dates(tree: dict[str, str]) -> dict[str, str]:
    """A tree without what sysfs would not show as changed: files that are only written to."""
    written = ("driver_override", "/bind", "/unbind", "drivers_probe", "modprobed")
    return {name: text for name, text in tree.items() if not name.endswith(written)}


def device(machine: Machine) -> dict[str, Any]:
    (found,) = answer("devices", *machine.arguments)["devices"]
    assert isinstance(found, dict)
    return found


# Binding.


def test_the_plan_is_what_is_done(machine: Machine) -> None:
    """Seen to fail: with the probe before the unbind; with the serial written down last."""
    machine.drive()
    before = machine.tree()
    planned = answer("bind", "S1", "--dry-run", *machine.arguments)
    assert planned["dry_run"]
    assert machine.tree() == before, "a dry run changes nothing"
    with Kernel(machine) as kernel:
        told = answer("bind", "S1", "--yes", *machine.arguments)
    assert steps(told) == steps(planned) == [f"write {BOUND}", *sysfs()]
    assert kernel.written == sysfs()
    assert kernel.files_at_first == [FIRST], "the serial is on record before the driver goes"
    assert machine.driver_of(FIRST) == "vfio-pci"
    found = device(machine)
    assert (found["serial"], found["model"], found["bytes"]) == ("S1", "A drive", 64 << 20)
    assert found["bound"]
    assert not found["bindable"]
    assert not found["persists"]
    assert "bound: tutti unbind S1" in run("devices", *machine.arguments).stdout


def test_by_address(machine: Machine) -> None:
    """Seen to fail: with addresses taken only in full."""
    machine.drive()
    for name in (FIRST, "01:00.0"):
        told = answer("bind", name, "--dry-run", *machine.arguments)
        assert [d["serial"] for d in told["devices"]] == ["S1"]
    told = answer("bind", "S1", FIRST, "--dry-run", *machine.arguments)
    assert len(told["devices"]) == 1, "named twice, bound once"


def test_a_name_that_fits_none_or_two(machine: Machine) -> None:
    """Seen to fail: with the first of two taken."""
    machine.drive()
    assert answer("bind", "S", "--yes", *machine.arguments, status=CANNOT)["errno"] == "ENODEV"
    machine.drive(1, SECOND, "S1", "8")
    refused = answer("bind", "S1", "--yes", *machine.arguments, status=CANNOT)
    assert refused["errno"] == "ENOTUNIQ"
    assert FIRST in refused["error"]
    assert SECOND in refused["error"]


def test_it_asks(machine: Machine) -> None:
    """Seen to fail: with an end of input taken for a yes; with the plan printed too late."""
    machine.drive()
    before = machine.tree()
    for text in ("n\n", "\n", ""):
        done = run("bind", "S1", *machine.arguments, input=text)
        assert done.returncode == CANNOT
        assert "nothing was done" in done.stderr
        assert done.stdout.index(sysfs()[2]) < done.stdout.index("[y/N]")
    assert machine.tree() == before
    with Kernel(machine):
        done = run("bind", "S1", *machine.arguments, input="y\n")
    assert done.returncode == DONE
    assert f"S1 ({FIRST}) is vfio-pci's now" in done.stdout
    again = run("bind", "S1", *machine.arguments, input="")
    assert again.returncode == DONE, "nothing to do is nothing to ask"
    assert "nothing to do" in again.stdout


def test_json_cannot_ask(machine: Machine) -> None:
    """Seen to fail: with the question asked in the middle of the JSON."""
    machine.drive()
    done = run("bind", "S1", "--json", *machine.arguments, input="y\n")
    assert done.returncode == USAGE
    assert "--yes" in done.stderr


def test_data_takes_a_flag(machine: Machine) -> None:
    """Seen to fail: with the flag not looked at; with it looked at and always there."""
    file = machine.drive()
    machines.partition_table(file)
    before = machine.tree()
    refused = answer("bind", "S1", "--yes", *machine.arguments, status=CANNOT)
    assert refused["errno"] == "EEXIST"
    assert "--despite-data" in refused["error"]
    assert machine.tree() == before
    content = file.read_bytes()
    with Kernel(machine):
        answer("bind", "S1", "--yes", "--despite-data", *machine.arguments)
    assert machine.driver_of(FIRST) == "vfio-pci"
    assert file.read_bytes() == content, "binding writes nothing to the drive"


def test_the_module_is_loaded(machine: Machine) -> None:
    """Seen to fail: with the module taken for loaded; with one modprobe a drive."""
    machine.drive()
    machine.drive(1, SECOND, "S2", "8")
    machine.unload("vfio-pci")
    with Kernel(machine) as kernel:
        told = answer("bind", "S1", "S2", "--yes", *machine.arguments)
    assert steps(told)[0] == "modprobe vfio-pci"
    assert echoes(told) == kernel.written == [*sysfs(FIRST), *sysfs(SECOND)]
    assert (machine.root / "modprobed").read_text() == "vfio-pci\n"


@pytest.mark.parametrize("program", [None, "#!/bin/sh\nexit 1\n"])
def test_the_module_cannot_be_loaded(machine: Machine, program: str | None) -> None:
    """Seen to fail: with modprobe's status not looked at."""
    machine.drive()
    machine.unload("vfio-pci")
    machine.path("/sbin/modprobe").unlink()
    if program:
        machine.write("/sbin/modprobe", program)
        machine.path("/sbin/modprobe").chmod(0o755)
    before = machine.tree()
    refused = answer("bind", "S1", "--yes", *machine.arguments, status=CANNOT)
    assert "modprobe vfio-pci" in refused["error"]
    assert machine.tree() == before


def test_a_group_bound_whole(machine: Machine) -> None:
    """Two drives of one group are in each other's way, unless both are named.

    Seen to fail: with peers that are named not marked.
    """
    machine.drive()
    machine.drive(1, SECOND, "S2", "7")
    refused = answer("bind", "S1", "--yes", *machine.arguments, status=CANNOT)
    assert f"{SECOND} (nvme)" in refused["error"]
    with Kernel(machine) as kernel:
        answer("bind", "S2", "S1", "--yes", *machine.arguments)
    assert kernel.written == [*sysfs(SECOND), *sysfs(FIRST)]


def test_all_are_judged_before_one_is_touched(machine: Machine) -> None:
    """Seen to fail: with each judged when its turn comes."""
    machine.drive()
    machine.drive(1, SECOND, "S2", "8")
    machine.mount("259:1", "/data")
    before = machine.tree()
    refused = answer("bind", "S1", "S2", "--yes", *machine.arguments, status=CANNOT)
    assert "mounted on /data" in refused["error"]
    assert machine.tree() == before


# Steps that fail.


@pytest.mark.parametrize("place", ["drivers/nvme/unbind", "drivers_probe"])
def test_a_step_that_fails_is_undone(machine: Machine, place: str) -> None:
    """A folder where a file is expected: the write fails, and all before it is taken back.

    Seen to fail: without putting back; with the override put back last, when the nvme driver was
    asked to take the drive and could not.
    """
    machine.drive()
    before = machine.tree()
    file = machine.path(f"/sys/bus/pci/{place}")
    file.unlink()
    file.mkdir()
    with Kernel(machine) as kernel:
        refused = answer("bind", "S1", "--yes", "--persist", *machine.arguments, status=CANNOT)
    file.rmdir()
    file.touch()
    assert "Is a directory" in refused["error"]
    assert place in refused["error"]
    assert "all is put back as it was" in refused["error"]
    assert without_dates(machine.tree()) == without_dates(before)
    cleared = f"echo > /sys/bus/pci/devices/{FIRST}/driver_override"
    if place == "drivers_probe":
        bound = f"echo {FIRST} > /sys/bus/pci/drivers/nvme/bind"
        assert kernel.written == [*sysfs()[:2], cleared, bound]
    else:  # two writes to one file at once: the first may have been overtaken when it is read
        assert kernel.written[-1] == cleared
        assert set(kernel.written) <= {sysfs()[0], cleared}


def test_a_driver_that_does_not_take_it(machine: Machine) -> None:
    """The write succeeds and has no effect: the kernel says nothing of a probe that fails.

    Seen to fail: with the effect not looked at. The second drive fails, the first is put back too.
    """
    machine.drive()
    machine.drive(1, SECOND, "S2", "8")
    before = machine.tree()

    class Choosy(Kernel):
        def take(self, address: str, driver: str) -> None:
            if (address, driver) != (SECOND, "vfio-pci"):
                super().take(address, driver)

    with Choosy(machine):
        refused = answer("bind", "S1", "S2", "--yes", *machine.arguments, status=CANNOT)
    assert f"{SECOND} has driver none, not vfio-pci" in refused["error"]
    assert "all is put back as it was" in refused["error"]
    assert without_dates(machine.tree()) == without_dates(before)
    assert [machine.driver_of(a) for a in (FIRST, SECOND)] == ["nvme", "nvme"]


def test_what_cannot_be_put_back_is_said(machine: Machine) -> None:
    """Seen to fail: with the failure of putting back not looked at."""
    machine.drive()
    for place in ("drivers_probe", "drivers/nvme/bind"):
        machine.path(f"/sys/bus/pci/{place}").unlink()
        machine.path(f"/sys/bus/pci/{place}").mkdir()
    with Kernel(machine) as kernel:
        refused = answer("bind", "S1", "--yes", *machine.arguments, status=CANNOT)
    assert "putting it back failed" in refused["error"]
    assert "nvme/bind" in refused["error"]
    assert kernel.written[-1] == f"echo > /sys/bus/pci/devices/{FIRST}/driver_override"
    assert not machine.path(BOUND).exists(), "what can be put back is"


def test_claimed_while_it_is_handed_over(machine: Machine) -> None:
    """Nobody can mount a drive between look and unbind: its device is open then.

    Seen to fail: with the claim given up before the first step.
    """
    file = machine.drive()
    seen: list[int] = []

    class Watching(Kernel):
        def leave(self, address: str) -> None:
            for place in Path("/proc").glob("[0-9]*/fd/*"):
                try:
                    seen.append(int(place.readlink() == file))
                except OSError:
                    continue
            super().leave(address)

    with Watching(machine):
        answer("bind", "S1", "--yes", *machine.arguments)
    assert sum(seen) == 1


class Slow(Kernel):
    """Takes the drive from nvme only when the command was told to stop."""

    command: subprocess.Popen[str]

    def leave(self, address: str) -> None:
        self.command.send_signal(self.number)
        super().leave(address)

    number = signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_waits(machine: Machine, number: signal.Signals) -> None:
    """Half of the steps would leave a drive that nobody has.

    Seen to fail: with signals not held.
    """
    machine.drive()
    with Slow(machine) as kernel:
        kernel.number = number
        kernel.command = subprocess.Popen(
            [TUTTI, "bind", "S1", *machine.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        words, _ = kernel.command.communicate("y\n", timeout=60)
    assert kernel.command.returncode == DONE
    assert "is vfio-pci's now" in words
    assert machine.driver_of(FIRST) == "vfio-pci"


# Every boot.


def test_persist(machine: Machine) -> None:
    """Seen to fail: without the link, when systemd starts nothing; with the address in the unit."""
    machine.drive()
    planned = run("bind", "S1", "--dry-run", "--persist", *machine.arguments).stdout
    with Kernel(machine) as kernel:
        told = answer("bind", "S1", "--yes", "--persist", *machine.arguments)
    assert steps(told)[:3] == [
        f"write {BOUND}",
        f"write {UNIT}",
        f"ln -s ../tutti-bind-S1.service {WANTED}",
    ]
    assert set(kernel.files_at_first) == {FIRST, "tutti-bind-S1.service"}
    unit = machine.path(UNIT).read_text()
    assert machine.path(WANTED).resolve() == machine.path(UNIT).resolve()
    assert f"ExecStart={TUTTI.resolve()} bind --yes S1\n" in unit
    assert all(f"| {line}\n" in planned for line in unit.splitlines())
    assert device(machine)["persists"]
    with Kernel(machine):
        run("unbind", "S1", *machine.arguments)
    assert not machine.path(UNIT).exists()
    assert not machine.path(WANTED).is_symlink()


def test_persist_later(machine: Machine) -> None:
    """A drive that is bound already is made to stay so.

    Seen to fail: with a bound drive passed over.
    """
    machine.drive()
    with Kernel(machine) as kernel:
        answer("bind", "S1", "--yes", *machine.arguments)
        told = answer("bind", "S1", "--yes", "--persist", *machine.arguments)
    assert steps(told) == [f"write {UNIT}", f"ln -s ../tutti-bind-S1.service {WANTED}"]
    assert kernel.written == sysfs()


def test_persist_remembers_the_flag(machine: Machine) -> None:
    """Each boot makes the same checks: what was said now is said then.

    Seen to fail: with the flag left out of the unit.
    """
    machines.partition_table(machine.drive())
    with Kernel(machine):
        answer("bind", "S1", "--yes", "--persist", "--despite-data", *machine.arguments)
    assert " bind --yes --despite-data S1\n" in machine.path(UNIT).read_text()


def test_the_unit_is_one(machine: Machine) -> None:
    """systemd's own reader has nothing to say about it.

    Seen to fail: with "RestartSec" misspelt in the unit.
    """
    machine.drive()
    with Kernel(machine):
        answer("bind", "S1", "--yes", "--persist", *machine.arguments)
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", machine.path(UNIT)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no systemd-analyze here")
    ours = [line for line in done.stderr.splitlines() if "tutti-bind" in line]
    assert ours == []


@pytest.mark.parametrize("serial", ["S 1", "S/1", "S%i", ""])
def test_persist_needs_a_plain_serial(machine: Machine, serial: str) -> None:
    """Seen to fail: with "%" let through, which systemd would replace."""
    machine.drive(serial=serial)
    before = machine.tree()
    refused = answer("bind", FIRST, "--yes", "--persist", *machine.arguments, status=CANNOT)
    assert "--persist goes by serial" in refused["error"]
    assert machine.tree() == before


def test_persist_needs_systemd(machine: Machine) -> None:
    """Seen to fail: with the unit made where nobody reads it."""
    machine.drive()
    machine.path("/run/systemd/system").rmdir()
    refused = answer("bind", "S1", "--yes", "--persist", *machine.arguments, status=CANNOT)
    assert "tutti bind --yes S1" in refused["error"]
    assert not machine.path(UNIT).exists()


def test_usage() -> None:
    """Seen to fail: with no DEVICE taken for all of them."""
    for command in ("bind", "unbind"):
        done = run(command)
        assert done.returncode == USAGE
        assert "tutti devices" in done.stderr


def without_override() -> None:
    """Root, but bound by the modes of files, as others are (without CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_not_permitted(machine: Machine) -> None:
    """Seen to fail: with a folder that cannot be made found out by the file's ENOENT."""
    machine.drive()
    machine.path("/run").chmod(0o555)
    refused = answer("bind", "S1", "--yes", *machine.arguments, status=CANNOT,
                     preexec_fn=without_override)  # fmt: skip
    assert refused["errno"] == "EACCES"
    assert "run it as root" in refused["error"]
    assert machine.driver_of(FIRST) == "nvme"
