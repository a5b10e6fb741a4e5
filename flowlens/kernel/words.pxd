"""Byte strings and addresses as numbers, and memory whose bounds are checked."""

from cython.view cimport array
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from flowlens.kernel.text cimport Address

# Rows that a reader or, between two times that it is cleared, a rollup may hold: their tallies have 32 bits.
cdef enum:
    MOST_ROWS = 2147483647


cdef struct Slot:
    uint32_t hash
    int32_t number


cdef struct Place:
    uint64_t high, low
    int32_t number


cdef inline uint64_t mixed(uint64_t hash, uint64_t word) noexcept nogil:
    hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL
    return hash ^ (hash >> 29)


cdef inline uint32_t finished(uint64_t hash) noexcept nogil:
    hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93ULL
    return <uint32_t>(hash >> 32)


cdef array room(sample, size_t count)
cdef Slot[::1] empty_slots(size_t count)
cdef Address[::1] addresses_room(size_t count)
cdef Slot[::1] widened(Slot[::1] slots)
cdef uint64_t random_seed() except? 0
cdef tuple writable(allocate, size_t size)


cdef class Words:
    cdef uint64_t seed
    cdef Slot[::1] slots
    cdef uint8_t[::1] pool
    cdef int64_t[::1] starts
    cdef int32_t count

    cdef int clear(self) except -1
    cdef int32_t number(self, const void *text, size_t length) except -1 nogil
    cdef int grow(self, size_t length) except -1
    cdef int widen(self) except -1
    cdef bytes text(self, int32_t number)


cdef class Addresses:
    cdef uint64_t seed
    cdef Place[::1] places
    cdef Address[::1] known
    cdef int32_t count
    cdef uint64_t near

    cdef int clear(self) except -1
    cdef uint32_t hashed(self, const Address *address) noexcept nogil
    cdef int numbers(self, const Address *found, size_t count, int32_t *numbers) except -1 nogil
    cdef int32_t number(self, const Address *address, uint32_t hash) except -1 nogil
    cdef int grow(self) except -1
