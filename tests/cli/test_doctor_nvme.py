"""`tutti doctor` on made-up machines: each obstacle to NVMe from user space, and what removes it.

Each test's comment says how the command was broken to see the test fail.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Kernel, Machine
from test_cli import answer, run

ROWS = ("NVMe", "IOMMU", "IOMMU groups", "vfio-pci", "/dev/vfio", "VFIO container",
        "locked memory", "GPU BAR1")  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One where nothing is in the way."""
    made = Machine(tmp_path / "machine")
    made.write("/dev/vfio/vfio", "")
    made.write("/dev/vfio/7", "")
    made.write("/sys/module/vfio_iommu_type1/refcnt", "0\n")
    return made


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))


def limited_for_good() -> None:
    """Without CAP_IPC_LOCK, which lifts the limit."""
    limited()
    ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)


def rows(
    machine: Machine, before: Callable[[], None] | None = None
) -> dict[str, tuple[str, str, str]]:
    """What is said of NVMe: grade, fact and remedy by name; of this process's own limit only where
    it was set."""

    def prepare() -> None:
        """Files of a MiB at most: then doctor does not measure the disk, which takes a second."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        if before:
            before()

    done = run("doctor", machine.root, "--json", *machine.arguments, preexec_fn=prepare,
               restore_signals=False)  # fmt: skip
    findings = json.loads(done.stdout)["findings"]
    said = {f["name"]: (f["grade"], f["fact"], f["remedy"]) for f in findings if f["name"] in ROWS}
    if before is None:
        said.pop("locked memory", None)
    return said


def only_worse(machine: Machine, name: str, before: Callable[[], None] | None = None) -> str:
    """This obstacle and no other; returns fact and remedy."""
    said = rows(machine, before)
    assert [row for row, (grade, _, _) in said.items() if grade != "good"] == [name]
    return " -> ".join(said[name][1:])


def test_no_controller(machine: Machine) -> None:
    """One row, whatever else the machine lacks.

    Seen to fail: with the other rows given all the same.
    """
    machine.path("/dev/vfio/vfio").unlink()
    said = rows(machine, limited_for_good)
    assert list(said) == ["NVMe"]
    assert said["NVMe"][0] == "good"
    assert "no NVMe controller" in said["NVMe"][1]


def test_nothing_in_the_way(machine: Machine) -> None:
    """Seen to fail: with the names of the rows in another order than what needs what."""
    machine.drive()
    said = rows(machine)
    assert list(said) == ["NVMe", "IOMMU", "IOMMU groups", "vfio-pci", "VFIO container"]
    assert {grade for grade, _, _ in said.values()} == {"good"}
    assert "1 controller, 0 bound" in said["NVMe"][1]


@pytest.mark.parametrize(
    ("table", "remedy"),
    [("DMAR", "boot with intel_iommu=on"), ("IVRS", "without amd_iommu=off"), ("", "firmware")],
)
def test_no_iommu(machine: Machine, table: str, remedy: str) -> None:
    """Without it there is no group to speak of, and nothing for vfio-pci to do.

    Seen to fail: with the firmware's tables not looked at.
    """
    machine.drive(group=None)
    if table:
        machine.write(f"/sys/firmware/acpi/tables/{table}", "x")
    assert remedy in only_worse(machine, "IOMMU")
    assert list(rows(machine)) == ["NVMe", "IOMMU"]


def test_a_group_that_is_not_viable(machine: Machine) -> None:
    """Seen to fail: with the count of all controllers for those that share."""
    machine.drive()
    machine.drive(1, "0000:02:00.0", "S2", "8")
    machine.device("0000:03:00.0", "0x0c0330", "8", "xhci_hcd")
    said = only_worse(machine, "IOMMU groups")
    assert "1 of 2 NVMe controllers" in said
    assert "0000:02:00.0 is in group 8 with 0000:03:00.0 (xhci_hcd)" in said
    assert "ACS" in said


def test_the_module_is_not_loaded(machine: Machine) -> None:
    """Seen to fail: with the remedy of a container on a machine."""
    machine.drive()
    machine.unload("vfio-pci")
    said = only_worse(machine, "vfio-pci")
    assert "-> modprobe vfio-pci (" in said
    machine.write("/run/.containerenv", "")
    assert "-> modprobe vfio-pci on the host (" in only_worse(machine, "vfio-pci")


def test_a_container_without_dev_vfio(machine: Machine) -> None:
    """Seen to fail: with the devices of this machine looked at, not of the made-up one."""
    machine.drive()
    assert "/dev/vfio" not in rows(machine)
    machine.path("/dev/vfio/vfio").unlink()
    assert "-> modprobe vfio;" in only_worse(machine, "/dev/vfio")
    machine.write("/.dockerenv", "")
    said = only_worse(machine, "/dev/vfio")
    assert "in this container" in said
    assert "docker run --device /dev/vfio/vfio --device /dev/vfio/GROUP" in said


def test_a_container_without_the_group(machine: Machine) -> None:
    """Seen to fail: with the groups of drives looked at that are not bound."""
    machine.drive()
    machine.drive(1, "0000:02:00.0", "S2", "8")
    with Kernel(machine):
        answer("bind", "S1", "--yes", *machine.arguments)
    assert rows(machine)["VFIO container"][0] == "good"
    machine.path("/dev/vfio/7").unlink()
    said = only_worse(machine, "/dev/vfio")
    assert "/dev/vfio/7 of 0000:01:00.0 is not here" in said
    assert "--device /dev/vfio/7 " in said


def test_iommufd_behind_the_node(machine: Machine) -> None:
    """Seen to fail: with /dev/vfio/vfio taken for vfio_iommu_type1."""
    machine.drive()
    (machine.path("/sys/module/vfio_iommu_type1") / "refcnt").unlink()
    machine.path("/sys/module/vfio_iommu_type1").rmdir()
    assert "not known at /dev/vfio/vfio" in only_worse(machine, "VFIO container")
    machine.write("/dev/iommu", "")
    said = only_worse(machine, "VFIO container")
    assert "iommufd answers at /dev/vfio/vfio" in said
    assert "CONFIG_VFIO_CONTAINER" in said


def test_locked_memory(machine: Machine) -> None:
    """Seen to fail: with the limit told to who has CAP_IPC_LOCK; with it told to nobody."""
    machine.drive()
    said = only_worse(machine, "locked memory", limited_for_good)
    assert "given 8 MiB of" in said
    assert "ulimit -l unlimited" in said
    if os.geteuid() == 0:
        assert rows(machine, limited)["locked memory"][0] == "good"


GIB = 1 << 30


@pytest.mark.parametrize(
    ("bar", "sizes", "grade"),
    [
        (256 << 20, None, "worse"),  # of old, and cannot be resized
        (32 * GIB, None, "good"),
        (256 << 20, 0x3F00, "worse"),  # up to 8 GiB
        (4 * GIB, 0x3F00, "worse"),
        (8 * GIB, 0x3F00, "good"),
        (0, None, "worse"),  # the firmware gave it none
    ],
)
def test_bar1(machine: Machine, bar: int, sizes: int | None, grade: str) -> None:
    """Seen to fail: with BAR0's line read; with the first size for the largest one."""
    machine.drive()
    gpu = machine.device("0000:05:00.0", "0x030200", "9", "nvidia")
    machine.write(f"{gpu}/vendor", "0x10de\n")
    start = 0x6000000000 if bar else 0
    ends = [(0xF0000000, 0xF0FFFFFF), (start, start + bar - 1 if bar else 0)]
    machine.write(f"{gpu}/resource", "".join(f"{a:#018x} {b:#018x} 0x0\n" for a, b in ends))
    if sizes is not None:
        machine.write(f"{gpu}/resource1_resize", f"{sizes:016x}\n")
    said = rows(machine)["GPU BAR1"]
    assert said[0] == grade
    if sizes is not None and grade == "worse":
        assert "could be 8 GiB" in said[1]


def test_other_devices_have_no_bar1(machine: Machine) -> None:
    """NVIDIA makes more than GPUs, and others make GPUs.

    Seen to fail: with the vendor not looked at; with the class not looked at.
    """
    machine.drive()
    for address, kind, vendor in (
        ("0000:05:00.0", "0x040300", "0x10de"),
        ("0000:06:00.0", "0x030000", "0x1002"),
    ):
        home = machine.device(address, kind, "9", None)
        machine.write(f"{home}/vendor", f"{vendor}\n")
    assert "GPU BAR1" not in rows(machine)
