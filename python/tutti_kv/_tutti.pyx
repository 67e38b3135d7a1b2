# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, embedsignature=True, boundscheck=False
"""The compiled binding: libtutti's calls as Python classes.

Responsible for turning arguments into what the C headers ask for, negative
errnos into TuttiError, and for not holding the GIL while C waits or works.
Must not know: vLLM, when to load or store, what a request is. The one idea: a
list of slots is a numpy array whose dtype is the C struct, so a call hands over
a pointer and nothing is converted.

Objects are used by one thread at a time, as the headers say of what they wrap.
"""

from libc.errno cimport EAGAIN, EBUSY, EINVAL, ENOENT, ENOMEM, ESTALE, ETIMEDOUT
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import os

import numpy as np

cdef extern from "tutti/error.h":
    struct tutti_error:
        int code
        char message[768]

cdef extern from "tutti/geometry.h":
    enum:
        TUTTI_IDENTITY_BYTES
        TUTTI_ENGINE_HASH_BYTES
        TUTTI_MAX_GROUPS
        TUTTI_MAX_MEMBERS
    struct tutti_geometry:
        uint32_t layers
        uint32_t parts
        uint64_t object_bytes
        uint32_t block_tokens
        uint32_t layout_tag
        uint32_t group
        uint32_t reserved
    struct tutti_placement:
        uint64_t extent_bytes
        uint64_t first_extent
        uint64_t data_offset
        uint64_t object_bytes
        uint64_t object_stride
        uint32_t record_stride
        uint32_t alignment
        uint32_t records_per_extent
        uint32_t slots_per_extent
        uint32_t extents
        uint32_t members
        uint32_t layers
        uint32_t parts
    struct tutti_place:
        uint64_t offset
        uint32_t member
    struct tutti_kv_plane:
        uint64_t base
        uint64_t block_stride
    tutti_place tutti_object_place(const tutti_placement *p, uint32_t slot, uint32_t layer,
                                   uint32_t part) nogil
    tutti_place tutti_record_place(const tutti_placement *p, uint32_t slot) nogil

cdef extern from "tutti/format.h":
    struct tutti_key:
        uint64_t word[2]
    struct tutti_superblock:
        uint8_t pool[16]
        uint32_t rank
        uint32_t ranks
        uint32_t members
        uint32_t alignment
        uint32_t extents
        uint64_t extent_bytes
        uint64_t first_extent
        uint64_t epoch
        uint64_t oldest_epoch
        uint64_t written_bytes
        uint8_t identity[16]
    uint64_t tutti_geometry_digest(const tutti_geometry *g) nogil

cdef extern from "tutti/pool.h":
    struct tutti_pool:
        pass
    struct tutti_pool_options:
        const char *home
        const char *const *member
        uint32_t members
        uint32_t rank
        uint32_t ranks
        uint64_t bytes
        uint32_t alignment
        uint64_t extent_bytes
        const tutti_geometry *geometry
        uint32_t groups
        bint read_only
        bint force
    struct tutti_pool_info:
        tutti_superblock superblock
        uint32_t extents
        bint direct
        char direct_reason[160]
        uint32_t logical_block
    struct tutti_scan_entry:
        pass
    struct tutti_scan_report:
        uint64_t valid
        uint64_t empty
        uint64_t torn
        uint64_t void_
        uint64_t alien
        uint64_t bytes
        uint64_t nanoseconds
    int tutti_pool_format(const tutti_pool_options *options, tutti_error *err) nogil
    int tutti_pool_open(const tutti_pool_options *options, tutti_pool **pool,
                        tutti_error *err) nogil
    void tutti_pool_close(tutti_pool *pool) nogil
    void tutti_pool_get_info "tutti_pool_info"(const tutti_pool *pool, tutti_pool_info *info) nogil
    int tutti_pool_placement(const tutti_pool *pool, uint32_t group,
                             tutti_placement *placement) nogil
    const char *tutti_pool_member_path(const tutti_pool *pool, uint32_t member) nogil
    struct tutti_member_health:
        bint low_on_spare
        bint hot
        bint unreliable
        bint read_only
        bint unprotected
        uint32_t spare_left
        uint32_t used
        int32_t celsius
        uint64_t media_errors
    int tutti_pool_member_health(const tutti_pool *pool, uint32_t member,
                                 tutti_member_health *health) nogil
    void tutti_member_health_text(const tutti_member_health *health, char *text) nogil
    int tutti_pool_begin_epoch(tutti_pool *pool, uint64_t epoch, uint64_t oldest_epoch,
                               const uint8_t *identity, tutti_error *err) nogil
    int tutti_pool_flush(tutti_pool *pool, tutti_error *err) nogil
    int tutti_pool_scan_to_file(tutti_pool *pool, uint32_t threads, const char *path,
                                tutti_scan_report *report, tutti_error *err) nogil
    int tutti_scan_file_open(const char *path, const tutti_scan_entry **entries, size_t *count,
                             void **handle, tutti_error *err) nogil
    void tutti_scan_file_close(void *handle) nogil
    int tutti_pool_disable(const char *home, const char *reason, tutti_error *err) nogil
    int tutti_pool_enable(const char *home, tutti_error *err) nogil
    int tutti_pool_disabled(const char *home, char *reason, size_t reason_bytes) nogil
    int tutti_pool_disable_member(const char *home, uint32_t rank, uint32_t member,
                                  const char *reason, const char *path, tutti_error *err) nogil
    int tutti_pool_enable_member(const char *home, uint32_t rank, uint32_t member,
                                 tutti_error *err) nogil
    int tutti_pool_member_disabled(const char *home, uint32_t rank, uint32_t member, char *reason,
                                   size_t reason_bytes) nogil
    int tutti_pool_probe_member(const char *home, uint32_t rank, uint32_t member,
                                tutti_error *err) nogil
    int tutti_pool_secret_load(const char *home, bint create, uint8_t *pool_id, uint8_t *secret,
                               tutti_error *err) nogil

cdef extern from "tutti/directory.h":
    struct tutti_directory:
        pass
    struct tutti_directory_options:
        tutti_placement placement
        tutti_geometry geometry
        uint32_t ranks
        uint8_t secret[16]
        uint8_t identity[16]
        uint32_t run_slots
        uint32_t ghosts
    struct tutti_transfer:
        uint32_t slot
        uint32_t block
        uint64_t generation
        tutti_key key
    struct tutti_origin:
        tutti_key parent
        uint8_t engine_hash[32]
        uint32_t engine_hash_bytes
        uint32_t incarnation
    struct tutti_match:
        uint32_t blocks
        uint32_t slot
        uint64_t generation
    struct tutti_directory_stats:
        uint64_t slots
        uint64_t free
        uint64_t writing
        uint64_t visible
        uint64_t foreign
        uint64_t leaving
        uint64_t pinned
        uint64_t evicted
        uint64_t dropped
        uint64_t refused
        uint64_t runs
        uint64_t memory_bytes
        uint64_t fenced_members
    int tutti_directory_new(const tutti_directory_options *options, tutti_directory **directory,
                            tutti_error *err) nogil
    void tutti_directory_free(tutti_directory *d) nogil
    int tutti_directory_load(tutti_directory *d, const tutti_scan_entry **entries,
                             const size_t *counts, tutti_error *err) nogil
    int tutti_directory_begin_epoch(tutti_directory *d, uint64_t epoch, bint reset,
                                    const uint8_t *identity, tutti_error *err) nogil
    int tutti_directory_find(const tutti_directory *d, const uint8_t *hashes, uint32_t hash_bytes,
                             uint32_t count, tutti_match *match) nogil
    int tutti_directory_pin(tutti_directory *d, const tutti_match *match, uint32_t first,
                            tutti_transfer *out) nogil
    int tutti_directory_unpin(tutti_directory *d, uint32_t slot, uint64_t generation) nogil
    int tutti_directory_reserve(tutti_directory *d, const uint8_t *hashes, uint32_t hash_bytes,
                                uint32_t first, uint32_t count, bint grows, tutti_transfer *out,
                                tutti_origin *origin, uint32_t *index) nogil
    int tutti_directory_report(tutti_directory *d, uint32_t rank, uint32_t slot,
                               uint64_t generation, bint ok) nogil
    int tutti_directory_drop(tutti_directory *d, uint32_t slot, uint64_t generation) nogil
    int tutti_directory_fence_members(tutti_directory *d, uint32_t members) nogil
    size_t tutti_directory_take_erased(tutti_directory *d, tutti_transfer *out,
                                       size_t max) nogil
    void tutti_directory_get_stats "tutti_directory_stats"(const tutti_directory *d,
                                                           tutti_directory_stats *stats) nogil
    int tutti_directory_audit(const tutti_directory *d, tutti_error *err) nogil

cdef extern from "tutti/engine.h":
    struct tutti_engine_counters:
        uint64_t commands
        uint64_t read_bytes
        uint64_t written_bytes
        uint64_t staged_bytes
        uint64_t hashed_bytes
        uint64_t verify_failures
        uint64_t io_errors
        uint64_t retries
        uint64_t system_calls
        uint64_t late_commands
    struct tutti_member_state:
        bint fenced
        uint64_t io_errors
        uint64_t late_commands
        uint64_t verify_failures
        uint64_t staging_bytes
        uint64_t staging_taken
        uint64_t staging_most
        char reason[512]

cdef extern from "tutti/device.h":
    struct tutti_device:
        pass
    int tutti_device_cuda_open(int ordinal, const tutti_device **device, tutti_error *err) nogil
    void tutti_device_cuda_close(const tutti_device *device) nogil
    const char *tutti_device_cuda_name(int *driver_version) nogil

cdef extern from "tutti/serve.h":
    struct tutti_serve:
        pass
    struct tutti_retrieve:
        pass
    struct tutti_store:
        pass
    struct tutti_serve_options:
        tutti_pool *pool
        const tutti_device *device
        const char *engine
        const char *fault_rules
        const char *fault_inner
        size_t staging_bytes
        uint32_t ring_depth
        uint32_t look_ahead
        bint unverified
        const int *cpu
        uint32_t cpus
        uint32_t fence_errors
        uint64_t late_ns
    struct tutti_kv_region:
        uint64_t base
        uint64_t bytes
    struct tutti_result:
        int status
        uint32_t good
        uint32_t verified
        const uint8_t *position
        uint32_t count
        uint64_t bytes
        uint64_t began
        uint64_t first_layer
        uint64_t ended
    int tutti_serve_open(const tutti_serve_options *options, tutti_serve **serve,
                         tutti_error *err) nogil
    void tutti_serve_close(tutti_serve *serve) nogil
    int tutti_serve_close_within(tutti_serve *serve, uint64_t timeout_ns, tutti_error *err) nogil
    int tutti_serve_member_state(const tutti_serve *serve, uint32_t member,
                                 tutti_member_state *state) nogil
    uint32_t tutti_serve_fenced(const tutti_serve *serve) nogil
    uint32_t tutti_serve_watch_members(tutti_serve *serve) nogil
    int tutti_serve_register(tutti_serve *serve, uint32_t group, const tutti_kv_plane *planes,
                             uint32_t blocks, const tutti_kv_region *regions,
                             uint32_t region_count, tutti_error *err) nogil
    void tutti_serve_stream(tutti_serve *serve, void *stream) nogil
    const char *tutti_serve_engine(const tutti_serve *serve) nogil
    void tutti_serve_counters(const tutti_serve *serve, tutti_engine_counters *counters) nogil
    int tutti_retrieve_begin(tutti_serve *serve, uint32_t group, const tutti_transfer *items,
                             uint32_t count, bint in_step, uint64_t tag,
                             tutti_retrieve **retrieve, tutti_error *err) nogil
    int tutti_retrieve_layer(tutti_retrieve *retrieve, uint32_t layer, uint64_t timeout_ns) nogil
    int tutti_retrieve_refused(const tutti_retrieve *retrieve, tutti_error *err) nogil
    int tutti_retrieve_poll(tutti_retrieve *retrieve) nogil
    int tutti_retrieve_wait(tutti_retrieve *retrieve, uint64_t timeout_ns) nogil
    void tutti_retrieve_cancel(tutti_retrieve *retrieve) nogil
    void tutti_retrieve_result(const tutti_retrieve *retrieve, tutti_result *result) nogil
    int tutti_retrieve_end(tutti_retrieve *retrieve) nogil
    int tutti_store_begin(tutti_serve *serve, uint32_t group, const tutti_transfer *items,
                          const tutti_origin *origins, uint32_t count, uint32_t layers_ready,
                          uint64_t tag, tutti_store **store, tutti_error *err) nogil
    int tutti_store_ready(tutti_store *store, uint32_t layers) nogil
    int tutti_store_poll(tutti_store *store) nogil
    int tutti_store_wait(tutti_store *store, uint64_t timeout_ns) nogil
    void tutti_store_cancel(tutti_store *store) nogil
    void tutti_store_result(const tutti_store *store, tutti_result *result) nogil
    int tutti_store_end(tutti_store *store) nogil
    int tutti_serve_fence(tutti_serve *serve, const uint32_t *blocks, uint32_t count,
                          uint64_t timeout_ns) nogil
    int tutti_serve_erase(tutti_serve *serve, uint32_t group, const tutti_transfer *items,
                          uint32_t count, tutti_error *err) nogil
    void tutti_serve_progress(tutti_serve *serve) nogil

cdef extern from "tutti/scrub.h":
    struct tutti_scrub:
        pass
    struct tutti_scrub_report:
        uint64_t slots
        uint64_t verified
        uint64_t bad
        uint64_t torn
        uint64_t skipped
        uint64_t bytes
        uint64_t rounds
        uint32_t cursor
    int tutti_scrub_open(tutti_serve *serve, uint32_t group, uint64_t bytes_per_second,
                         uint32_t cursor, tutti_scrub **scrub, tutti_error *err) nogil
    uint32_t tutti_scrub_step(tutti_scrub *scrub, uint64_t now, tutti_transfer *bad,
                              uint32_t most) nogil
    void tutti_scrub_get_report "tutti_scrub_report"(const tutti_scrub *scrub,
                                                     tutti_scrub_report *report) nogil
    void tutti_scrub_close(tutti_scrub *scrub) nogil


KEY = np.dtype((np.uint64, (2,)))
TRANSFER = np.dtype(
    [("slot", np.uint32), ("block", np.uint32), ("generation", np.uint64), ("key", KEY)])
ORIGIN = np.dtype(
    [("parent", KEY), ("engine_hash", np.uint8, (TUTTI_ENGINE_HASH_BYTES,)),
     ("engine_hash_bytes", np.uint32), ("incarnation", np.uint32)])
PLANE = np.dtype([("base", np.uint64), ("block_stride", np.uint64)])
REGION = np.dtype([("base", np.uint64), ("bytes", np.uint64)])

# What lists of slots are called in annotations; _tutti.pyi says more.
Transfers = np.ndarray
Origins = np.ndarray

if (TRANSFER.itemsize != sizeof(tutti_transfer) or ORIGIN.itemsize != sizeof(tutti_origin)
        or PLANE.itemsize != sizeof(tutti_kv_plane) or REGION.itemsize != sizeof(tutti_kv_region)):
    raise ImportError("tutti_kv._tutti was built against other headers than its numpy types")


class TuttiError(OSError):
    """A negative errno of libtutti with its sentence."""


cdef int check(int rc, tutti_error *err, what) except? -1:
    """Return rc, or raise what it means."""
    if rc >= 0:
        return rc
    message = err.message.decode("utf-8", "replace") if err is not NULL and err.code else what
    raise TuttiError(-rc, message or os.strerror(-rc))


cdef void *address(array, dtype, bint writable=False) except? NULL:
    """Where an array's bytes lie; the array must be of the struct's dtype and in one piece."""
    cdef const uint8_t[::1] view
    cdef uint8_t[::1] writable_view
    if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
        raise TypeError(f"a contiguous one-dimensional array of {dtype} is wanted, "
                        f"not {array.dtype} of shape {array.shape}")
    if array.size == 0:
        return NULL
    if writable:
        writable_view = array.view(np.uint8)
        return <void *>&writable_view[0]
    view = array.view(np.uint8)
    return <void *>&view[0]


cdef class Geometry:
    """struct tutti_geometry; picklable."""

    cdef tutti_geometry raw

    def __cinit__(self, uint32_t layers=0, uint32_t parts=0, uint64_t object_bytes=0,
                  uint32_t block_tokens=0, uint32_t layout_tag=0, uint32_t group=0):
        memset(&self.raw, 0, sizeof(self.raw))
        self.raw.layers = layers
        self.raw.parts = parts
        self.raw.object_bytes = object_bytes
        self.raw.block_tokens = block_tokens
        self.raw.layout_tag = layout_tag
        self.raw.group = group

    @property
    def layers(self):
        return self.raw.layers

    @property
    def parts(self):
        return self.raw.parts

    @property
    def object_bytes(self):
        return self.raw.object_bytes

    @property
    def block_tokens(self):
        return self.raw.block_tokens

    @property
    def slot_bytes(self):
        """Data bytes of one slot."""
        return self.raw.layers * self.raw.parts * self.raw.object_bytes

    def digest(self):
        return tutti_geometry_digest(&self.raw)

    def __reduce__(self):
        return (Geometry, (self.raw.layers, self.raw.parts, self.raw.object_bytes,
                           self.raw.block_tokens, self.raw.layout_tag, self.raw.group))

    def __repr__(self):
        return (f"{self.raw.layers} layers x {self.raw.parts} parts x {self.raw.object_bytes} "
                f"bytes, {self.raw.block_tokens} tokens a block")


cdef class Placement:
    """struct tutti_placement; picklable, so that a worker can tell the scheduler's half."""

    cdef tutti_placement raw

    @property
    def extents(self):
        return self.raw.extents

    @property
    def slots(self):
        return self.raw.extents * self.raw.slots_per_extent

    def extent_starts(self):
        """The first slot's number of each extent."""
        return range(0, self.raw.extents * self.raw.records_per_extent,
                     self.raw.records_per_extent)

    def with_extents(self, uint32_t extents):
        """The same with another number of extents (capacity is the minimum over ranks)."""
        cdef Placement other = Placement()
        other.raw = self.raw
        other.raw.extents = extents
        return other

    def object_place(self, uint32_t slot, uint32_t layer, uint32_t part=0):
        """(member, offset) of an object."""
        cdef tutti_place place = tutti_object_place(&self.raw, slot, layer, part)
        return place.member, place.offset

    def record_place(self, uint32_t slot):
        """(member, offset) of a slot's record."""
        cdef tutti_place place = tutti_record_place(&self.raw, slot)
        return place.member, place.offset

    def to_bytes(self):
        return (<char *>&self.raw)[:sizeof(self.raw)]

    @staticmethod
    def from_bytes(bytes raw):
        cdef Placement self = Placement()
        if len(raw) != sizeof(self.raw):
            raise ValueError("not a placement of this build")
        memcpy(&self.raw, <const char *>raw, sizeof(self.raw))
        return self

    def __reduce__(self):
        return (Placement.from_bytes, (self.to_bytes(),))


cdef class PoolOptions:
    """struct tutti_pool_options with the memory that it points to."""

    cdef tutti_pool_options raw
    cdef tutti_geometry geometry
    cdef const char **member
    cdef object keep

    def __cinit__(self, home, members, uint32_t rank, uint32_t ranks, uint64_t size=0,
                  Geometry geometry=None, uint32_t alignment=0, uint64_t extent_bytes=0,
                  bint read_only=False, bint force=False):
        memset(&self.raw, 0, sizeof(self.raw))
        self.keep = [os.fsencode(home)] + [os.fsencode(path) for path in members]
        self.raw.home = self.keep[0]
        self.raw.members = len(members)
        if members:
            self.member = <const char **>calloc(len(members), sizeof(char *))
            if self.member is NULL:
                raise MemoryError
            for i in range(len(members)):
                self.member[i] = self.keep[1 + i]
            self.raw.member = self.member
        self.raw.rank = rank
        self.raw.ranks = ranks
        self.raw.bytes = size
        self.raw.alignment = alignment
        self.raw.extent_bytes = extent_bytes
        if geometry is not None:
            self.geometry = geometry.raw
            self.raw.geometry = &self.geometry
            self.raw.groups = 1
        self.raw.read_only = read_only
        self.raw.force = force

    def __dealloc__(self):
        free(self.member)


cdef class Pool:
    """An open pool of one rank; see pool.h."""

    cdef tutti_pool *raw
    cdef int serves

    @staticmethod
    def format(home, *, members=(), uint32_t rank=0, uint32_t ranks=1, uint64_t size=0,
               Geometry geometry, uint32_t alignment=0, uint64_t extent_bytes=0,
               bint force=False):
        """Make this rank's members. Raises TuttiError."""
        cdef PoolOptions options = PoolOptions(home, members, rank, ranks, size, geometry,
                                               alignment, extent_bytes, False, force)
        cdef tutti_error err
        cdef int rc
        memset(&err, 0, sizeof(err))
        with nogil:
            rc = tutti_pool_format(&options.raw, &err)
        check(rc, &err, "format")

    @staticmethod
    def open(home, *, members=(), uint32_t rank=0, uint32_t ranks=1, Geometry geometry=None,
             bint read_only=False):
        """Open this rank's members, exclusively unless read_only. Raises TuttiError."""
        cdef PoolOptions options = PoolOptions(home, members, rank, ranks, 0, geometry, 0, 0,
                                               read_only, False)
        cdef Pool self = Pool.__new__(Pool)
        cdef tutti_error err
        cdef int rc
        memset(&err, 0, sizeof(err))
        with nogil:
            rc = tutti_pool_open(&options.raw, &self.raw, &err)
        check(rc, &err, "open")
        return self

    @staticmethod
    def open_or_format(home, *, members=(), uint32_t rank=0, uint32_t ranks=1, uint64_t size=0,
                       Geometry geometry, uint32_t alignment=0):
        """Open what is there, or make it when nothing is. Returns (pool, made)."""
        try:
            return Pool.open(home, members=members, rank=rank, ranks=ranks,
                             geometry=geometry), False
        except TuttiError as error:
            if error.errno != ENOENT or size == 0:
                raise
        Pool.format(home, members=members, rank=rank, ranks=ranks, size=size,
                    geometry=geometry, alignment=alignment)
        return Pool.open(home, members=members, rank=rank, ranks=ranks, geometry=geometry), True

    cdef tutti_pool *get(self) except NULL:
        if self.raw is NULL:
            raise ValueError("the pool is closed")
        return self.raw

    def close(self):
        cdef tutti_pool *raw = self.raw
        if self.serves:
            raise ValueError("a Serve uses the pool: close that first")
        self.raw = NULL
        with nogil:
            tutti_pool_close(raw)

    def __dealloc__(self):
        tutti_pool_close(self.raw)

    def info(self):
        cdef tutti_pool_info info
        tutti_pool_get_info(self.get(), &info)
        return {
            "pool": bytes(info.superblock.pool[:16]),
            "rank": info.superblock.rank,
            "ranks": info.superblock.ranks,
            "members": info.superblock.members,
            "paths": [os.fsdecode(<bytes>tutti_pool_member_path(self.raw, i))
                      for i in range(info.superblock.members)],
            "alignment": info.superblock.alignment,
            "extents": info.extents,
            "extent_bytes": info.superblock.extent_bytes,
            "first_extent": info.superblock.first_extent,
            "epoch": info.superblock.epoch,
            "oldest_epoch": info.superblock.oldest_epoch,
            "written_bytes": info.superblock.written_bytes,
            "identity": bytes(info.superblock.identity[:16]),
            "direct": bool(info.direct),
            "direct_reason": info.direct_reason.decode("utf-8", "replace"),
        }

    def placement(self, uint32_t group=0):
        cdef Placement placement = Placement()
        check(tutti_pool_placement(self.get(), group, &placement.raw), NULL,
              f"the pool has no group {group}")
        return placement

    def begin_epoch(self, uint64_t epoch, uint64_t oldest_epoch, bytes identity):
        """Make an epoch durable. oldest_epoch 0 keeps it."""
        cdef tutti_pool *raw = self.get()
        cdef const uint8_t *who = identity
        cdef tutti_error err
        cdef int rc
        if len(identity) != TUTTI_IDENTITY_BYTES:
            raise ValueError("an identity has 16 bytes")
        memset(&err, 0, sizeof(err))
        with nogil:
            rc = tutti_pool_begin_epoch(raw, epoch, oldest_epoch, who, &err)
        check(rc, &err, "begin_epoch")

    def member_health(self):
        """Per member: what its drive says of itself, or None; waits for no device."""
        cdef tutti_pool_info info
        cdef tutti_member_health h
        cdef char text[200]
        health = []
        tutti_pool_get_info(self.get(), &info)
        for member in range(info.superblock.members):
            if tutti_pool_member_health(self.get(), member, &h) < 0:
                health.append(None)
                continue
            tutti_member_health_text(&h, text)
            health.append({"warns": bool(h.low_on_spare or h.hot or h.unreliable or h.read_only
                                         or h.unprotected),
                           "spare_left": h.spare_left, "used": h.used,
                           "celsius": None if h.celsius == -2**31 else h.celsius,
                           "media_errors": h.media_errors,
                           "text": text.decode("utf-8", "replace")})
        return health

    def flush(self):
        cdef tutti_pool *raw = self.get()
        cdef tutti_error err
        cdef int rc
        memset(&err, 0, sizeof(err))
        with nogil:
            rc = tutti_pool_flush(raw, &err)
        check(rc, &err, "flush")

    def scan_to_file(self, path, uint32_t threads=0):
        """Scan every record into a side file; returns counts."""
        cdef tutti_pool *raw = self.get()
        cdef bytes where = os.fsencode(path)
        cdef const char *name = where
        cdef tutti_scan_report report
        cdef tutti_error err
        cdef int rc
        memset(&err, 0, sizeof(err))
        memset(&report, 0, sizeof(report))
        with nogil:
            rc = tutti_pool_scan_to_file(raw, threads, name, &report, &err)
        check(rc, &err, "scan")
        return {"valid": report.valid, "empty": report.empty, "torn": report.torn,
                "void": report.void_, "alien": report.alien, "bytes": report.bytes,
                "nanoseconds": report.nanoseconds}


def secret_load(home, bint create=False):
    """(pool id, secret) of a home folder. Raises TuttiError."""
    cdef bytes where = os.fsencode(home)
    cdef uint8_t pool_id[16]
    cdef uint8_t secret[16]
    cdef tutti_error err
    memset(&err, 0, sizeof(err))
    check(tutti_pool_secret_load(where, create, pool_id, secret, &err), &err, "secret")
    return bytes(pool_id[:16]), bytes(secret[:16])


def disable(home, reason):
    """Trip the kill switch of a pool."""
    cdef bytes where = os.fsencode(home)
    cdef bytes why = reason.encode()
    cdef const char *folder = where
    cdef const char *text = why
    cdef tutti_error err
    cdef int rc
    memset(&err, 0, sizeof(err))
    with nogil:
        rc = tutti_pool_disable(folder, text, &err)
    check(rc, &err, "disable")


def enable(home):
    cdef bytes where = os.fsencode(home)
    cdef tutti_error err
    memset(&err, 0, sizeof(err))
    check(tutti_pool_enable(where, &err), &err, "enable")


def disabled(home):
    """The reason why a pool is disabled, or None. It may wait for the home's device."""
    cdef bytes where = os.fsencode(home)
    cdef const char *folder = where
    cdef char reason[256]
    cdef int thrown
    memset(reason, 0, sizeof(reason))
    with nogil:  # else all of the process would wait
        thrown = tutti_pool_disabled(folder, reason, sizeof(reason))
    if thrown == 1:
        return reason.decode("utf-8", "replace").strip() or "no reason given"
    return None


def disable_member(home, uint32_t rank, uint32_t member, reason, path=None):
    """Throw the switch of one member; path: where it is, for who looks whether it can come back."""
    cdef bytes folder = os.fsencode(home)
    cdef bytes why = reason.encode()
    cdef bytes where = os.fsencode(path) if path is not None else b""
    cdef tutti_error err
    memset(&err, 0, sizeof(err))
    check(tutti_pool_disable_member(folder, rank, member, why,
                                    <const char *>where if where else NULL, &err),
          &err, "disable_member")


def enable_member(home, uint32_t rank, uint32_t member):
    """Look at a member, and take its switch back. Raises TuttiError where it still fails."""
    cdef bytes folder = os.fsencode(home)
    cdef const char *where = folder
    cdef tutti_error err
    cdef int rc
    memset(&err, 0, sizeof(err))
    with nogil:
        rc = tutti_pool_probe_member(where, rank, member, &err)
        if rc == 0:
            rc = tutti_pool_enable_member(where, rank, member, &err)
    check(rc, &err, "enable_member")


def member_disabled(home, uint32_t rank, uint32_t member):
    """The reason why a member is off, or why its switch can't be read; or None."""
    cdef bytes folder = os.fsencode(home)
    cdef char reason[512]
    memset(reason, 0, sizeof(reason))
    if tutti_pool_member_disabled(folder, rank, member, reason, sizeof(reason)) != 0:
        return reason.decode("utf-8", "replace").strip() or "no reason given"
    return None


cdef class Match:
    """struct tutti_match: the longest visible prefix."""

    cdef tutti_match raw

    @property
    def blocks(self):
        return self.raw.blocks

    @property
    def slot(self):
        return self.raw.slot

    @property
    def generation(self):
        return self.raw.generation


cdef class Directory:
    """The key table of a pool; see directory.h."""

    cdef tutti_directory *raw
    cdef uint32_t ranks

    def __cinit__(self, Placement placement, Geometry geometry, uint32_t ranks, bytes secret,
                  bytes identity, uint32_t run_slots=0):
        cdef tutti_directory_options options
        cdef tutti_error err
        if len(secret) != 16 or len(identity) != TUTTI_IDENTITY_BYTES:
            raise ValueError("a secret and an identity have 16 bytes each")
        memset(&options, 0, sizeof(options))
        memset(&err, 0, sizeof(err))
        options.placement = placement.raw
        options.geometry = geometry.raw
        options.ranks = ranks
        memcpy(options.secret, <const char *>secret, 16)
        memcpy(options.identity, <const char *>identity, 16)
        options.run_slots = run_slots
        self.ranks = ranks
        check(tutti_directory_new(&options, &self.raw, &err), &err, "directory")

    def __dealloc__(self):
        tutti_directory_free(self.raw)

    def load(self, paths):
        """Take over the scan files of all ranks, in order of rank; once, first."""
        cdef const tutti_scan_entry **entries
        cdef size_t *counts
        cdef void **handles
        cdef tutti_error err
        cdef bytes where
        cdef uint32_t n = len(paths)
        cdef int rc = 0
        if n != self.ranks:
            raise ValueError(f"{n} scan files for {self.ranks} ranks")
        memset(&err, 0, sizeof(err))
        entries = <const tutti_scan_entry **>calloc(n, sizeof(void *))
        counts = <size_t *>calloc(n, sizeof(size_t))
        handles = <void **>calloc(n, sizeof(void *))
        try:
            if entries is NULL or counts is NULL or handles is NULL:
                raise MemoryError
            for i in range(n):
                where = os.fsencode(paths[i])
                check(tutti_scan_file_open(where, &entries[i], &counts[i], &handles[i], &err),
                      &err, "scan file")
            with nogil:
                rc = tutti_directory_load(self.raw, entries, counts, &err)
            check(rc, &err, "load")
        finally:
            if handles is not NULL:
                for i in range(n):
                    if handles[i] is not NULL:
                        tutti_scan_file_close(handles[i])
            free(entries)
            free(counts)
            free(handles)

    def begin_epoch(self, uint64_t epoch, bint reset=False, bytes identity=None):
        cdef tutti_error err
        cdef const uint8_t *who = NULL
        if identity is not None:
            if len(identity) != TUTTI_IDENTITY_BYTES:
                raise ValueError("an identity has 16 bytes")
            who = identity
        memset(&err, 0, sizeof(err))
        check(tutti_directory_begin_epoch(self.raw, epoch, reset, who, &err), &err, "begin_epoch")

    def find(self, const uint8_t[::1] hashes, uint32_t hash_bytes, uint32_t count):
        """Longest visible prefix of the first `count` hashes."""
        cdef Match match = Match()
        if hashes.shape[0] < <Py_ssize_t>hash_bytes * count:
            raise ValueError("fewer hashes than asked about")
        if count:
            check(tutti_directory_find(self.raw, &hashes[0], hash_bytes, count, &match.raw), NULL,
                  "find")
        return match

    def pin(self, Match match, uint32_t first):
        """Hold a match; its transfers from block `first` on, or None when it has moved on."""
        if first > match.raw.blocks:
            raise ValueError("the listing starts behind the match")
        # pin() lists match.blocks - first transfers and needs a place to write them to
        out = np.zeros(max(1, match.raw.blocks - first), TRANSFER)
        cdef int rc = tutti_directory_pin(self.raw, &match.raw, first,
                                          <tutti_transfer *>address(out, TRANSFER, True))
        if rc == -ESTALE:
            return None
        check(rc, NULL, "pin")
        return out[:match.raw.blocks - first]

    def unpin(self, uint32_t slot, uint64_t generation):
        check(tutti_directory_unpin(self.raw, slot, generation), NULL,
              f"slot {slot} holds no pin of generation {generation:#x}")

    def reserve(self, const uint8_t[::1] hashes, uint32_t hash_bytes, uint32_t first,
                uint32_t count, bint grows=False):
        """Places for blocks [first, first + count): (transfers, origins, index), or None when
        block first - 1 is neither visible nor being written."""
        cdef int rc
        if hashes.shape[0] < <Py_ssize_t>hash_bytes * (<Py_ssize_t>first + count):
            raise ValueError("fewer hashes than blocks")
        out = np.zeros(max(1, count), TRANSFER)
        origin = np.zeros(max(1, count), ORIGIN)
        index = np.zeros(max(1, count), np.uint32)
        if count == 0:
            return out[:0], origin[:0], index[:0]
        rc = tutti_directory_reserve(self.raw, &hashes[0], hash_bytes, first, count, grows,
                                     <tutti_transfer *>address(out, TRANSFER, True),
                                     <tutti_origin *>address(origin, ORIGIN, True),
                                     <uint32_t *>address(index, np.dtype(np.uint32), True))
        if rc == -ENOENT:
            return None
        rc = check(rc, NULL, "reserve")
        return out[:rc], origin[:rc], index[:rc]

    def report(self, uint32_t rank, items, ok):
        """A rank's word on a list of writes; returns how many were owed."""
        cdef const tutti_transfer *item = <const tutti_transfer *>address(items, TRANSFER)
        cdef const uint8_t *good = <const uint8_t *>address(ok, np.dtype(np.uint8))
        cdef Py_ssize_t n = len(items), i
        cdef int rc, owed = 0
        if len(ok) != n:
            raise ValueError("a word for each slot is wanted")
        for i in range(n):
            rc = tutti_directory_report(self.raw, rank, item[i].slot, item[i].generation,
                                        good[i] != 0)
            if rc == 0:
                owed += 1
            elif rc != -EINVAL:
                check(rc, NULL, "report")
        return owed

    def drop(self, uint32_t slot, uint64_t generation):
        """Hide a slot whose data is bad, and its subtree; returns how many were hidden.

        generation 0: whichever it has, where the record itself is bad."""
        return check(tutti_directory_drop(self.raw, slot, generation), NULL, "drop")

    def fence_members(self, uint32_t members):
        """A bit for each member that nothing is asked of; whether that changed something."""
        return check(tutti_directory_fence_members(self.raw, members), NULL,
                     "fence_members") == 1

    def take_erased(self, size_t most=4096):
        """Transfers whose records are to be emptied."""
        out = np.zeros(most, TRANSFER)
        cdef size_t n = tutti_directory_take_erased(
            self.raw, <tutti_transfer *>address(out, TRANSFER, True), most)
        return out[:n].copy()

    def stats(self):
        cdef tutti_directory_stats s
        tutti_directory_get_stats(self.raw, &s)
        return {"slots": s.slots, "free": s.free, "writing": s.writing, "visible": s.visible,
                "foreign": s.foreign, "leaving": s.leaving, "pinned": s.pinned,
                "evicted": s.evicted, "dropped": s.dropped, "refused": s.refused,
                "runs": s.runs, "memory_bytes": s.memory_bytes,
                "fenced_members": s.fenced_members}

    def audit(self):
        """Raise TuttiError when an invariant is broken."""
        cdef tutti_error err
        memset(&err, 0, sizeof(err))
        check(tutti_directory_audit(self.raw, &err), &err, "audit")


cdef class Result:
    """struct tutti_result, with a copy of what it points to."""

    cdef readonly int status
    cdef readonly uint32_t good
    cdef readonly uint32_t verified
    cdef readonly object position
    cdef readonly uint64_t bytes
    cdef readonly uint64_t began
    cdef readonly uint64_t first_layer
    cdef readonly uint64_t ended


cdef Result result_of(const tutti_result *raw):
    cdef Result result = Result()
    cdef uint8_t[::1] view
    result.status = raw.status
    result.good = raw.good
    result.verified = raw.verified
    result.position = np.zeros(raw.count, np.uint8)
    if raw.count:
        view = result.position
        memcpy(&view[0], raw.position, raw.count)
    result.bytes = raw.bytes
    result.began = raw.began
    result.first_layer = raw.first_layer
    result.ended = raw.ended
    return result


cdef uint64_t nanoseconds(double seconds):
    if not seconds > 0:
        return 0
    return <uint64_t>(seconds * 1e9) if seconds < 1e9 else <uint64_t>-1  # no bound


cdef class Serve:
    """One rank's ring, engine and KV memory; see serve.h."""

    cdef tutti_serve *raw
    cdef Pool pool
    cdef object keep
    cdef object computes
    cdef const tutti_device *gpu_device

    def __cinit__(self, Pool pool, *, engine=None, size_t staging=0, cpus=(),
                  uint32_t ring_depth=0, uint32_t look_ahead=0, bint unverified=False,
                  fault_rules=None, fault_inner=None, uint32_t fence_errors=0, double late=0,
                  gpu=None, computes=None):
        """gpu: the number of the one that KV memory is on; computes: gives the handle of its stream
        (a CUstream) that computes, and is asked at each call that has to do with it."""
        cdef tutti_serve_options options
        cdef tutti_error err
        cdef int cpu[64]
        cdef int rc
        memset(&options, 0, sizeof(options))
        memset(&err, 0, sizeof(err))
        if len(cpus) > 64:
            raise ValueError("at most 64 CPUs can be named")
        for i in range(len(cpus)):
            cpu[i] = cpus[i]
        self.pool = pool
        self.keep = [text.encode() if text is not None else None
                     for text in (engine, fault_rules, fault_inner)]
        options.pool = pool.get()
        self.computes = computes
        if engine is not None:
            options.engine = self.keep[0]
        if fault_rules is not None:
            options.fault_rules = self.keep[1]
        if fault_inner is not None:
            options.fault_inner = self.keep[2]
        options.staging_bytes = staging
        options.ring_depth = ring_depth
        options.look_ahead = look_ahead
        options.unverified = unverified
        options.cpu = cpu
        options.cpus = len(cpus)
        options.fence_errors = fence_errors
        options.late_ns = nanoseconds(late)
        if gpu is not None:
            check(tutti_device_cuda_open(gpu, &self.gpu_device, &err), &err, "the GPU")
            options.device = self.gpu_device
        with nogil:
            rc = tutti_serve_open(&options, &self.raw, &err)
        check(rc, &err, "serve")
        pool.serves += 1

    cdef tutti_serve *get(self) except NULL:
        if self.raw is NULL:
            raise ValueError("closed")
        return self.raw

    def close(self, double timeout=30):
        """End or cancel everything; sessions that are still held turn void.

        Returns None, or a sentence when a device does not end a command in time: what that may
        still touch is left behind, and KV memory must stay."""
        cdef tutti_serve *raw = self.raw
        cdef uint64_t bound = nanoseconds(timeout)
        cdef tutti_error err
        cdef int rc
        if raw is NULL:
            return None
        memset(&err, 0, sizeof(err))
        self.raw = NULL
        with nogil:
            rc = tutti_serve_close_within(raw, bound, &err)
        self.pool.serves -= 1
        if rc < 0:
            self.gpu_device = NULL  # what is left behind still uses it
            return err.message.decode("utf-8", "replace")
        tutti_device_cuda_close(self.gpu_device)
        self.gpu_device = NULL
        return None

    def __dealloc__(self):
        tutti_serve_close(self.raw)
        tutti_device_cuda_close(self.gpu_device)

    def register(self, planes, uint32_t blocks, regions, uint32_t group=0):
        """Tell of KV memory: (direct, reason why not)."""
        cdef tutti_serve *raw = self.get()
        cdef const tutti_kv_plane *plane = <const tutti_kv_plane *>address(planes, PLANE)
        cdef const tutti_kv_region *region = <const tutti_kv_region *>address(regions, REGION)
        cdef uint32_t count = len(regions)
        cdef tutti_error err
        cdef int rc
        memset(&err, 0, sizeof(err))
        with nogil:
            rc = tutti_serve_register(raw, group, plane, blocks, region, count, &err)
        check(rc, &err, "register")
        return rc == 1, err.message.decode("utf-8", "replace")

    @property
    def engine(self):
        return tutti_serve_engine(self.get()).decode()

    @property
    def gpu(self):
        """The GPU that KV memory is on, and its driver, as they call themselves; or None."""
        cdef int version = 0
        cdef const char *name
        if self.gpu_device is NULL:
            return None
        name = tutti_device_cuda_name(&version)
        return f"{name.decode('utf-8', 'replace')}, driver {version // 1000}.{version % 1000 // 10}"

    cdef int follow(self) except -1:
        """What computation has been given so far, on the stream that it uses now."""
        if self.computes is not None:
            tutti_serve_stream(self.get(), <void *><size_t>self.computes())
        return 0

    def counters(self):
        cdef tutti_engine_counters c
        tutti_serve_counters(self.get(), &c)
        return {"commands": c.commands, "read_bytes": c.read_bytes,
                "written_bytes": c.written_bytes, "staged_bytes": c.staged_bytes,
                "hashed_bytes": c.hashed_bytes, "verify_failures": c.verify_failures,
                "io_errors": c.io_errors, "retries": c.retries, "system_calls": c.system_calls,
                "late_commands": c.late_commands}

    def fenced(self):
        """A bit for each member that is given no commands; cheap."""
        return tutti_serve_fenced(self.get())

    def member_states(self):
        """Per member: whether it is fenced, why, its counts and its staging."""
        cdef tutti_member_state state
        cdef uint32_t member = 0
        states = []
        while tutti_serve_member_state(self.get(), member, &state) == 0:
            states.append({"fenced": bool(state.fenced), "io_errors": state.io_errors,
                           "late_commands": state.late_commands,
                           "verify_failures": state.verify_failures,
                           "staging_bytes": state.staging_bytes,
                           "staging_taken": state.staging_taken,
                           "staging_most": state.staging_most,
                           "reason": state.reason.decode("utf-8", "replace")})
            member += 1
        return states

    def watch_members(self):
        """Make members and their switches agree; returns as fenced().

        Once a second, from a thread that nothing waits for: it may wait for the home's device.
        Beside any other call, but not beside close()."""
        cdef tutti_serve *raw = self.get()
        cdef uint32_t members
        with nogil:
            members = tutti_serve_watch_members(raw)
        return members

    def scrub(self, *, uint64_t rate=0, uint32_t cursor=0, uint32_t group=0):
        """Verify cold slots, at most `rate` bytes a second; see Scrub.step()."""
        cdef Scrub scrub = Scrub.__new__(Scrub)
        cdef tutti_error err
        memset(&err, 0, sizeof(err))
        check(tutti_scrub_open(self.get(), group, rate, cursor, &scrub.raw, &err), &err, "scrub")
        scrub.serve = self
        scrub.room = np.zeros(256, TRANSFER)
        return scrub

    def retrieve(self, items, *, bint in_step=False, uint64_t tag=0, uint32_t group=0):
        cdef Retrieve session = Retrieve.__new__(Retrieve)
        cdef tutti_serve *raw = self.get()
        cdef const tutti_transfer *item = <const tutti_transfer *>address(items, TRANSFER)
        cdef uint32_t count = len(items)
        cdef tutti_error err
        cdef int rc
        memset(&err, 0, sizeof(err))
        self.follow()
        with nogil:
            rc = tutti_retrieve_begin(raw, group, item, count, in_step, tag, &session.raw, &err)
        check(rc, &err, "retrieve")
        session.serve = self
        return session

    def store(self, items, origins, *, uint32_t layers_ready, uint64_t tag=0, uint32_t group=0):
        cdef Store session = Store.__new__(Store)
        cdef tutti_serve *raw = self.get()
        cdef const tutti_transfer *item = <const tutti_transfer *>address(items, TRANSFER)
        cdef const tutti_origin *origin = <const tutti_origin *>address(origins, ORIGIN)
        cdef uint32_t count = len(items)
        cdef tutti_error err
        cdef int rc
        if len(origins) != count:
            raise ValueError("an origin for each slot is wanted")
        memset(&err, 0, sizeof(err))
        self.follow()
        with nogil:
            rc = tutti_store_begin(raw, group, item, origin, count, layers_ready, tag,
                                   &session.raw, &err)
        check(rc, &err, "store")
        session.serve = self
        return session

    def fence(self, blocks, double timeout):
        """Blocks are about to be overwritten; returns how many stores it touched, or -1 when one
        still reads after the timeout (its slot will be a miss)."""
        cdef tutti_serve *raw = self.get()
        cdef const uint32_t *block = <const uint32_t *>address(blocks, np.dtype(np.uint32))
        cdef uint32_t count = len(blocks)
        cdef uint64_t bound = nanoseconds(timeout)
        cdef int rc
        if count == 0:
            return 0
        with nogil:
            rc = tutti_serve_fence(raw, block, count, bound)
        if rc == -ETIMEDOUT:
            return -1
        return check(rc, NULL, "fence")

    def erase(self, items, uint32_t group=0):
        cdef tutti_serve *raw = self.get()
        cdef const tutti_transfer *item = <const tutti_transfer *>address(items, TRANSFER)
        cdef uint32_t count = len(items)
        cdef tutti_error err
        cdef int rc
        if count == 0:
            return
        memset(&err, 0, sizeof(err))
        with nogil:
            rc = tutti_serve_erase(raw, group, item, count, &err)
        check(rc, &err, "erase")

    def progress(self):
        cdef tutti_serve *raw = self.get()
        with nogil:
            tutti_serve_progress(raw)


cdef class Scrub:
    """What reads and verifies slots while nothing else moves; see scrub.h."""

    cdef tutti_scrub *raw
    cdef Serve serve
    cdef object room

    cdef tutti_scrub *get(self) except NULL:
        if self.raw is NULL or self.serve.raw is NULL:
            raise ValueError("the scrub is over")
        return self.raw

    def step(self, uint64_t now):
        """Take what was read, issue the next piece if it is time; never waits.

        now: time.monotonic_ns(). Returns transfers of slots that do not verify, for
        Directory.drop(); a generation of 0 is a bad record's."""
        cdef tutti_scrub *raw = self.get()
        cdef tutti_transfer *bad = <tutti_transfer *>address(self.room, TRANSFER, True)
        cdef uint32_t most = len(self.room)
        cdef uint32_t n
        with nogil:
            n = tutti_scrub_step(raw, now, bad, most)
        return self.room[:n].copy()

    def report(self):
        """Counts since it was opened, and the cursor."""
        cdef tutti_scrub_report r
        tutti_scrub_get_report(self.get(), &r)
        return {"slots": r.slots, "verified": r.verified, "bad": r.bad, "torn": r.torn,
                "skipped": r.skipped, "bytes": r.bytes, "rounds": r.rounds, "cursor": r.cursor}

    def close(self):
        cdef tutti_scrub *raw = self.raw
        if raw is not NULL and self.serve.raw is not NULL:
            with nogil:
                tutti_scrub_close(raw)
        self.raw = NULL


cdef class Retrieve:
    """A retrieve session; end() it when poll() says that it has ended."""

    cdef tutti_retrieve *raw
    cdef Serve serve

    cdef tutti_retrieve *get(self) except NULL:
        if self.raw is NULL or self.serve.raw is NULL:
            raise ValueError("the session is over")
        return self.raw

    def poll(self):
        cdef tutti_retrieve *raw = self.get()
        return tutti_retrieve_poll(raw) == 1

    def layer(self, uint32_t layer, double timeout):
        """Wait for a layer: 0, or a positive errno (ETIMEDOUT included). On a GPU the stream does."""
        cdef tutti_retrieve *raw = self.get()
        cdef uint64_t bound = nanoseconds(timeout)
        cdef int rc
        self.serve.follow()
        with nogil:
            rc = tutti_retrieve_layer(raw, layer, bound)
        return -rc

    def refused(self):
        """Why the stream took no wait for it, or None."""
        cdef tutti_error err
        memset(&err, 0, sizeof(err))
        if tutti_retrieve_refused(self.get(), &err) == 0:
            return None
        return err.message.decode("utf-8", "replace")

    def wait(self, double timeout):
        """Whether it ended in time."""
        cdef tutti_retrieve *raw = self.get()
        cdef uint64_t bound = nanoseconds(timeout)
        cdef int rc
        with nogil:
            rc = tutti_retrieve_wait(raw, bound)
        return rc == 0

    def cancel(self):
        tutti_retrieve_cancel(self.get())

    def result(self):
        cdef tutti_result raw
        tutti_retrieve_result(self.get(), &raw)
        return result_of(&raw)

    def end(self):
        check(tutti_retrieve_end(self.get()), NULL, "the retrieve has not ended")
        self.raw = NULL


cdef class Store:
    """A store session; end() it when poll() says that it has ended."""

    cdef tutti_store *raw
    cdef Serve serve

    cdef tutti_store *get(self) except NULL:
        if self.raw is NULL or self.serve.raw is NULL:
            raise ValueError("the session is over")
        return self.raw

    def ready(self, uint32_t layers):
        self.serve.follow()
        check(tutti_store_ready(self.get(), layers), NULL, "ready")

    def poll(self):
        cdef tutti_store *raw = self.get()
        return tutti_store_poll(raw) == 1

    def wait(self, double timeout):
        cdef tutti_store *raw = self.get()
        cdef uint64_t bound = nanoseconds(timeout)
        cdef int rc
        with nogil:
            rc = tutti_store_wait(raw, bound)
        return rc == 0

    def cancel(self):
        tutti_store_cancel(self.get())

    def result(self):
        cdef tutti_result raw
        tutti_store_result(self.get(), &raw)
        return result_of(&raw)

    def end(self):
        check(tutti_store_end(self.get()), NULL, "the store has not ended")
        self.raw = NULL
