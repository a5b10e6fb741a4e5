"""The records of a VNet flow log as a reader holds them."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t

from flowlens.kernel cimport text
from flowlens.kernel.words cimport Addresses, Words

cdef enum:
    BEGIN = 0
    CONTINUING = 1
    END = 2
    DENY = 3

cdef enum:
    AS_MOMENT = -2

cdef enum:
    SEVERAL = -2


cdef struct Limits:
    int64_t earliest, latest
    uint64_t port, protocol, counter
    int64_t record_bytes


cdef struct Row:
    int64_t time
    int64_t counters[4]
    int32_t source, destination
    int32_t source_port, destination_port
    int32_t encryption
    int32_t group
    int32_t context
    int32_t earlier_end
    int16_t protocol
    int8_t direction
    int8_t state
    int8_t restarted


cdef struct Group:
    int32_t record, rule, acl
    int32_t first_row, end_row
    int32_t encryption


cdef struct Record:
    int64_t moment
    int32_t time, mac, target, log
    int64_t first_row, end_row


cdef class Records:
    cdef Limits limits
    cdef Words words
    cdef Addresses addresses
    cdef text.Address[::1] ends
    cdef int32_t[::1] end_numbers
    cdef Row[::1] rows
    cdef Group[::1] groups
    cdef Record[::1] records
    cdef int32_t[::1] heads
    cdef int32_t group_count, end_count, code
    cdef text.Span code_text
    cdef text.Seen source, destination
    cdef readonly int32_t row_count, record_count, restarted

    cdef int forget_ends(self) except -1 nogil
    cdef int name(self, text.Text *t, int32_t *word) except -1 nogil
    cdef int moment(self, text.Text *t, Record *record) except -1 nogil
    cdef int record(self, text.Text *t) except -1 nogil
    cdef int holder(self, text.Text *t) except -1 nogil
    cdef int flow(self, text.Text *t) except -1 nogil
    cdef int group(self, text.Text *t) except -1 nogil
    cdef int flow_tuple(self, text.Text *t, int32_t group) except -1 nogil
    cdef int32_t new_end(self, const text.Address *address) except -1 nogil
    cdef int finish_group(self, Group *group) except -1 nogil
    cdef int match_restart(self, int32_t number, int32_t first, size_t slot) except -1 nogil
    cdef int grow_rows(self) except -1
    cdef int grow_ends(self) except -1
    cdef int grow_groups(self) except -1
    cdef int grow_records(self) except -1
