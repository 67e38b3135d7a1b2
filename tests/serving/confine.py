# SPDX-License-Identifier: Apache-2.0
"""What containers take away from a process, taken away here.

Responsible for doing it to the calling process, for good. Must not know vLLM. The one
idea: the kernel's own ways are used (a seccomp filter, resource limits, capabilities), so
that what is tested meets the errors that a container gives.
"""

import ctypes
import os
import resource
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CAP_IPC_LOCK = 14
_CALLS = {"io_uring_setup": 425}  # on every architecture
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def forbid(call: str, error: int) -> None:
    """Have the kernel answer a system call with an errno, by a seccomp filter."""
    instructions = [
        (0x20, 0, 0, 0),  # load the call's number
        (0x15, 0, 1, _CALLS[call]),  # another: skip one
        (0x06, 0, 0, _ERRNO | error),
        (0x06, 0, 0, _ALLOW),
    ]
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _check(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def limit_locked_memory(size: int) -> None:
    """RLIMIT_MEMLOCK, without the capability that overrides it."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, size))

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    header = Header(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    _check(_LIBC.capget(ctypes.byref(header), sets), "capget")
    for word in range(3):  # effective, permitted, inheritable: the low words
        sets[word] &= ~(1 << _CAP_IPC_LOCK)
    _check(_LIBC.capset(ctypes.byref(header), sets), "capset")


def page_cache_of(path: str) -> int:
    """Bytes of a file in the page cache, by mincore()."""
    size = os.path.getsize(path)
    page = resource.getpagesize()
    _LIBC.mmap.restype = ctypes.c_void_p
    _LIBC.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    with open(path, "rb") as file:
        address = _LIBC.mmap(None, size, 1, 1, file.fileno(), 0)  # readable, shared
    vector = (ctypes.c_ubyte * ((size + page - 1) // page))()
    _check(_LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), vector), "mincore")
    _LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(bit & 1 for bit in vector) * page
