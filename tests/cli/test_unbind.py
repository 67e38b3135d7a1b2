"""`tutti unbind` on made-up machines: back to the nvme driver, and nothing left behind.

Each test's comment says how the command was broken to see the test fail.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from machines import Kernel, Machine
from test_bind import BOUND, FIRST, UNIT, WANTED, Slow, device, steps, without_dates
from test_cli import CANNOT, DONE, TUTTI, answer, run


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def test_there_and_back(machine: Machine) -> None:
    """Seen to fail: with the override left: the drive would go to vfio-pci again."""
    machine.drive()
    before = machine.tree()
    with Kernel(machine):
        answer("bind", "S1", "--yes", "--persist", *machine.arguments)
    planned = answer("unbind", "S1", "--dry-run", *machine.arguments)
    with Kernel(machine) as kernel:
        told = answer("unbind", "S1", *machine.arguments)
    back = [
        f"echo > /sys/bus/pci/devices/{FIRST}/driver_override",
        f"echo {FIRST} > /sys/bus/pci/drivers/vfio-pci/unbind",
        f"echo {FIRST} > /sys/bus/pci/drivers_probe",
    ]
    assert steps(told) == steps(planned)
    assert steps(told) == [*back, f"rm -f {BOUND}", f"rm -f {WANTED}", f"rm -f {UNIT}"]
    assert kernel.written == back
    assert without_dates(machine.tree()) == without_dates(before)
    again = run("unbind", "S1", *machine.arguments)
    assert again.returncode == DONE
    assert "nothing to do" in again.stdout


def test_a_drive_in_use_is_not_taken_away(machine: Machine) -> None:
    """The kernel would wait, for as long as that process lives.

    Seen to fail: with the processes not looked at; with any open group taken for this one; with
    groups looked at only, and not what iommufd opens.
    """
    machine.drive()
    with Kernel(machine):
        answer("bind", "S1", "--yes", *machine.arguments)
    open_file = machine.path("/proc/123/fd/9")
    open_file.parent.mkdir(parents=True)
    open_file.symlink_to("/dev/vfio/7")
    refused = answer("unbind", "S1", *machine.arguments, status=CANNOT)
    assert "process 123 uses it" in refused["error"]
    open_file.unlink()
    open_file.symlink_to("/dev/vfio/devices/vfio3")
    machine.path(f"/sys/bus/pci/devices/{FIRST}/vfio-dev/vfio3").mkdir(parents=True)
    refused = answer("unbind", "S1", *machine.arguments, status=CANNOT)
    assert "process 123 uses it" in refused["error"]
    open_file.unlink()
    open_file.symlink_to("/dev/vfio/77")
    with Kernel(machine):
        answer("unbind", "S1", *machine.arguments)
    assert machine.driver_of(FIRST) == "nvme"


def test_a_driver_that_does_not_take_it_back(machine: Machine) -> None:
    """Then it stays with vfio-pci, whole: bound, on record, and bound at boot.

    Seen to fail: without putting back.
    """
    machine.drive()
    with Kernel(machine):
        answer("bind", "S1", "--yes", "--persist", *machine.arguments)
    before = machine.tree()
    with Kernel(machine, refuses="nvme"):
        refused = answer("unbind", "S1", *machine.arguments, status=CANNOT)
    assert "all is put back as it was" in refused["error"]
    assert without_dates(machine.tree()) == without_dates(before)
    override = machine.path(f"/sys/bus/pci/devices/{FIRST}/driver_override").read_text()
    assert override == "vfio-pci\n"


def test_a_file_that_cannot_be_removed(machine: Machine) -> None:
    """The drive is given back all the same, and the message says what is left.

    Seen to fail: with the drive put back to vfio-pci for that.
    """
    machine.drive()
    with Kernel(machine):
        answer("bind", "S1", "--yes", *machine.arguments)
    machine.path(BOUND).unlink()
    machine.path(BOUND).mkdir()
    with Kernel(machine):
        refused = answer("unbind", FIRST, *machine.arguments, status=CANNOT)
    assert "is given back, but" in refused["error"]
    assert BOUND in refused["error"]
    assert machine.driver_of(FIRST) == "nvme"


def test_the_nvme_module_is_loaded(machine: Machine) -> None:
    """Seen to fail: without the modprobe."""
    machine.drive()
    with Kernel(machine):
        answer("bind", "S1", "--yes", *machine.arguments)
    machine.unload("nvme")
    with Kernel(machine):
        told = answer("unbind", "S1", *machine.arguments)
    assert steps(told)[0] == "modprobe nvme"
    assert machine.driver_of(FIRST) == "nvme"


def test_bound_by_somebody_else(machine: Machine) -> None:
    """No serial is on record: the address names it, and it can be given back.

    Seen to fail: with an unknown serial taken for a name (the empty one).
    """
    machine.drive()
    with Kernel(machine):
        answer("bind", "S1", "--yes", *machine.arguments)
    machine.path(BOUND).unlink()
    assert device(machine)["serial"] == ""
    assert "serial not known" in run("devices", *machine.arguments).stdout
    assert answer("unbind", "", *machine.arguments, status=CANNOT)["errno"] == "ENODEV"
    with Kernel(machine):
        answer("unbind", FIRST, *machine.arguments)
    assert device(machine)["serial"] == "S1"


def test_what_a_kill_leaves(machine: Machine) -> None:
    """A drive that nobody has: unbind gives it back, by its serial.

    Seen to fail: with a drive without a driver left alone.
    """
    machine.drive()
    before = machine.tree()

    class Killing(Slow):
        number = signal.SIGKILL

    with Killing(machine) as kernel:
        kernel.command = subprocess.Popen(
            [TUTTI, "bind", "S1", "--yes", *machine.arguments], stdout=subprocess.DEVNULL, text=True
        )
        kernel.command.wait(60)
    assert kernel.command.returncode == -signal.SIGKILL
    assert machine.driver_of(FIRST) == ""
    assert device(machine)["serial"] == "S1"
    with Kernel(machine):
        answer("unbind", "S1", *machine.arguments)
    assert machine.driver_of(FIRST) == "nvme"
    assert without_dates(machine.tree()) == without_dates(before)
