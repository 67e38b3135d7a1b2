"""A made-up machine: its /sys, /proc, /dev, /etc and /run in a folder, and a kernel that obeys.

Responsible for: trees as Linux shows them, and for what Linux does when a file of sysfs is written.
Must not know what the command line does with them.

The idea: files of sysfs are ordinary files, and inotify tells a thread of each write, in order. It
writes down what was written where, and moves the links that a kernel would move. So a test sees
every write, and the command sees its effect. (Content is read when the event comes: what is written
to one file twice, with no effect awaited in between, may be seen once.)
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

IN_CLOSE_WRITE = 8
MIB = 1 << 20
PCI = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
MOUNTINFO = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"


class Machine:
    """Drives are added with drive(); `arguments` makes the command look here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("/proc/self/mountinfo", MOUNTINFO)
        self.write("/proc/swaps", "Filename Type Size Used Priority\n")
        self.write("/sys/bus/pci/drivers_probe", "")
        self.path("/run/systemd/system").mkdir(parents=True)
        self.driver("nvme")
        self.driver("vfio-pci")

    @property
    def arguments(self) -> list[str]:
        return ["--root", str(self.root)]

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def link(self, name: str, target: str) -> None:
        """A relative link, as sysfs has them: an absolute one would lead out of the folder."""
        place = self.path(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(self.path(target), place.parent))

    def driver(self, name: str) -> None:
        self.write(f"{DRIVERS}/{name}/bind", "")
        self.write(f"{DRIVERS}/{name}/unbind", "")

    def unload(self, name: str) -> None:
        """The module is not loaded; /sbin/modprobe brings it, and writes down that it ran."""
        self.path("/spare").mkdir()
        self.path(f"{DRIVERS}/{name}").rename(self.path(f"/spare/{name}"))
        self.write(
            "/sbin/modprobe",
            f'#!/bin/sh\necho "$@" >> {self.root}/modprobed\n'
            f"mv {self.root}/spare/$1 {self.root}{DRIVERS}/$1\n",
        )
        self.path("/sbin/modprobe").chmod(0o755)

    def device(self, address: str, kind: str, group: str | None, driver: str | None) -> str:
        """A PCI device of a class, in an IOMMU group or in none; returns its folder."""
        home = f"/sys/devices/pci0000:00/{address}"
        self.write(f"{home}/class", f"{kind}\n")
        self.write(f"{home}/driver_override", "(null)\n")
        self.link(f"{PCI}/{address}", home)
        if group is not None:
            self.link(f"/sys/kernel/iommu_groups/{group}/devices/{address}", home)
            self.link(f"{home}/iommu_group", f"/sys/kernel/iommu_groups/{group}")
        if driver is not None:
            self.path(f"{DRIVERS}/{driver}").mkdir(parents=True, exist_ok=True)
            self.link(f"{home}/driver", f"{DRIVERS}/{driver}")
        return home

    def drive(
        self,
        number: int = 0,
        address: str = "0000:01:00.0",
        serial: str = "S1",
        group: str | None = "7",
    ) -> Path:
        """An NVMe controller with one namespace; returns the file that is its block device."""
        home = self.device(address, "0x010802", group, "nvme")
        shown = f"{home}/nvme/nvme{number}"
        self.write(f"{shown}/serial", f"{serial:<20}\n")
        self.write(f"{shown}/model", f"{'A drive':<40}\n")
        self.link(f"/sys/class/nvme-subsystem/nvme-subsys{number}/nvme{number}", shown)
        return self.namespace(f"{shown}/nvme{number}n1", f"259:{number}")

    def namespace(self, home: str, number: str, bytes_: int = 64 * MIB) -> Path:
        name = home.rsplit("/", 1)[1]
        self.block(home, number, bytes_)
        file = self.path(f"/dev/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as device:
            device.truncate(bytes_)
        return file

    def block(self, home: str, number: str, bytes_: int = MIB) -> None:
        name = home.rsplit("/", 1)[1]
        self.write(f"{home}/dev", f"{number}\n")
        self.write(f"{home}/size", f"{bytes_ // 512}\n")
        self.path(f"{home}/holders").mkdir()
        self.link(f"/sys/class/block/{name}", home)

    def partition(self, disk: str, number: str) -> None:
        """The first partition of a namespace."""
        home = self.path(f"/sys/class/block/{disk}").resolve()
        place = f"/{home.relative_to(self.root.resolve())}/{disk}p1"
        self.write(f"{place}/partition", "1\n")
        self.block(place, number)

    def holder(self, under: str, name: str, number: str, uuid: str = "") -> None:
        """Something of dm's or md's that stands on a block device."""
        self.block(f"/sys/devices/virtual/block/{name}", number)
        if uuid:
            self.write(f"/sys/class/block/{name}/dm/uuid", f"{uuid}\n")
            self.write(f"/sys/class/block/{name}/dm/name", "given\n")
        self.link(f"/sys/class/block/{under}/holders/{name}", f"/sys/class/block/{name}")

    def mount(self, number: str, point: str, source: str = "/dev/x") -> None:
        with self.path("/proc/self/mountinfo").open("a") as file:
            file.write(f"40 22 {number} / {point} rw shared:9 - ext4 {source} rw\n")

    def driver_of(self, address: str) -> str:
        place = self.path(f"{PCI}/{address}/driver")
        return place.readlink().name if place.is_symlink() else ""

    def tree(self) -> dict[str, str]:
        """Every file with its content and every link with its target; big files by size."""
        found: dict[str, str] = {}
        for place in sorted(self.root.rglob("*")):
            name = str(place.relative_to(self.root))
            if place.is_symlink():
                found[name] = f"-> {place.readlink()}"
            elif place.is_file():
                size = place.stat().st_size
                found[name] = place.read_text() if size < MIB else str(size)
        return found


class Kernel:
    """Obeys what is written to a machine's sysfs, and remembers it in `written`."""

    def __init__(self, machine: Machine, refuses: str = "") -> None:
        self.machine = machine
        self.refuses = refuses  # a driver whose probe fails
        self.written: list[str] = []  # "echo TEXT > PATH", in order
        self.files_at_first: list[str] = []  # what lay in /run and /etc before the first of them
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.inotify = self.libc.inotify_init1(os.O_CLOEXEC)
        self.stop, self.stopper = os.pipe()
        self.watched: dict[int, str] = {}
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> Self:
        spare = self.machine.path("/spare")
        for place in [*self.machine.path("/sys").rglob("*"), *spare.rglob("*")]:
            if place.name in ("driver_override", "bind", "unbind", "drivers_probe"):
                self.watch(place)
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.stopper)
        self.thread.join()
        os.close(self.stop)
        os.close(self.inotify)

    def watch(self, place: Path) -> None:
        number = self.libc.inotify_add_watch(self.inotify, bytes(place), IN_CLOSE_WRITE)
        assert number >= 0, os.strerror(ctypes.get_errno())
        parts = place.parts
        if place.name == "driver_override":
            self.watched[number] = f"{PCI}/{parts[-2]}/driver_override"
        elif place.name == "drivers_probe":
            self.watched[number] = "/sys/bus/pci/drivers_probe"
        else:
            self.watched[number] = f"{DRIVERS}/{parts[-2]}/{place.name}"

    def serve(self) -> None:
        while self.inotify in select.select([self.inotify, self.stop], [], [])[0]:
            events = os.read(self.inotify, 4096)
            while events:
                number, _, _, length = struct.unpack_from("iIII", events)
                events = events[16 + length :]
                self.obey(self.watched[number])

    def obey(self, place: str) -> None:
        text = self.machine.path(place).read_text().strip()
        if not self.written:
            for top in ("/run", "/etc"):
                found = self.machine.path(top).rglob("*")
                self.files_at_first += [p.name for p in found if not p.is_dir()]
        self.written.append(f"echo {text}{' ' if text else ''}> {place}")
        name = place.rsplit("/", 1)[1]
        if name == "unbind":
            self.leave(text)
        elif name == "bind":
            self.take(text, place.split("/")[-2])
        elif name == "drivers_probe" and not self.machine.driver_of(text):
            override = self.machine.path(f"{PCI}/{text}/driver_override").read_text().strip()
            self.take(text, "nvme" if override in ("", "(null)") else override)

    def leave(self, address: str) -> None:
        """The nvme driver takes the controller's folder with it; so nothing shows the serial."""
        device = self.machine.path(f"{PCI}/{address}")
        if (device / "nvme").exists():
            (device / "nvme").rename(device / ".nvme")
        (device / "driver").unlink()

    def take(self, address: str, driver: str) -> None:
        device = self.machine.path(f"{PCI}/{address}").resolve()
        if driver == self.refuses:
            return
        if driver == "nvme" and (device / ".nvme").exists():
            (device / ".nvme").rename(device / "nvme")
        target = self.machine.path(f"{DRIVERS}/{driver}")
        (device / "driver").symlink_to(os.path.relpath(target, device))


# What block devices hold, made without the tools where Debian's minimum has none.


def write_at(file: Path, at: int, content: bytes) -> None:
    with file.open("r+b") as device:
        device.seek(at)
        device.write(content)


def lvm(file: Path) -> None:
    """A label of LVM2 in sector 1; its checksum is CRC-32 from LVM's own start value."""
    rest = struct.pack("<I8s32s", 32, b"LVM2 001", b"x" * 32).ljust(512 - 20, b"\0")
    crc = zlib.crc32(rest, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    write_at(file, 512, struct.pack("<8sQI", b"LABELONE", 1, crc) + rest)


def md(file: Path) -> None:
    """A superblock 0.90, in the last whole 64 KiB but one."""
    at = file.stat().st_size // 65536 * 65536 - 65536
    write_at(file, at, struct.pack("<12I", 0xA92B4EFC, 0, 90, 0, 0, 1, 0, 1, 32768, 2, 2, 0))


def zfs(file: Path) -> None:
    """The first label of a pool's disk: its list of names and values (XDR), and uberblocks.

    Newer libblkid (2.41) knows ZFS by the list, older ones by four uberblocks.
    """

    def pair(name: str, kind: int, value: bytes) -> bytes:
        padded = name.encode() + b"\0" * (-len(name) % 4)
        body = struct.pack(">I", len(name)) + padded + struct.pack(">II", kind, 1) + value
        return struct.pack(">II", len(body) + 8, len(body) + 8) + body

    def number(name: str, value: int) -> bytes:
        return pair(name, 8, struct.pack(">Q", value))

    pairs = [
        number("version", 5000),
        pair("name", 9, struct.pack(">I", 4) + b"tank"),
        number("state", 0),
        number("txg", 4),
        number("pool_guid", 0x1234567890),
        number("top_guid", 0x2345678901),
        number("guid", 0x2345678901),
    ]
    head = struct.pack(">BBBBII", 1, 1, 0, 0, 0, 1)  # XDR; unique names
    write_at(file, 16 * 1024, head + b"".join(pairs) + bytes(8))
    for i in range(8):
        write_at(file, 128 * 1024 + i * 1024, struct.pack("<QQ", 0x00BAB10C, 5000))


def partition_table(file: Path) -> None:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\0\0", 2048, 2048)
    write_at(file, 446, entry.ljust(64, b"\0") + b"\x55\xaa")
