# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, initializedcheck=False, show_performance_hints=False
"""What a reader holds, as columns, contexts and records."""

from cython.view cimport array
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t
from libc.string cimport memcpy, memset

from flowlens.kernel.records cimport AS_MOMENT, DENY, END, SEVERAL, Group, Record, Records, Row
from flowlens.kernel.words cimport Words, writable

cdef int64_t HOUR = 3_600_000_000


cdef struct Context:
    int64_t hour
    int32_t log, target, mac, rule, acl, encryption, direction, denied


ctypedef fused Number:
    int32_t
    int64_t


cdef int mark_from(const Number[::1] values, int64_t least, uint8_t[::1] bits) except -1 nogil:
    """Set the bit of each value that is not below ``least``, and of no other; byte by byte, since bits one by one wait for each other."""
    cdef Py_ssize_t byte, at
    cdef uint8_t found
    for byte in range(bits.shape[0]):
        found = 0
        for at in range(8 * byte, min(8 * byte + 8, values.shape[0])):
            found |= (values[at] >= least) << (at & 7)
        bits[byte] = found
    return 0


cdef class Columns:
    """Columns as Arrow lays them out, made empty and filled where they stand: name to validity bits, or None, and values."""

    def __cinit__(self, allocate, size_t rows):
        self.allocate = allocate
        self.rows = rows
        self.made = {}

    cdef values(self, str name, str form, size_t width):
        """Room for the values of a new column."""
        memory, view = writable(self.allocate, width * self.rows)
        self.made[name] = [None, memory]
        return view.cast(form)

    cdef uint8_t[::1] validity(self, str name):
        """Room for the validity bits of a column, all 0."""
        memory, view = writable(self.allocate, (self.rows + 7) // 8)
        self.made[name][0] = memory
        cdef uint8_t[::1] bits = view
        bits[:] = 0
        return bits


cdef class Repeated:
    """A column of words, each mostly that of the row before: written stretch by stretch, and the words that were met, in order."""

    def __cinit__(self, Columns columns, str name, size_t words):
        self.values, self.bits = columns.values(name, "i", 4), columns.validity(name)
        self.bits[:] = 255
        self.places = array(shape=(words + 1,), itemsize=4, format="i")
        self.places[:] = -1
        self.found = []
        self.word = self.place = -1
        columns.made[name].append(self.found)

    cdef int turn(self, Py_ssize_t row, int32_t word) except -1 nogil:
        """Rows from this one on have this word, -1 for none."""
        if word == self.word:
            return 0
        self.fill(row)
        self.word, self.place = word, -1
        if word >= 0:
            if self.places[word] < 0:
                with gil:
                    self.places[word] = len(self.found)
                    self.found.append(word)
            self.place = self.places[word]
        return 0

    cdef int fill(self, Py_ssize_t end) except -1 nogil:
        """Write what is due before row number ``end``."""
        cdef Py_ssize_t at
        cdef int32_t place = max(self.place, 0)
        for at in range(self.filled, end):
            self.values[at] = place
        if self.place < 0:
            for at in range(self.filled, end):
                self.bits[at >> 3] &= ~(1 << (at & 7))
        self.filled = end
        return 0


cdef class Reader(Records):
    """Records, and what they hold."""

    def __cinit__(self, *_limits):
        self.contexts = Words()

    @property
    def states(self):
        """The letters of states, each at the place by which rows name it."""
        return "B", "C", "E", "D"

    @property
    def directions(self):
        """The letters of directions, each at the place by which rows name it."""
        return "I", "O"

    def word_list(self, int32_t first):
        """All words from number ``first`` on as bytes; numbers elsewhere are places among all of them, -1 is null."""
        cdef int32_t number
        return [self.words.text(number) for number in range(first, self.words.count)]

    def record_list(self, int32_t first):
        """For each record from number ``first`` on its time, the words of its MAC address, target and flow log, and its first row
        and the one behind its last.

        A time is a moment in microseconds with the word None, or 0 with its word.
        """
        cdef Record *record
        cdef list found = []
        cdef int32_t number
        for number in range(first, self.record_count):
            record = &self.records[number]
            found.append(
                (
                    record.moment if record.time == AS_MOMENT else 0,
                    None if record.time == AS_MOMENT else record.time,
                    record.mac,
                    record.target,
                    record.log,
                    record.first_row,
                    record.end_row,
                )
            )
        return found

    def rows_inside(self, int32_t first, int32_t behind, int64_t start, int64_t end):
        """For each record from number ``first`` to before ``behind`` how many of its rows are from ``start`` to before ``end``."""
        cdef int64_t[::1] found = array(shape=(behind - first + 1,), itemsize=8, format="q")
        cdef int32_t number
        cdef int64_t at, inside
        # No row has a time outside the limits.
        cdef bint is_all = start <= self.limits.earliest and self.limits.latest <= end
        with nogil:
            for number in range(first, behind):
                if is_all:
                    found[number - first] = self.records[number].end_row - self.records[number].first_row
                    continue
                inside = 0
                for at in range(self.records[number].first_row, self.records[number].end_row):
                    inside += start <= self.rows[at].time < end
                found[number - first] = inside
        return [found[number] for number in range(behind - first)]

    def keep_ends(self, int64_t start, int64_t end):
        """Forget all rows but the Ends from ``start`` to before ``end``; records keep none."""
        cdef int32_t at, kept = 0
        with nogil:
            for at in range(self.row_count):
                if self.rows[at].state == END and start <= self.rows[at].time < end:
                    self.rows[kept] = self.rows[at]
                    kept += 1
        self.row_count = kept

    def encryption_counts(self, int32_t first):
        """How many rows of the records from number ``first`` on have each word as encryption code."""
        cdef int64_t[::1] found = array(shape=(self.words.count + 1,), itemsize=8, format="q")
        cdef int32_t number, at
        cdef Group *group
        found[:] = 0
        with nogil:
            for number in range(self.group_count - 1, -1, -1):
                group = &self.groups[number]
                if group.record < first:
                    break
                if group.encryption != SEVERAL:
                    found[group.encryption + 1] += group.end_row - group.first_row
                    continue
                for at in range(group.first_row, group.end_row):
                    found[self.rows[at].encryption + 1] += 1
        return {number: found[number + 1] for number in range(self.words.count) if found[number + 1]}

    def context_list(self, const int64_t[::1] edges):
        """Give each row the number of its context; for each number its bucket in microseconds, the words of flow log, target,
        MAC address, rule, acl and encryption code, the place of its direction, and whether it was denied.

        Buckets start at full hours and at the sorted ``edges`` in microseconds.
        """
        cdef Context key
        cdef int64_t time, full = 0
        cdef int32_t at, group = -1, number = 0
        cdef Py_ssize_t edge
        cdef Row *row
        cdef Group *of_group
        cdef Record *of_record
        cdef list found = []
        memset(&key, 0, sizeof(Context))
        self.contexts.clear()
        with nogil:
            for at in range(self.row_count):
                row = &self.rows[at]
                time = row.time
                if not key.hour <= time < full:
                    key.hour = time - time % HOUR
                    full = key.hour + HOUR
                    for edge in range(edges.shape[0]):
                        if key.hour < edges[edge] <= time:
                            key.hour = edges[edge]
                        elif time < edges[edge] < full:
                            full = edges[edge]
                    group = -1
                if (
                    row.group != group
                    or row.encryption != key.encryption
                    or row.direction != key.direction
                    or (row.state == DENY) != key.denied
                ):
                    group = row.group
                    of_group = &self.groups[group]
                    of_record = &self.records[of_group.record]
                    key.log, key.target, key.mac = of_record.log, of_record.target, of_record.mac
                    key.rule, key.acl = of_group.rule, of_group.acl
                    key.encryption, key.direction, key.denied = row.encryption, row.direction, row.state == DENY
                    number = self.contexts.number(&key, sizeof(Context))
                row.context = number
        for number in range(self.contexts.count):
            memcpy(&key, &self.contexts.pool[number * <int64_t>sizeof(Context)], sizeof(Context))
            found.append(
                (key.hour, key.log, key.target, key.mac, key.rule, key.acl, key.encryption, key.direction, key.denied)
            )
        return found

    def address_texts(self, allocate):
        """Offsets and bytes of the canonical text of each address."""
        return self.addresses.texts(allocate)

    def columns(self, allocate, int64_t first, int64_t end, const int64_t[::1] times, int64_t none):
        """Each column of the rows from ``first`` to before ``end`` as Arrow lays it out: validity bits, or None, and values.

        There must be a row. Addresses are numbers; directions, states and statuses (allowed, denied) are places. ``times`` are
        microseconds by record, ``none`` among them says that there is none. Columns of text have a third part: the words that occur, and their values
        are places in it. ``allocate`` gives writable memory of a size in bytes.
        """
        cdef Columns columns = Columns(allocate, end - first)
        cdef int64_t[::1] time = columns.values("time", "q", 8)
        cdef int32_t[::1] source = columns.values("src_ip", "i", 4)
        cdef int32_t[::1] destination = columns.values("dst_ip", "i", 4)
        cdef int32_t[::1] source_port = columns.values("src_port", "i", 4)
        cdef int32_t[::1] destination_port = columns.values("dst_port", "i", 4)
        cdef int16_t[::1] protocol = columns.values("protocol", "h", 2)
        cdef int32_t[::1] direction = columns.values("direction", "i", 4)
        cdef int32_t[::1] state = columns.values("flow_state", "i", 4)
        cdef int32_t[::1] status = columns.values("flow_status", "i", 4)
        cdef int64_t[::1] packets_sent = columns.values("packets_sent", "q", 8)
        cdef int64_t[::1] bytes_sent = columns.values("bytes_sent", "q", 8)
        cdef int64_t[::1] packets_received = columns.values("packets_received", "q", 8)
        cdef int64_t[::1] bytes_received = columns.values("bytes_received", "q", 8)
        cdef int64_t[::1] record_time = columns.values("record_time", "q", 8)
        columns.made["restarted"] = [None, None]
        cdef uint8_t[::1] restarted = columns.validity("restarted")
        cdef size_t words = self.words.count
        cdef Repeated codes = Repeated(columns, "encryption_code", words)
        cdef Repeated rules = Repeated(columns, "acl_rule", words), acls = Repeated(columns, "acl_id", words)
        cdef Repeated macs = Repeated(columns, "mac_address", words)
        cdef Repeated targets = Repeated(columns, "target_resource_id", words)
        cdef Repeated logs = Repeated(columns, "flow_log_id", words)
        cdef int64_t at, moment = none
        cdef int32_t group = -1
        cdef Row *row
        cdef Record *record
        with nogil:
            for at in range(end - first):
                row = &self.rows[first + at]
                if row.group != group:
                    group = row.group
                    record = &self.records[self.groups[group].record]
                    rules.turn(at, self.groups[group].rule)
                    acls.turn(at, self.groups[group].acl)
                    macs.turn(at, record.mac)
                    targets.turn(at, record.target)
                    logs.turn(at, record.log)
                    moment = times[self.groups[group].record]
                codes.turn(at, row.encryption)
                time[at], record_time[at] = row.time, moment
                source[at], destination[at] = row.source, row.destination
                source_port[at], destination_port[at] = row.source_port, row.destination_port
                protocol[at] = row.protocol
                direction[at], state[at], status[at] = row.direction, row.state, row.state == DENY
                packets_sent[at], bytes_sent[at] = row.counters[0], row.counters[1]
                packets_received[at], bytes_received[at] = row.counters[2], row.counters[3]
                if row.restarted:
                    restarted[at >> 3] |= 1 << (at & 7)
        cdef Repeated each
        for each in (codes, rules, acls, macs, targets, logs):
            each.fill(end - first)
        mark_from(source_port, 0, columns.validity("src_port"))
        mark_from(destination_port, 0, columns.validity("dst_port"))
        mark_from(packets_sent, 0, columns.validity("packets_sent"))
        mark_from(bytes_sent, 0, columns.validity("bytes_sent"))
        mark_from(packets_received, 0, columns.validity("packets_received"))
        mark_from(bytes_received, 0, columns.validity("bytes_received"))
        mark_from(record_time, none + 1, columns.validity("record_time"))
        # A column of bits has its values where others have their validity.
        columns.made["restarted"].reverse()
        return columns.made
