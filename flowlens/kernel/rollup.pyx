# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, initializedcheck=False, show_performance_hints=False
"""Flow tuples that a reader holds, summed by the keys of CONVERSATIONS."""

from cython.view cimport array
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from flowlens.kernel.reader cimport Columns, Reader
from flowlens.kernel.records cimport BEGIN, DENY, END, Row
from flowlens.kernel.words cimport MOST_ROWS, Addresses, Slot, empty_slots, finished, mixed, room, widened

cdef enum:
    BLOCK = 64

cdef enum:
    TUPLES, STARTED, ENDED, RESTARTED, DENIED, ANSWERED, UNANSWERED, SMALL_REPLY

TALLIES = (
    "flow_tuples",
    "flows_started",
    "flows_ended",
    "flows_restarted",
    "flows_denied",
    "tuples_answered",
    "tuples_unanswered",
    "tuples_small_reply",
)
COUNTERS = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
SOME_TIMES = ("first_traffic", "last_traffic", "last_answered", "last_unanswered")

cdef enum:
    FIRST_TRAFFIC, LAST_TRAFFIC, LAST_ANSWERED, LAST_UNANSWERED

cdef int64_t NEVER = -1, LATER = 2**63 - 1


cdef struct Key:
    int64_t ports
    int32_t source, destination, context
    uint32_t hash


cdef struct Cell:
    int64_t ports
    int32_t source, destination, context
    int32_t has
    uint32_t tallies[8]
    uint64_t counters[4]
    int64_t first_seen, last_seen
    int64_t times[4]


cdef Cell[::1] cells_room(size_t count):
    cdef Cell cell
    return room(<Cell[:1]>&cell, count)


cdef class Rollup:
    """Sums of flow tuples by context, addresses, service ports and protocol, until `clear`.

    ``ports`` of a key is made as in ``conversations``: service port, port of a reply candidate (each ``port_limit`` for none) and
    protocol in one number.
    """

    cdef Addresses addresses
    cdef Slot[::1] slots
    cdef Cell[::1] cells
    cdef int64_t port_limit, reply_source_below, reply_destination_from, small_reply, tuples, near
    cdef readonly int32_t count

    def __cinit__(self, int64_t port_limit, int64_t reply_source_below, int64_t reply_destination_from,
                  int64_t small_reply):
        self.port_limit = port_limit
        self.reply_source_below = reply_source_below
        self.reply_destination_from = reply_destination_from
        self.small_reply = small_reply
        self.addresses = Addresses()
        self.slots = empty_slots(2048)
        self.cells = cells_room(1024)
        self.clear()

    def clear(self):
        """Forget everything; the memory is used again."""
        self.addresses.clear()
        memset(&self.slots[0], 0, self.slots.shape[0] * sizeof(Slot))
        self.count = 0
        self.tuples = 0

    def add(self, Reader reader, const int32_t[::1] contexts, int64_t start, int64_t end):
        """Take the rows of ``reader`` from ``start`` to before ``end``; ``contexts`` are numbers for its own contexts."""
        cdef int32_t[::1] addresses = array(shape=(reader.addresses.count + 1,), itemsize=4, format="i")
        cdef int32_t at
        cdef Row *row
        if self.tuples > MOST_ROWS - reader.row_count:
            raise OverflowError("too many flow tuples in one rollup")
        self.tuples += reader.row_count
        cdef Key keys[BLOCK]
        cdef int32_t met[BLOCK]
        cdef int32_t first = 0, last
        cdef int64_t near = 0
        with nogil:
            if reader.addresses.count:
                self.addresses.numbers(&reader.addresses.known[0], reader.addresses.count, &addresses[0])
            while first < reader.row_count:
                last = min(first + BLOCK, reader.row_count)
                # As in Addresses.numbers, slots are looked up at once, and then what stands in them.
                for at in range(first, last):
                    row = &reader.rows[at]
                    self.make_key(
                        &keys[at - first], row, addresses[row.source], addresses[row.destination], contexts[row.context]
                    )
                for at in range(first, last):
                    met[at - first] = self.slots[keys[at - first].hash & <uint32_t>(self.slots.shape[0] - 1)].number
                for at in range(first, last):
                    if met[at - first]:
                        near ^= self.cells[met[at - first] - 1].ports ^ self.cells[met[at - first] - 1].last_seen
                        near ^= self.cells[met[at - first] - 1].times[LAST_UNANSWERED]
                for at in range(first, last):
                    row = &reader.rows[at]
                    if start <= row.time < end:
                        self.add_row(row, &keys[at - first])
                first = last
        self.near = near

    cdef inline void make_key(
        self, Key *key, const Row *row, int32_t source, int32_t destination, int32_t context
    ) noexcept nogil:
        cdef int64_t port = row.destination_port, reply_from = self.port_limit
        cdef uint64_t hash
        if 0 <= row.source_port < self.reply_source_below and port >= self.reply_destination_from:
            reply_from = row.source_port
            port = self.port_limit
        elif port < 0:
            port = self.port_limit
        key.ports = ((port * (self.port_limit + 1) + reply_from) << 8) | row.protocol
        key.source, key.destination, key.context = source, destination, context
        hash = mixed(self.addresses.seed, <uint64_t><uint32_t>source << 32 | <uint32_t>destination)
        key.hash = finished(mixed(mixed(hash, <uint64_t>key.ports), <uint64_t>context))

    cdef int add_row(self, const Row *row, const Key *key) except -1 nogil:
        cdef size_t mask = self.slots.shape[0] - 1, place = key.hash & mask
        cdef Slot *slot
        cdef Cell *cell
        cdef int counter
        while True:
            slot = &self.slots[place]
            if slot.number == 0:
                cell = self.new_cell(slot, key.hash)
                cell.ports, cell.source, cell.destination, cell.context = (
                    key.ports, key.source, key.destination, key.context
                )
                cell.first_seen = cell.last_seen = row.time
                break
            if slot.hash == key.hash:
                cell = &self.cells[slot.number - 1]
                if (
                    cell.source == key.source
                    and cell.destination == key.destination
                    and cell.ports == key.ports
                    and cell.context == key.context
                ):
                    break
            place = (place + 1) & mask
        self.sum_up(cell, row)
        return 0

    cdef inline void sum_up(self, Cell *cell, const Row *row) noexcept nogil:
        # Without branches, since no processor foresees the state of a flow tuple.
        cdef int64_t time = row.time, received = row.counters[2]
        cdef bint is_end = row.state == END, is_denied = row.state == DENY, is_started = row.state == BEGIN
        cdef bint is_traffic = not (is_started or is_denied)
        cdef bint is_answered = received > 0
        cdef bint is_unanswered = received == 0 and row.counters[0] > 0
        cdef bint is_there
        cdef int counter
        cell.tallies[TUPLES] += 1
        cell.tallies[STARTED] += is_started
        cell.tallies[DENIED] += is_denied
        cell.tallies[ENDED] += is_end
        cell.tallies[RESTARTED] += is_end & row.restarted
        cell.tallies[ANSWERED] += is_answered
        cell.tallies[UNANSWERED] += is_unanswered
        cell.tallies[SMALL_REPLY] += is_answered and 0 <= row.counters[3] < self.small_reply
        for counter in range(4):
            is_there = row.counters[counter] >= 0
            cell.counters[counter] += <uint64_t>row.counters[counter] if is_there else 0
            cell.has |= is_there << counter
        cell.first_seen = min(cell.first_seen, time)
        cell.last_seen = max(cell.last_seen, time)
        cell.times[FIRST_TRAFFIC] = min(cell.times[FIRST_TRAFFIC], time if is_traffic else LATER)
        cell.times[LAST_TRAFFIC] = max(cell.times[LAST_TRAFFIC], time if is_traffic else NEVER)
        cell.times[LAST_ANSWERED] = max(cell.times[LAST_ANSWERED], time if is_answered else NEVER)
        cell.times[LAST_UNANSWERED] = max(cell.times[LAST_UNANSWERED], time if is_unanswered else NEVER)

    cdef Cell *new_cell(self, Slot *slot, uint32_t short_hash) except NULL nogil:
        """An empty cell, entered in ``slot``."""
        cdef Cell *cell
        cdef int time
        if self.count == self.cells.shape[0]:
            with gil:
                self.grow()
        cell = &self.cells[self.count]
        memset(cell, 0, sizeof(Cell))
        for time in range(4):
            cell.times[time] = LATER if time == FIRST_TRAFFIC else NEVER
        self.count += 1
        slot.hash = short_hash
        slot.number = self.count
        if <size_t>self.count * 2 > <size_t>self.slots.shape[0]:
            with gil:
                self.slots = widened(self.slots)
        return cell

    cdef int grow(self) except -1:
        cdef Cell[::1] cells = cells_room(self.cells.shape[0] * 3 // 2)
        cells[: self.count] = self.cells
        self.cells = cells
        return 0

    def address_texts(self, allocate):
        """Offsets and bytes of the canonical text of each address."""
        return self.addresses.texts(allocate)

    def columns(self, allocate):
        """Each column of the sums as Arrow lays it out: name to validity bits, or None, and values."""
        cdef Columns columns = Columns(allocate, self.count)
        cdef int32_t[::1] source = columns.values("src_ip", "i", 4)
        cdef int32_t[::1] destination = columns.values("dst_ip", "i", 4)
        cdef int32_t[::1] context = columns.values("context", "i", 4)
        cdef int64_t[::1] ports = columns.values("ports", "q", 8)
        cdef int64_t[::1] first_seen = columns.values("first_seen", "q", 8)
        cdef int64_t[::1] last_seen = columns.values("last_seen", "q", 8)
        cdef int64_t[::1] values
        cdef uint8_t[::1] bits
        cdef int32_t at
        cdef int place
        cdef Cell *cell
        with nogil:
            for at in range(self.count):
                cell = &self.cells[at]
                source[at], destination[at], context[at] = cell.source, cell.destination, cell.context
                ports[at], first_seen[at], last_seen[at] = cell.ports, cell.first_seen, cell.last_seen
        for place, name in enumerate(TALLIES):
            values = columns.values(name, "q", 8)
            with nogil:
                for at in range(self.count):
                    values[at] = self.cells[at].tallies[place]
        for place, name in enumerate(COUNTERS):
            values, bits = columns.values(name, "q", 8), columns.validity(name)
            with nogil:
                for at in range(self.count):
                    values[at] = <int64_t>self.cells[at].counters[place]
                    bits[at >> 3] |= (self.cells[at].has >> place & 1) << (at & 7)
        for place, name in enumerate(SOME_TIMES):
            values, bits = columns.values(name, "q", 8), columns.validity(name)
            with nogil:
                for at in range(self.count):
                    values[at] = self.cells[at].times[place]
                    bits[at >> 3] |= (values[at] != NEVER and values[at] != LATER) << (at & 7)
        return columns.made
