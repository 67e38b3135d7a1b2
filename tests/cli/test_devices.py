"""`tutti devices` on made-up machines: what each drive is said to be, and whether it is free.

Each test's comment says how the command was broken to see the test fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machines
import pytest
from machines import Machine
from test_cli import CANNOT, SMALL, answer, run


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def devices(machine: Machine) -> list[dict[str, Any]]:
    found = answer("devices", *machine.arguments)["devices"]
    assert isinstance(found, list)
    return found


def only(machine: Machine) -> dict[str, Any]:
    (device,) = devices(machine)
    return device


def refused(machine: Machine, word: str) -> dict[str, Any]:
    """Not bindable whatever is said: the reason holds @word, and bind gives the same."""
    device = only(machine)
    assert not device["bindable"]
    assert not device["despite_data"]
    assert word in device["reason"]
    before = machine.tree()
    done = answer("bind", "S1", "--yes", "--despite-data", *machine.arguments, status=CANNOT)
    assert word in done["error"]
    assert machine.tree() == before
    return device


def test_no_controller(machine: Machine) -> None:
    """Seen to fail: with any device of class 0x0108 taken for one (strncmp)."""
    machine.device("0000:00:1f.2", "0x010801", "3", "ahci")
    assert devices(machine) == []
    assert run("devices", *machine.arguments).stdout == "no NVMe controller\n"


def test_a_plain_drive(machine: Machine) -> None:
    """Seen to fail: with the serial's blanks kept; with sizes in sectors; with the group's own
    device counted as a peer."""
    machine.drive()
    device = only(machine)
    assert (device["serial"], device["model"]) == ("S1", "A drive")
    assert (device["address"], device["driver"]) == ("0000:01:00.0", "nvme")
    assert (device["group"], device["alone"], device["group_peers"]) == ("7", True, [])
    assert device["bytes"] == 64 << 20
    assert device["namespaces"] == [
        {"name": "nvme0n1", "bytes": 64 << 20, "holds": "", "in_use": "", "foreign": False}
    ]
    assert device["bindable"]
    assert not device["bound"]
    words = run("devices", *machine.arguments).stdout
    assert "IOMMU group 7 (alone in it), 64 MiB" in words
    assert "nvme0n1: nothing" in words
    assert "can be bound: tutti bind S1" in words


def test_the_root_device(machine: Machine) -> None:
    """The root comes behind another mount of the same drive in the list.

    Seen to fail: with "/" treated as any other mount point.
    """
    machine.drive()
    machine.partition("nvme0n1", "259:5")
    machine.mount("259:5", "/boot")
    machine.mount("259:5", "/")
    refused(machine, "holds the root file system")


def test_mounted(machine: Machine) -> None:
    """Seen to fail: with numbers compared by their first characters only."""
    machine.drive()
    machine.mount("259:01", "/other")
    assert only(machine)["bindable"]
    machine.mount("259:0", "/data")
    refused(machine, "mounted on /data")


def test_mounted_by_name(machine: Machine) -> None:
    """btrfs shows a number of its own in mountinfo; the source names the device.

    Seen to fail: with the source not looked at.
    """
    machine.drive()
    machine.partition("nvme0n1", "259:5")
    machine.mount("0:44", "/data", "/dev/nvme0n1p1")
    refused(machine, "mounted on /data")


def test_mounts_that_cannot_be_read(machine: Machine) -> None:
    """Seen to fail: with a mountinfo that is missing taken for an empty one."""
    machine.drive()
    machine.path("/proc/self/mountinfo").unlink()
    refused(machine, "mounts cannot be read")


def test_swapped_to(machine: Machine) -> None:
    """Seen to fail: without the look at /proc/swaps."""
    machine.drive()
    machine.partition("nvme0n1", "259:5")
    machine.write("/proc/swaps", "Filename\n/dev/nvme0n1p1 partition 1 0 -2\n")
    refused(machine, "swapped to (/dev/nvme0n1p1)")


@pytest.mark.parametrize(
    ("name", "uuid", "word"),
    [
        ("dm-0", "LVM-abc", "under LVM's dm-0 given"),
        ("dm-0", "mpath-abc", "a path of dm-multipath's dm-0 given"),
        ("dm-0", "CRYPT-abc", "held by dm-0 given"),
        ("md0", "", "in the array md0"),
    ],
)
def test_held(machine: Machine, name: str, uuid: str, word: str) -> None:
    """Seen to fail: with holders of partitions left out."""
    machine.drive()
    machine.partition("nvme0n1", "259:5")
    machine.holder("nvme0n1p1", name, "253:0", uuid)
    refused(machine, word)


def test_mounted_through_a_stack(machine: Machine) -> None:
    """A file system on LVM on md on a partition: the mount is named, not the array.

    Seen to fail: with only the first holder followed.
    """
    machine.drive()
    machine.partition("nvme0n1", "259:5")
    machine.holder("nvme0n1p1", "md0", "9:0")
    machine.holder("md0", "dm-0", "253:0", "LVM-abc")
    machine.mount("253:0", "/data", "/dev/mapper/vg-lv")
    refused(machine, "mounted on /data")


def ext4(file: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", file], check=True)


def swap(file: Path) -> None:
    subprocess.run(["mkswap", "-q", file], check=True, capture_output=True)


def noise(file: Path) -> None:
    machines.write_at(file, 5000, b"x")


def noise_at_the_end(file: Path) -> None:
    machines.write_at(file, file.stat().st_size - 1, b"x")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (ext4, "ext4 file system"),
        (swap, "swap space"),
        (machines.lvm, "LVM physical volume"),
        (machines.md, "md member"),
        (machines.zfs, "ZFS member"),
        (machines.partition_table, "dos partition table"),
        (noise, "data of unknown kind"),
        (noise_at_the_end, "data of unknown kind"),
    ],
)
def test_what_it_holds(machine: Machine, make: Callable[[Path], None], words: str) -> None:
    """Seen to fail: without the enabling of partitions in libblkid (dos), with each kind's name
    left out, and with the first MiB or the last one not looked at."""
    file = machine.drive()
    make(file)
    before = file.read_bytes()
    device = only(machine)
    assert device["namespaces"][0]["holds"] == words
    assert device["namespaces"][0]["foreign"]
    assert not device["bindable"]
    assert device["despite_data"]
    assert words in device["reason"]
    assert "tutti bind --despite-data S1" in run("devices", *machine.arguments).stdout
    assert file.read_bytes() == before


def test_partitions_without_a_table(machine: Machine) -> None:
    """The kernel's word counts where libblkid sees no table.

    Seen to fail: with the kernel's partitions not counted.
    """
    machine.drive()
    machine.partition("nvme0n1", "259:5")
    device = only(machine)
    assert device["namespaces"][0]["holds"] == "1 partition"
    assert device["despite_data"]


def test_a_pool(machine: Machine, tmp_path: Path) -> None:
    """A pool that nobody serves from is Tutti's own, and no obstacle.

    Seen to fail: without the recognition of pools: then it is data of unknown kind.
    """
    file = machine.drive()
    file.unlink()
    answer("format", tmp_path / "p", "--size", "64MiB", "--member", file, *SMALL)
    device = only(machine)
    assert device["namespaces"][0]["holds"] == "Tutti pool (rank 0 of 1, member 0 of 1)"
    assert device["bindable"]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A real block device over an empty file."""
    file = tmp_path / "file"
    with file.open("wb") as device:
        device.truncate(64 << 20)
    if os.geteuid() != 0 or not shutil.which("losetup"):
        pytest.skip("a loop device takes root and losetup")
    made = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr}")
    name = made.stdout.strip()
    yield name
    subprocess.run(["losetup", "-d", name], check=True)


def test_in_use_says_the_kernel(machine: Machine, tmp_path: Path, loop: str) -> None:
    """What no list shows: an exclusive open, as mounts elsewhere, ZFS and a running Tutti have it.

    Seen to fail: with the device opened without O_EXCL.
    """
    file = machine.drive()
    file.unlink()
    os.mknod(file, 0o60600, os.stat(loop).st_rdev)
    answer("format", tmp_path / "p", "--member", loop, *SMALL)
    assert only(machine)["bindable"]
    holder = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        device = refused(machine, "in use, says the kernel")
        assert "Tutti pool" in device["namespaces"][0]["holds"]
    finally:
        os.close(holder)
    assert only(machine)["bindable"]


def test_native_multipath(machine: Machine) -> None:
    """Two controllers of one subsystem reach the namespace; each holds a hidden path to it.

    Seen to fail: with namespaces of the subsystem counted as controllers; with paths not followed
    to the device (then nobody can say what it holds).
    """
    file = machine.drive()
    shown = machine.path("/sys/bus/pci/devices/0000:01:00.0/nvme/nvme0")
    (shown / "nvme0n1").rename(shown / "nvme0c0n1")
    machine.path("/sys/class/block/nvme0n1").unlink()
    machine.block("/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "259:0", 64 << 20)
    machine.link(
        "/sys/class/nvme-subsystem/nvme-subsys0/nvme0n1",
        "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
    )
    assert only(machine)["bindable"]
    machine.path("/sys/class/nvme-subsystem/nvme-subsys0/nvme1").mkdir()
    refused(machine, "2 controllers")
    ext4(file)
    assert "ext4" in only(machine)["namespaces"][0]["holds"]


def test_no_iommu(machine: Machine) -> None:
    """Seen to fail: with the group not asked for."""
    machine.drive(group=None)
    refused(machine, "intel_iommu=on")
    assert "no IOMMU group" in run("devices", *machine.arguments).stdout


def test_no_iommu_but_a_group(machine: Machine) -> None:
    """VFIO's no-IOMMU mode makes groups that isolate nothing.

    Seen to fail: with the group's name not looked at.
    """
    machine.drive()
    machine.write("/sys/kernel/iommu_groups/7/name", "vfio-noiommu\n")
    refused(machine, "no IOMMU")


def test_a_group_of_two(machine: Machine) -> None:
    """A device in use is in the way; a bridge, or a device that nobody has, is not.

    Seen to fail: with bridges counted; with a peer without a driver in the way.
    """
    machine.drive()
    machine.device("0000:00:01.0", "0x060400", "7", "pcieport")
    assert only(machine)["alone"]
    usb = machine.device("0000:02:00.0", "0x0c0330", "7", "xhci_hcd")
    device = refused(machine, "0000:02:00.0 (xhci_hcd)")
    assert not device["alone"]
    assert device["group_peers"] == [{"address": "0000:02:00.0", "driver": "xhci_hcd"}]
    machine.path(f"{usb}/driver").unlink()
    device = only(machine)
    assert device["bindable"]
    assert not device["alone"]


def test_another_driver_has_it(machine: Machine) -> None:
    """Seen to fail: with drivers other than nvme not looked at."""
    machine.drive()
    device = machine.path("/sys/bus/pci/devices/0000:01:00.0")
    (device / "driver").unlink()
    (device / "nvme").rename(device / "gone")
    machine.link("/sys/devices/pci0000:00/0000:01:00.0/driver", "/sys/bus/pci/drivers/uio")
    device_ = only(machine)
    assert "driver uio has it" in device_["reason"]
    assert not device_["bindable"]
    assert not device_["despite_data"]


def test_nobody_can_say_what_it_holds(machine: Machine) -> None:
    """No driver, or a driver that shows no namespace (yet): as if it held data.

    Seen to fail: with no namespaces taken for empty ones.
    """
    machine.drive()
    device = machine.path("/sys/bus/pci/devices/0000:01:00.0")
    (device / "nvme/nvme0/nvme0n1").rename(device / "gone")
    told = only(machine)
    assert told["despite_data"]
    assert "shows no namespace" in told["reason"]
    (device / "driver").unlink()
    told = only(machine)
    assert told["despite_data"]
    assert "no driver has it" in told["reason"]


def test_a_device_that_cannot_be_opened(machine: Machine) -> None:
    """Who cannot look does not know that it is free.

    Seen to fail: with a device that cannot be opened taken for an empty one.
    """
    machine.drive().unlink()
    refused(machine, "/dev/nvme0n1 cannot be looked at (No such file")
