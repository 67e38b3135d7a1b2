#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""NVMe in user space against a real Linux, VFIO and IOMMU: boots a virtual machine.

Responsible for: Debian's cloud kernel (downloaded once, never installed), an
initramfs of the guest program and the modules that it needs, and a QEMU with
five NVMe drives and a memory device behind an enforcing IOMMU. Must not know
what a test is about: the guest program prints "ok NAME" or "not ok NAME".

    tests/vm/run.py build/tests/vm/guest [--only PART] [--console]
"""

from __future__ import annotations

import argparse
import collections
import json
import lzma
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

META = "linux-image-cloud-amd64"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tutti"
MODULES = ["nvme", "vfio_iommu_type1", "vfio_pci"]
DRIVE_BYTES = 64 << 20  # as in guest.h
LARGEST = [0, 10, 9, 8, 7]  # MDTS, best first: none; newer QEMUs take up to IOV_MAX pages
PEER_BYTES = 8 << 20
SECONDS = 400.0
LINE = "console=ttyS0 panic=-1 no_timer_check mitigations=off intel_iommu=on iommu=nopt"


def output(*command: str, cwd: Path | None = None) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vm: {' '.join(command)}: {done.stderr.strip()[-800:]}")
    return done.stdout


def package_named(meta: str) -> str | None:
    """The package that a metapackage stands for in apt's lists, which may be missing."""
    found = re.search(
        r"Depends: (linux-image-\S+)",
        subprocess.run(["apt-cache", "depends", meta], capture_output=True, text=True).stdout,
    )
    return found[1] if found else None


def unpack(package: str, unpacked: Path) -> None:
    """Download a package and unpack it; nothing is installed."""
    print(f"vm: fetching {package} into {unpacked}", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        folder = Path(scratch)
        output("apt-get", "download", "-q", package, cwd=folder)
        output("dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder / "root"))
        try:
            (folder / "root").rename(unpacked)
        except OSError:
            if not unpacked.exists():  # else another run was faster
                raise


def kernel() -> Path:
    """Debian's kernel for clouds, as of today, unpacked; from the cache where it is there."""
    package = package_named(META)
    if not package or not (CACHE / f"vm-{package}").exists():
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        output(*sudo, "apt-get", "update", "-q")  # lists that are old name what is gone
        package = package_named(META)
    if not package:
        raise SystemExit(f"vm: apt knows no {META}; this needs Debian's package lists")
    unpacked = CACHE / f"vm-{package}"
    if not unpacked.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unpack(package, unpacked)
    return unpacked


def read_module(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def modules(root: Path) -> list[tuple[str, bytes]]:
    """MODULES and all that they depend on, in the order in which they load.

    A module names what it needs in its own "depends="; what the kernel has
    built in is no file.
    """
    files = {
        path.name.split(".")[0].replace("-", "_"): path
        for path in root.glob("**/lib/modules/*/kernel/**/*.ko*")
    }
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name not in files:
            return
        content = read_module(files[name])
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in needs[1].decode().split(",") if needs else []:
            add(other.replace("-", "_"))
        ordered[name] = content

    for name in MODULES:
        add(name)
    return list(ordered.items())


def cpio(files: list[tuple[str, int, bytes]]) -> bytes:
    """An archive in the format of initramfs ("newc"): name, mode, content."""
    parts = []
    for inode, (name, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], start=1):
        fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
        parts += [head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)]
    return b"".join(parts)


def initramfs(root: Path, guest: Path) -> bytes:
    folder, program, data = 0o040755, 0o100755, 0o100644
    console = ("dev", folder, b"")
    loaded = [
        (f"modules/{i:02}-{name}.ko", data, content)
        for i, (name, content) in enumerate(modules(root))
    ]
    if len(loaded) < len(MODULES):
        raise SystemExit(f"vm: {root} lacks modules: found {[name for name, _, _ in loaded]}")
    return cpio([console, ("modules", folder, b""), ("init", program, guest.read_bytes()), *loaded])


def drive(name: str, image: Path) -> list[str]:
    """The block device behind one NVMe controller."""
    image.touch()
    os.truncate(image, DRIVE_BYTES)
    node: dict[str, object] = {"driver": "file", "filename": str(image)}
    cut = {"event": "none", "errno": 5, "once": False}
    bad = [{**cut, "iotype": "read", "sector": 2560}, {**cut, "iotype": "write", "sector": 4352}]
    if name == "faulty":
        node = {"driver": "blkdebug", "image": node, "inject-error": bad}
    if name == "slow":
        node = {"driver": "throttle", "throttle-group": "few", "file": node}
    node = {"driver": "raw", "node-name": name, "file": node}
    return ["-blockdev", json.dumps(node)]


def largest_transfer(choices: list[int]) -> int:
    """The first MDTS that this QEMU takes: some take 0 (no limit), others refuse it."""
    said = ""
    for mdts in choices:
        tried = subprocess.run(
            [
                *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-nodefaults", "-S"),
                *("-display", "none", "-monitor", "stdio"),
                *("-blockdev", "null-co,node-name=none,size=1048576"),
                *("-device", f"nvme,drive=none,serial=none,mdts={mdts}"),
            ],
            input="quit\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode == 0:
            if mdts:
                print(f"vm: mdts={choices[0]}: {said}; the faulty drive has {mdts} instead")
                print("skipped a drive without MDTS: this QEMU makes none", flush=True)
            return mdts
        said = said or tried.stderr.strip().rsplit(": ", 1)[-1]
    raise SystemExit(f"vm: this QEMU takes no mdts of {choices}: {said}")


def machine(scratch: Path, root: Path, guest: Path, only: str | None, level: int) -> list[str]:
    """QEMU's command line. Places are those of guest.h."""
    memory = scratch / "initramfs"
    memory.write_bytes(initramfs(root, guest))
    largest = largest_transfer(LARGEST)
    line = [LINE, f"loglevel={level}", f"largest={largest}"]
    line += [f'only="{only}"'] if only else []
    devices = [
        "intel-iommu,intremap=on,caching-mode=on",
        "pcie-root-port,id=one,addr=3,chassis=1,slot=1",
        "pcie-root-port,id=two,addr=5,chassis=2,slot=2",
        "pcie-root-port,id=three,addr=8,chassis=3,slot=3",
        "nvme,drive=plain,serial=plain,addr=4,mdts=7",
        f"nvme,drive=faulty,serial=faulty,bus=two,mdts={largest}",
        "nvme,drive=slow,serial=slow,addr=6,mdts=7",
        "ivshmem-plain,memdev=peer,addr=7",
        "nvme,drive=pulled,serial=pulled,bus=one,mdts=5"
        ",logical_block_size=4096,physical_block_size=4096",
        "nvme,drive=lost,serial=lost,bus=three,mdts=5",
    ]
    options = [
        *("-M", "q35,kernel-irqchip=split", "-accel", "tcg", "-cpu", "max", "-smp", "2"),
        *("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),  # the port's own
        *("-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-serial", "stdio", "-kernel", str(next(root.glob("boot/vmlinuz-*")))),
        *("-initrd", str(memory), "-append", " ".join(line)),
        *("-object", "throttle-group,id=few,x-iops-total=20"),
        *("-object", f"memory-backend-ram,id=peer,size={PEER_BYTES},share=on"),
    ]
    for name in ("plain", "faulty", "slow", "pulled", "lost"):
        options += drive(name, scratch / f"{name}.img")
    for device in devices:
        options += ["-device", device]
    return ["qemu-system-x86_64", *options]


def watch(qemu: subprocess.Popen[bytes], console: bool) -> tuple[int, int, list[str]]:
    """Read the guest's lines until its end. Return: how many tests, passed, and what failed."""
    assert qemu.stdout
    began = before = time.monotonic()
    wanted, passed, rest = -1, 0, b""
    failed: list[str] = []
    said: collections.deque[str] = collections.deque(maxlen=30)
    why = "the machine stopped"
    while True:
        left = SECONDS - (time.monotonic() - began)
        if left <= 0 or not select.select([qemu.stdout], [], [], left)[0]:
            why = f"no end within {SECONDS:.0f} s"
            break
        more = os.read(qemu.stdout.fileno(), 65536)
        if not more:
            break
        *lines, rest = (rest + more).split(b"\n")
        for raw in lines:
            line = raw.decode(errors="replace").strip()
            said.append(line)
            verdict = re.fullmatch(r"(ok|not ok) (.+)", line)
            if found := re.fullmatch(r"tests (\d+)", line):
                wanted = int(found[1])
            elif line == "end":
                if passed + len(failed) != wanted or wanted == 0:
                    failed.append(f"{passed + len(failed)} of {wanted} tests ran")
                return wanted, passed, failed
            elif verdict and verdict[1] == "ok":
                passed += 1
            elif verdict:
                failed.append(verdict[2])
            if console or verdict or raw.startswith((b"  ", b"vm:")):
                now = time.monotonic()
                text = f"{line} ({now - before:.1f} s)" if verdict else f"    {line}"
                before = now if verdict else before
                print(text, flush=True)
    failed.append(f"{why} after {passed + len(failed)} of {max(wanted, 0)} tests")
    print("the guest's last lines:", *said, sep="\n    ")
    return wanted, passed, failed


def boot(command: list[str], scratch: Path, console: bool) -> tuple[int, int, list[str]]:
    """Run the machine once; as watch() returns."""
    log = scratch / "qemu.txt"
    with log.open("wb") as errors:
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        wanted, passed, failed = watch(qemu, console)
    finally:
        qemu.kill()
        qemu.wait()
    if failed:
        print(f"qemu said:\n{log.read_text(errors='replace')[-2000:]}")
    return wanted, passed, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guest", type=Path, help="the static guest program")
    parser.add_argument("--only", help="tests whose name contains this")
    parser.add_argument("--kernel", type=Path, help="an unpacked kernel package (default: today's)")
    parser.add_argument(
        "--console", action="store_true", help="show all that the guest prints, its kernel too"
    )
    arguments = parser.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        raise SystemExit("vm: qemu-system-x86_64 is missing: setup/install")
    root = arguments.kernel or kernel()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tutti-vm-") as scratch:
        level = 7 if arguments.console else 1
        command = machine(Path(scratch), root, arguments.guest, arguments.only, level)
        wanted, passed, failed = boot(command, Path(scratch), arguments.console)
        if wanted < 0:  # nothing of ours ran yet: an emulated machine does not always come up
            print("vm: it did not boot; once more", flush=True)
            wanted, passed, failed = boot(command, Path(scratch), arguments.console)
    for name in failed:
        print(f"failed {name}")
    print(f"{root.name}, {time.monotonic() - began:.0f} s: {passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
