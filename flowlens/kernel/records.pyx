# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, initializedcheck=False, show_performance_hints=False
"""The records of VNet flow logs, read.

`Records` takes whole records whose every byte is as the format says and leaves all else, untouched, to the decoders in
``formats``. It rejects nothing and explains nothing. Arrays are typed views whose bounds are checked.
"""

from cython.view cimport array
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from flowlens.kernel cimport text
from flowlens.kernel.words cimport MOST_ROWS, Addresses, Words, addresses_room, finished, mixed, room

cdef enum:
    HEADS = 1 << 13
    LONGEST_KEY = 64
    LONGEST_CODE = 255

# Two bits for each of the letters B, C, D and E, the first of them lowest.
cdef enum:
    STATES = BEGIN | CONTINUING << 2 | DENY << 4 | END << 6

cdef uint64_t SECONDS_BELOW = 100_000_000_000
cdef uint64_t MOST_STAMP = 1_000_000_000_000_000
"""Milliseconds that still fit as microseconds."""


cdef Row[::1] rows_room(size_t count):
    cdef Row row
    return room(<Row[:1]>&row, count)


cdef Group[::1] groups_room(size_t count):
    cdef Group group
    return room(<Group[:1]>&group, count)


cdef Record[::1] records_room(size_t count):
    cdef Record record
    return room(<Record[:1]>&record, count)


cdef inline const uint8_t *tuple_fields(
    const uint8_t *at,
    const uint8_t *end,
    const Limits *limits,
    Row *row,
    text.Seen *source,
    text.Seen *destination,
    text.Span *code,
    bint *is_one,
) noexcept nogil:
    """Behind a flow tuple of 13 fields, of 9 where its state carries no counters; where none is, as far as one was read.

    Fields are read as vnet.vnet_tuple reads them.
    """
    cdef uint64_t number
    cdef int place
    cdef uint8_t byte
    cdef const uint8_t *start
    cdef bint fine, is_bare
    is_one[0] = False
    if at[0] != b'"':
        return at
    start = at + 1
    at = text.stamp(start, end, &number)
    if at == start or number > MOST_STAMP or at[0] != b",":
        return at
    at += 1
    if number < SECONDS_BELOW:
        number *= 1_000
    row.time = <int64_t>number * 1_000
    if row.time < limits.earliest or row.time >= limits.latest:
        return at
    at = text.address(at, end, source, &fine)
    if not fine:
        return at
    at = text.address(at, end, destination, &fine)
    if not fine:
        return at
    at = text.port(at, limits.port, &row.source_port, &fine)
    if not fine:
        return at
    at = text.port(at, limits.port, &row.destination_port, &fine)
    if not fine:
        return at
    start = at
    at = text.whole(start, 3, &number)
    if at == start or number >= limits.protocol or at[0] != b",":
        return at
    at += 1
    row.protocol = <int16_t>number
    byte = at[0]
    if byte != b"I" and byte != b"O":
        return at
    row.direction = byte == b"O"
    at += 1
    if at[0] != b",":
        return at
    at += 1
    # Letters and counters without branches, since no processor foresees them.
    byte = at[0] - c'B'
    if byte > 3:
        return at
    row.state = STATES >> 2 * byte & 3
    is_bare = (row.state == BEGIN) | (row.state == DENY)
    at += 1
    if at[0] != b",":
        return at
    at += 1
    code.start = at
    byte = at[0]
    while byte != b"," and byte != b'"':
        if byte < 32 or byte > 126 or byte == b"\\":
            return at
        at += 1
        byte = at[0]
    code.length = at - code.start
    if code.length > LONGEST_CODE or (row.state == DENY and text.is_decision_state(code)):
        return at
    at += 1
    if byte == b'"':
        if not is_bare:
            return at
        for place in range(4):
            row.counters[place] = -1
        is_one[0] = True
        return at
    for place in range(4):
        start = at
        at = text.whole(start, 15, &number)
        if number >= limits.counter:
            return at
        row.counters[place] = <int64_t>number | -<int64_t>((at == start) | ((number == 0) & is_bare))
        if place < 3:
            if at[0] != b",":
                return at
            at += 1
    if at[0] == b",":
        at += 1
    if at[0] != b'"':
        return at
    is_one[0] = True
    return at + 1


cdef class Records:
    """The flow tuples of clean VNet records, held until `clear`.

    ``limits``: earliest and latest time stamp in microseconds, and what port, protocol, counter and the bytes of a record
    stay below.
    """

    def __cinit__(self, int64_t earliest, int64_t latest, uint64_t port, uint64_t protocol, uint64_t counter,
                  int64_t record_bytes):
        self.limits = Limits(earliest, latest, port, protocol, counter, record_bytes)
        self.words = Words()
        self.addresses = Addresses()
        self.ends = addresses_room(512)
        self.end_numbers = array(shape=(512,), itemsize=4, format="i")
        self.rows = rows_room(4096)
        self.groups = groups_room(256)
        self.records = records_room(64)
        self.heads = array(shape=(HEADS,), itemsize=4, format="i")
        self.clear()

    def clear(self):
        """Forget all rows; the memory is used again."""
        self.words.clear()
        self.addresses.clear()
        self.row_count = self.group_count = self.record_count = self.restarted = 0
        self.forget_ends()

    cdef int forget_ends(self) except -1 nogil:
        memset(&self.heads[0], 0xFF, HEADS * sizeof(int32_t))
        return 0

    def read(self, bytes data not None, size_t start, size_t limit):
        """Take records from ``data[start:]`` on, blanks and commas between them, until ``limit`` bytes of records or more.

        Gives how many were taken, their bytes, where the last one starts and ends, and whether the end of ``data`` was met
        inside the next one. What is left stands unread behind the last one's end.
        """
        cdef text.Text t
        # The byte behind the last one is 0, as in all bytes of Python.
        cdef const uint8_t *first = data
        cdef const uint8_t *begin
        cdef size_t last = start, end = start, taken = 0, size = len(data)
        cdef int32_t rows, groups, restarted, before = self.record_count
        cdef bint unfinished = False
        if start >= size:
            return 0, 0, start, start, True
        t.at = first + start
        t.end = first + size
        # Codes are compared with the one before, which must stand in the same data.
        self.code_text.length = 0
        with nogil:
            while taken < limit and t.at[0] == b"{":
                begin = t.at
                rows, groups, restarted = self.row_count, self.group_count, self.restarted
                if not self.record(&t) or t.at - begin > self.limits.record_bytes:
                    self.row_count, self.group_count, self.restarted = rows, groups, restarted
                    self.forget_ends()
                    unfinished = t.at == t.end
                    break
                last, end = begin - first, t.at - first
                taken += t.at - begin
                while text.is_blank(t.at[0]) or t.at[0] == b",":
                    t.at += 1
        return self.record_count - before, taken, last, end, unfinished

    cdef int name(self, text.Text *t, int32_t *word) except -1 nogil:
        """A string as the number of its word, or null as -1."""
        cdef text.Span span
        if t.at[0] == b"n":
            word[0] = -1
            return text.word(t, b"null")
        if not text.string(t, &span):
            return 0
        word[0] = self.words.number(span.start, span.length)
        return 1

    cdef int moment(self, text.Text *t, Record *record) except -1 nogil:
        """A record's time, as a moment where it is plain, else as `name`."""
        cdef text.Text ahead = t[0]
        cdef text.Span span
        if text.string(&ahead, &span) and text.moment(span.start, span.length, &record.moment):
            record.time = AS_MOMENT
            t.at = ahead.at
            return 1
        return self.name(t, &record.time)

    cdef int record(self, text.Text *t) except -1 nogil:
        """1 where a whole record was taken, 0 where anything is not plainly one; the keys are those of fast.VnetRecord."""
        cdef text.Span key
        cdef int seen = 0, known, more = 1
        cdef const uint8_t *begin = t.at
        cdef int32_t first_row = self.row_count, resource = -1
        cdef Record found
        found.time = found.mac = found.target = found.log = -1
        t.at += 1
        text.blanks(t)
        while more == 1:
            if not text.key(t, &key):
                return 0
            if seen == 0 and (t.at - begin > 2 * LONGEST_KEY or key.length > LONGEST_KEY):
                return 0  # Where records start is learned from a short first key.
            known = 0
            if text.equals(&key, b"time", 4):
                known = 2
                if not self.moment(t, &found):
                    return 0
            elif text.equals(&key, b"macAddress", 10):
                known = 4
                if not self.name(t, &found.mac):
                    return 0
            elif text.equals(&key, b"targetResourceID", 16):
                known = 8
                if not self.name(t, &found.target):
                    return 0
            elif text.equals(&key, b"flowLogResourceID", 17):
                known = 16
                if not self.name(t, &found.log):
                    return 0
            elif text.equals(&key, b"resourceId", 10):
                known = 32
                if not self.name(t, &resource):
                    return 0
            elif text.equals(&key, b"resourceid", 10):
                known = 64
                if not text.word(t, b"null"):
                    return 0
            elif text.equals(&key, b"flowRecords", 11):
                known = 128
                if not self.holder(t):
                    return 0
            elif not text.scalar(t):
                return 0
            if seen & known:
                return 0
            seen |= known | 1
            more = text.goes_on(t, b"}")
        if more < 0 or not seen & 128:
            return 0
        if found.log < 0:
            found.log = resource
        found.first_row = first_row
        found.end_row = self.row_count
        if self.record_count == self.records.shape[0]:
            with gil:
                self.grow_records()
        self.records[self.record_count] = found
        self.record_count += 1
        return 1

    cdef int holder(self, text.Text *t) except -1 nogil:
        """The object that holds the flows."""
        cdef text.Span key
        cdef bint seen = False
        cdef int more = 1, flows
        if not text.take(t, b"{"):
            return 0
        text.blanks(t)
        while more == 1:
            if not text.key(t, &key):
                return 0
            if text.equals(&key, b"flows", 5):
                if seen or not text.take(t, b"["):
                    return 0
                seen = True
                text.blanks(t)
                flows = 0 if text.take(t, b"]") else 1
                while flows == 1:
                    if not self.flow(t):
                        return 0
                    flows = text.goes_on(t, b"]")
                if flows < 0:
                    return 0
            elif not text.scalar(t):
                return 0
            more = text.goes_on(t, b"}")
        return more == 0 and seen

    cdef int flow(self, text.Text *t) except -1 nogil:
        """One access control list's groups."""
        cdef text.Span key
        cdef int seen = 0, known, more = 1, groups
        cdef int32_t acl = -1, first = self.group_count, number
        if not text.take(t, b"{"):
            return 0
        text.blanks(t)
        while more == 1:
            if not text.key(t, &key):
                return 0
            known = 0
            if text.equals(&key, b"aclID", 5):
                known = 1
                if not self.name(t, &acl):
                    return 0
            elif text.equals(&key, b"rule", 4):
                known = 2
                if not text.word(t, b"null"):
                    return 0
            elif text.equals(&key, b"flowGroups", 10):
                known = 4
                if not text.take(t, b"["):
                    return 0
                text.blanks(t)
                groups = 0 if text.take(t, b"]") else 1
                while groups == 1:
                    if not self.group(t):
                        return 0
                    groups = text.goes_on(t, b"]")
                if groups < 0:
                    return 0
            elif not text.scalar(t):
                return 0
            if seen & known:
                return 0
            seen |= known
            more = text.goes_on(t, b"}")
        for number in range(first, self.group_count):
            self.groups[number].acl = acl
        return more == 0 and seen & 4

    cdef int group(self, text.Text *t) except -1 nogil:
        """One rule's flow tuples."""
        cdef text.Span key
        cdef int seen = 0, known, more = 1, tuples
        cdef int32_t rule = -1, number = self.group_count
        if not text.take(t, b"{"):
            return 0
        if number == self.groups.shape[0]:
            with gil:
                self.grow_groups()
        self.groups[number].first_row = self.row_count
        self.group_count += 1
        text.blanks(t)
        while more == 1:
            if not text.key(t, &key):
                return 0
            known = 0
            if text.equals(&key, b"rule", 4):
                known = 1
                if not self.name(t, &rule):
                    return 0
            elif text.equals(&key, b"mac", 3):
                known = 2
                if not text.word(t, b"null"):
                    return 0
            elif text.equals(&key, b"flowTuples", 10):
                known = 4
                if not text.take(t, b"["):
                    return 0
                text.blanks(t)
                # Addresses are compared with those before in the same array.
                self.end_count = 0
                self.source.length = self.destination.length = 0
                tuples = 0 if text.take(t, b"]") else 1
                while tuples == 1:
                    if not self.flow_tuple(t, number):
                        return 0
                    tuples = text.goes_on(t, b"]")
                if tuples < 0:
                    return 0
                self.finish_group(&self.groups[number])
            elif not text.scalar(t):
                return 0
            if seen & known:
                return 0
            seen |= known
            more = text.goes_on(t, b"}")
        self.groups[number].rule = rule
        self.groups[number].record = self.record_count
        return more == 0 and seen & 4

    cdef int flow_tuple(self, text.Text *t, int32_t group) except -1 nogil:
        """One flow tuple as a row; its addresses are kept beside it until `finish_group`."""
        cdef Row *row
        cdef text.Span code
        cdef const uint8_t *begin = t.at
        cdef bint is_one
        if self.row_count == self.rows.shape[0]:
            with gil:
                self.grow_rows()
        if self.end_count + 2 > self.ends.shape[0]:
            with gil:
                self.grow_ends()
        row = &self.rows[self.row_count]
        t.at = tuple_fields(t.at, t.end, &self.limits, row, &self.source, &self.destination, &code, &is_one)
        if not is_one:
            return 0
        if self.source.start > begin:
            self.source.place = self.new_end(&self.source.address)
        if self.destination.start > begin:
            self.destination.place = self.new_end(&self.destination.address)
        row.source, row.destination = self.source.place, self.destination.place
        if code.length == 0:
            row.encryption = -1
        else:
            # Most tuples have the code of the one before.
            if code.length != self.code_text.length or memcmp(code.start, self.code_text.start, code.length) != 0:
                self.code = self.words.number(code.start, code.length)
                self.code_text = code
            row.encryption = self.code
        row.group = group
        row.restarted = 0
        self.row_count += 1
        return 1

    cdef inline int32_t new_end(self, const text.Address *address) except -1 nogil:
        """The place in this array of an address that is to be looked up."""
        self.ends[self.end_count] = address[0]
        self.end_count += 1
        return self.end_count - 1

    cdef int finish_group(self, Group *group) except -1 nogil:
        """What needs look-ups, for the rows of one array: in short loops, where one need not wait for another."""
        cdef int32_t number, before, first = group.first_row
        cdef Row *row
        cdef uint64_t hash
        cdef size_t slot
        group.end_row, group.encryption = self.row_count, -1
        if self.row_count == first:
            return 0
        group.encryption = self.rows[first].encryption
        self.addresses.numbers(&self.ends[0], self.end_count, &self.end_numbers[0])
        for number in range(first, self.row_count):
            row = &self.rows[number]
            row.source, row.destination = self.end_numbers[row.source], self.end_numbers[row.destination]
            if row.encryption != group.encryption:
                group.encryption = SEVERAL
            hash = mixed(self.words.seed, <uint64_t>row.time)
            hash = mixed(hash, <uint64_t><uint32_t>row.source << 32 | <uint32_t>row.destination)
            hash = mixed(hash, <uint64_t><uint32_t>row.source_port << 32 | <uint32_t>row.destination_port)
            slot = finished(hash) & (HEADS - 1)
            # An End becomes the first of its chain, without a branch, since no processor foresees the state of a flow tuple.
            before = self.heads[slot]
            row.earlier_end = before
            self.heads[slot] = number if row.state == END else before
            if (row.state == BEGIN) & (before >= first):
                self.match_restart(number, first, slot)
        return 0

    cdef int match_restart(self, int32_t number, int32_t first, size_t slot) except -1 nogil:
        """Mark the Ends of a chain before a Begin of the same flow and time in one array, as strict.restarted does."""
        cdef Row *row = &self.rows[number]
        cdef int32_t at = self.heads[slot], before = -1, following
        cdef Row *end
        while at >= first:
            end = &self.rows[at]
            following = end.earlier_end
            if (
                end.time == row.time
                and end.source == row.source
                and end.destination == row.destination
                and end.source_port == row.source_port
                and end.destination_port == row.destination_port
                and end.protocol == row.protocol
                and end.direction == row.direction
            ):
                end.restarted = 1
                self.restarted += 1
                # Out of the chain, so that many Begins do not walk over the same Ends again.
                if before < 0:
                    self.heads[slot] = following
                else:
                    self.rows[before].earlier_end = following
            else:
                before = at
            at = following
        return 0

    cdef int grow_rows(self) except -1:
        if self.row_count > MOST_ROWS // 2:
            raise OverflowError("too many flow tuples in one document")
        cdef Row[::1] rows = rows_room(2 * self.rows.shape[0])
        rows[: self.row_count] = self.rows
        self.rows = rows
        return 0

    cdef int grow_ends(self) except -1:
        cdef text.Address[::1] ends = addresses_room(2 * self.ends.shape[0])
        ends[: self.ends.shape[0]] = self.ends
        self.ends = ends
        self.end_numbers = array(shape=(ends.shape[0],), itemsize=4, format="i")
        return 0

    cdef int grow_groups(self) except -1:
        cdef Group[::1] groups = groups_room(2 * self.groups.shape[0])
        groups[: self.group_count] = self.groups
        self.groups = groups
        return 0

    cdef int grow_records(self) except -1:
        cdef Record[::1] records = records_room(2 * self.records.shape[0])
        records[: self.record_count] = self.records
        self.records = records
        return 0
