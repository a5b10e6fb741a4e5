# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, initializedcheck=False, show_performance_hints=False
"""The compiled decoder and rollup of VNet flow logs; flowlens works the same without it, only slower.

`Reader` takes whole records whose every byte is as the format says and leaves all else, untouched, to the decoders in
``formats``. It rejects nothing and explains nothing. `Rollup` sums what a reader holds by the keys of CONVERSATIONS.

Every byte of input is read by `_here`, which knows the end; arrays are typed views whose bounds are checked. Hashes start from
a random seed, since whoever sends packets chooses the addresses.
"""

from cython.view cimport array
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import os

cdef enum:
    BEGIN = 0
    CONTINUING = 1
    END = 2
    DENY = 3
    LONGEST_ADDRESS = 40
    HEADS = 1 << 13
    LONGEST_KEY = 64
    LONGEST_CODE = 255
    BLOCK = 64

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
MOST_ROWS = 2**31 - 1
"""Rows that a reader or, between two times that it is cleared, a rollup may hold: their tallies have 32 bits."""

cdef enum:
    TUPLES, STARTED, ENDED, RESTARTED, DENIED, ANSWERED, UNANSWERED, SMALL_REPLY
cdef int64_t HOUR = 3_600_000_000
cdef uint64_t SECONDS_BELOW = 100_000_000_000
cdef uint64_t MOST_STAMP = 1_000_000_000_000_000
"""Milliseconds that still fit as microseconds."""
cdef int64_t NEVER = -1
cdef enum:
    AS_MOMENT = -2


cdef struct Limits:
    int64_t earliest, latest
    uint64_t port, protocol, counter
    int64_t record_bytes


cdef struct Text:
    const uint8_t *data
    size_t size
    size_t at


cdef struct Span:
    size_t start
    size_t length


cdef struct Slot:
    uint32_t hash
    int32_t number


cdef struct Place:
    uint64_t high, low
    int32_t number


cdef struct Address:
    uint64_t high, low


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


cdef struct Record:
    int64_t moment
    int32_t time, mac, target, log
    int64_t first_row, end_row


cdef struct Context:
    int64_t hour
    int32_t log, target, mac, rule, acl, encryption, direction, denied


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
    int64_t first_seen, last_seen, first_traffic, last_traffic, last_answered, last_unanswered


cdef array _room(sample, size_t count):
    """Memory for ``count`` elements like those of ``sample``."""
    form = memoryview(sample)
    return array(shape=(count,), itemsize=form.itemsize, format=form.format)


cdef Slot[::1] _slots(size_t count):
    """Empty slots."""
    cdef Slot slot
    cdef Slot[::1] made = _room(<Slot[:1]>&slot, count)
    memset(&made[0], 0, count * sizeof(Slot))
    return made


cdef Row[::1] _rows(size_t count):
    cdef Row row
    return _room(<Row[:1]>&row, count)


cdef Place[::1] _places(size_t count):
    """Empty places."""
    cdef Place place
    cdef Place[::1] made = _room(<Place[:1]>&place, count)
    memset(&made[0], 0, count * sizeof(Place))
    return made


cdef Address[::1] _addresses(size_t count):
    cdef Address address
    return _room(<Address[:1]>&address, count)


cdef Group[::1] _groups(size_t count):
    cdef Group group
    return _room(<Group[:1]>&group, count)


cdef Record[::1] _records(size_t count):
    cdef Record record
    return _room(<Record[:1]>&record, count)


cdef Cell[::1] _cells(size_t count):
    cdef Cell cell
    return _room(<Cell[:1]>&cell, count)


cdef uint8_t[::1] _bytes(size_t count):
    return array(shape=(count,), itemsize=1, format="B")


cdef inline uint64_t _mixed(uint64_t hash, uint64_t word) noexcept nogil:
    hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL
    return hash ^ (hash >> 29)


cdef inline uint32_t _finished(uint64_t hash) noexcept nogil:
    hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93ULL
    return <uint32_t>(hash >> 32)


cdef class Words:
    """Byte strings as numbers from 0 on, in the order in which they came."""

    cdef uint64_t seed
    cdef Slot[::1] slots
    cdef uint8_t[::1] pool
    cdef int64_t[::1] starts
    cdef int32_t count

    def __cinit__(self):
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.slots = _slots(1024)
        self.pool = _bytes(4096)
        self.starts = array(shape=(513,), itemsize=8, format="q")
        self.clear()

    cdef int clear(self) except -1:
        memset(&self.slots[0], 0, self.slots.shape[0] * sizeof(Slot))
        self.starts[0] = 0
        self.count = 0
        return 0

    cdef int32_t number(self, const void *text, size_t length) except -1 nogil:
        """The number of ``length`` bytes; they are copied where they are new."""
        cdef uint64_t hash = self.seed ^ length, word
        cdef size_t at = 0
        cdef uint32_t short_hash
        cdef Slot *slot
        cdef size_t mask = self.slots.shape[0] - 1
        cdef size_t place
        cdef int64_t start
        while at + 8 <= length:
            memcpy(&word, <const uint8_t *>text + at, 8)
            hash = _mixed(hash, word)
            at += 8
        if at < length:
            word = 0
            memcpy(&word, <const uint8_t *>text + at, length - at)
            hash = _mixed(hash, word)
        short_hash = _finished(hash)
        place = short_hash & mask
        while True:
            slot = &self.slots[place]
            if slot.number == 0:
                break
            if slot.hash == short_hash:
                start = self.starts[slot.number - 1]
                if <size_t>(self.starts[slot.number] - start) == length and (
                    memcmp(&self.pool[start], text, length) == 0
                ):
                    return slot.number - 1
            place = (place + 1) & mask
        start = self.starts[self.count]
        if start + <int64_t>length >= self.pool.shape[0] or self.count + 2 > self.starts.shape[0]:
            with gil:
                self.grow(length)
        memcpy(&self.pool[start], text, length)
        self.count += 1
        self.starts[self.count] = start + <int64_t>length
        slot.hash = short_hash
        slot.number = self.count
        if <size_t>self.count * 2 > mask:
            with gil:
                self.widen()
        return self.count - 1

    cdef int grow(self, size_t length) except -1:
        cdef int64_t used = self.starts[self.count]
        cdef uint8_t[::1] pool
        cdef int64_t[::1] starts
        if self.count == MOST_ROWS - 2:
            raise OverflowError("too many words")
        if used + <int64_t>length >= self.pool.shape[0]:
            pool = _bytes(2 * (used + length) + 1)
            memcpy(&pool[0], &self.pool[0], used)
            self.pool = pool
        if self.count + 2 > self.starts.shape[0]:
            starts = array(shape=(2 * self.starts.shape[0],), itemsize=8, format="q")
            starts[: self.count + 1] = self.starts[: self.count + 1]
            self.starts = starts
        return 0

    cdef int widen(self) except -1:
        self.slots = _widened(self.slots)
        return 0

    cdef bytes text(self, int32_t number):
        cdef int64_t start = self.starts[number]
        return (<const char *>&self.pool[start])[: self.starts[number + 1] - start]


cdef class Addresses:
    """Addresses as numbers from 0 on, in the order in which they came; the key stands in the slot, so that one look finds it."""

    cdef uint64_t seed
    cdef Place[::1] places
    cdef Address[::1] known
    cdef int32_t count

    def __cinit__(self):
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.places = _places(2048)
        self.known = _addresses(1024)
        self.count = 0

    cdef int clear(self) except -1:
        memset(&self.places[0], 0, self.places.shape[0] * sizeof(Place))
        self.count = 0
        return 0

    cdef inline size_t first_place(self, const Address *address) noexcept nogil:
        return _finished(_mixed(_mixed(self.seed, address.low), address.high))

    cdef int32_t number(self, const Address *address) except -1 nogil:
        cdef size_t mask = self.places.shape[0] - 1
        cdef size_t at = self.first_place(address) & mask
        cdef Place *place
        while True:
            place = &self.places[at]
            if place.number == 0:
                break
            if place.low == address.low and place.high == address.high:
                return place.number - 1
            at = (at + 1) & mask
        if self.count == self.known.shape[0]:
            with gil:
                self.grow()
                mask = self.places.shape[0] - 1
            at = self.first_place(address) & mask
            while self.places[at].number:
                at = (at + 1) & mask
            place = &self.places[at]
        self.known[self.count] = address[0]
        self.count += 1
        place.high, place.low, place.number = address.high, address.low, self.count
        return self.count - 1

    cdef int grow(self) except -1:
        """Room for twice as many; half of the places stay empty."""
        cdef Address[::1] known = _addresses(2 * self.known.shape[0])
        cdef Place[::1] places = _places(2 * self.places.shape[0])
        cdef size_t mask = places.shape[0] - 1, at
        cdef int32_t number
        if self.count > MOST_ROWS // 2:
            raise OverflowError("too many addresses")
        known[: self.count] = self.known
        with nogil:
            for number in range(self.count):
                at = self.first_place(&known[number]) & mask
                while places[at].number:
                    at = (at + 1) & mask
                places[at].high, places[at].low, places[at].number = known[number].high, known[number].low, number + 1
        self.known, self.places = known, places
        return 0

    def texts(self, allocate):
        """Offsets and bytes of the canonical text of each address, as Arrow lays them out."""
        offsets = _writable(allocate, 4 * (self.count + 1))
        cdef int32_t[::1] ends = offsets[1].cast("i")
        cdef uint8_t[::1] room = _bytes(LONGEST_ADDRESS * <size_t>self.count + 1)
        cdef uint8_t text[LONGEST_ADDRESS]
        cdef int32_t at
        cdef int64_t used = 0
        cdef int length
        if LONGEST_ADDRESS * <int64_t>self.count > MOST_ROWS:
            raise OverflowError("too many addresses")
        ends[0] = 0
        with nogil:
            for at in range(self.count):
                length = _write_address(text, &self.known[at])
                memcpy(&room[used], text, length)
                used += length
                ends[at + 1] = <int32_t>used
        made = _writable(allocate, used)
        made[1][:] = memoryview(room)[:used]
        return offsets[0], made[0]


cdef Slot[::1] _widened(Slot[::1] slots):
    """The same hashes and numbers in twice as many slots."""
    cdef Slot[::1] wide = _slots(2 * slots.shape[0])
    cdef size_t mask = wide.shape[0] - 1, place, at
    with nogil:
        for at in range(<size_t>slots.shape[0]):
            if slots[at].number:
                place = slots[at].hash & mask
                while wide[place].number:
                    place = (place + 1) & mask
                wide[place] = slots[at]
    return wide


cdef inline uint8_t _here(const Text *t) noexcept nogil:
    """The byte at hand; 0 behind the end, which no text holds unescaped."""
    return t.data[t.at] if t.at < t.size else 0


cdef inline bint _take(Text *t, uint8_t byte) noexcept nogil:
    if _here(t) != byte:
        return False
    t.at += 1
    return True


cdef inline void _blanks(Text *t) noexcept nogil:
    while _here(t) in (b" ", b"\n", b"\r", b"\t"):
        t.at += 1


cdef inline bint _string(Text *t, Span *span) noexcept nogil:
    """A string without escapes, quotes not included."""
    cdef uint8_t byte
    if not _take(t, b'"'):
        return False
    span.start = t.at
    while True:
        byte = _here(t)
        if byte == b'"':
            break
        if byte < 32 or byte == b"\\":
            return False
        t.at += 1
    span.length = t.at - span.start
    t.at += 1
    return True


cdef inline bint _word(Text *t, const char *word) noexcept nogil:
    while word[0]:
        if not _take(t, word[0]):
            return False
        word += 1
    return True


cdef bint _scalar(Text *t) noexcept nogil:
    """A value that holds no other; a number must be whole."""
    cdef Span span
    cdef uint8_t byte = _here(t)
    if byte == b'"':
        return _string(t, &span)
    if byte == b"n":
        return _word(t, b"null")
    if byte == b"t":
        return _word(t, b"true")
    if byte == b"f":
        return _word(t, b"false")
    if byte == b"-":
        t.at += 1
    if _take(t, b"0"):
        return True
    if not b"1" <= _here(t) <= b"9":
        return False
    while b"0" <= _here(t) <= b"9":
        t.at += 1
    return True


cdef inline bint _is(const Text *t, Span *span, const char *word, size_t length) noexcept nogil:
    return span.length == length and memcmp(t.data + span.start, word, length) == 0


cdef inline bint _key(Text *t, Span *key) noexcept nogil:
    """A key with its colon; the value is next."""
    if not _string(t, key):
        return False
    _blanks(t)
    if not _take(t, b":"):
        return False
    _blanks(t)
    return True


cdef inline int _goes_on(Text *t, uint8_t closer) noexcept nogil:
    """1 before another element, 0 behind the closer, -1 where neither is."""
    _blanks(t)
    if _take(t, b","):
        _blanks(t)
        return 1
    return 0 if _take(t, closer) else -1


cdef inline int _digits(Text *t, int most, uint64_t *value) noexcept nogil:
    """How many digits stand here, and their value; 99 where there are more than ``most``, which must be below 20."""
    cdef uint64_t number = 0
    cdef size_t at = t.at, end = t.at + most
    if end > t.size:
        end = t.size
    while at < end and b"0" <= t.data[at] <= b"9":
        number = number * 10 + (t.data[at] - c'0')
        at += 1
    cdef int count = <int>(at - t.at)
    t.at = at
    value[0] = number
    return 99 if b"0" <= _here(t) <= b"9" else count


cdef inline bint _ipv4(Text *t, Address *address) noexcept nogil:
    """A canonical IPv4 address up to its comma, as IPv6 maps it."""
    cdef uint64_t number = 0, part
    cdef int place, count
    cdef uint8_t first
    for place in range(4):
        first = _here(t)
        count = _digits(t, 3, &part)
        if count < 1 or count > 3 or part > 255 or (first == b"0" and count > 1):
            return False
        if not _take(t, b"," if place == 3 else b"."):
            return False
        number = number << 8 | part
    address.high = 0
    address.low = 0xFFFF00000000ULL | number
    return True


cdef inline bint _ipv6(Text *t, Address *address) noexcept nogil:
    """An IPv6 address of hexadecimal groups up to its comma."""
    cdef uint32_t groups[8]
    cdef int count = 0, gap = -1, digits, place, hidden
    cdef uint32_t value
    cdef uint8_t byte
    if _take(t, b":"):
        if not _take(t, b":"):
            return False
        gap = 0
    while not (gap == count and _here(t) == b","):
        value = 0
        digits = 0
        while digits < 4:
            byte = _here(t)
            if b"0" <= byte <= b"9":
                value = value << 4 | (byte - c'0')
            elif b"a" <= byte <= b"f":
                value = value << 4 | (byte - c'a' + 10)
            elif b"A" <= byte <= b"F":
                value = value << 4 | (byte - c'A' + 10)
            else:
                break
            digits += 1
            t.at += 1
        if digits == 0 or count == 8:
            return False
        groups[count] = value
        count += 1
        if _here(t) == b",":
            break
        if not _take(t, b":"):
            return False
        if _here(t) == b":":
            if gap >= 0:
                return False
            gap = count
            t.at += 1
    if count > 7 if gap >= 0 else count != 8:
        return False
    t.at += 1
    hidden = 8 - count
    address.high = address.low = 0
    for place in range(count):
        digits = place if gap < 0 or place < gap else place + hidden
        if digits < 4:
            address.high |= <uint64_t>groups[place] << (48 - 16 * digits)
        else:
            address.low |= <uint64_t>groups[place] << (112 - 16 * digits)
    return True


cdef inline bint _address(Text *t, Address *address) noexcept nogil:
    cdef size_t start = t.at
    if _ipv4(t, address):
        return True
    if t.at >= t.size:
        return False
    t.at = start
    return _ipv6(t, address)


cdef inline bint _port(Text *t, uint64_t limit, int32_t *port) noexcept nogil:
    """A port up to its comma; -1 where the field is empty."""
    cdef uint64_t number
    cdef int count = _digits(t, 5, &number)
    if count > 5 or number >= limit:
        return False
    port[0] = <int32_t>number if count else -1
    return _take(t, b",")


cdef inline int64_t _number(const uint8_t *text, int digits) noexcept nogil:
    """The value of so many digits, or something below 0."""
    cdef int64_t value = 0
    cdef int place
    for place in range(digits):
        if not b"0" <= text[place] <= b"9":
            return -(10**12)
        value = value * 10 + (text[place] - c'0')
    return value


cdef bint _moment(const uint8_t *text, size_t length, int64_t *micros) noexcept nogil:
    """Microseconds of an ISO time of the form that Azure writes, ``2022-09-14T09:00:52.5625085Z``, with fields.record_time's meaning."""
    cdef int64_t year, month, day, hour, minute, second, days, of_era, fraction = 0
    cdef size_t at
    cdef int digits = 0
    if not 22 <= length <= 32 or text[4] != b"-" or text[7] != b"-" or text[10] != b"T":
        return False
    if text[13] != b":" or text[16] != b":" or text[19] != b"." or text[length - 1] != b"Z":
        return False
    year, month, day = _number(text, 4), _number(text + 5, 2), _number(text + 8, 2)
    hour, minute, second = _number(text + 11, 2), _number(text + 14, 2), _number(text + 17, 2)
    # The days that every month has; the few others are for the slower way.
    if not (1970 <= year and 1 <= month <= 12 and 1 <= day <= 28):
        return False
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return False
    for at in range(20, length - 1):
        if not b"0" <= text[at] <= b"9":
            return False
        if digits < 6:
            fraction = fraction * 10 + (text[at] - c'0')
            digits += 1
    while digits < 6:
        fraction *= 10
        digits += 1
    # Years from March on, so that a leap day is the last of its year (Hinnant, "chrono-compatible low-level date algorithms").
    if month <= 2:
        year -= 1
    of_era = year % 400
    days = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days += of_era * 365 + of_era // 4 - of_era // 100 + year // 400 * 146_097 - 719_468
    micros[0] = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction
    return True


cdef inline bint _is_decision_state(const Text *t, Span *span) noexcept nogil:
    """Whether an NSG flow log writes this behind its decision, see nsg.DECISION_STATES."""
    return span.length == 0 or (span.length == 1 and t.data[span.start] in (b"B", b"C", b"E"))


cdef class Reader:
    """The flow tuples of clean VNet records, held until `clear`.

    ``limits``: earliest and latest time stamp in microseconds, and what port, protocol, counter and the bytes of a record
    stay below.
    """

    cdef Limits limits
    cdef Words words, contexts
    cdef Addresses addresses
    cdef Address[::1] ends
    cdef Row[::1] rows
    cdef Group[::1] groups
    cdef Record[::1] records
    cdef int32_t[::1] heads
    cdef int32_t group_count
    cdef readonly int32_t row_count, record_count, restarted

    def __cinit__(self, int64_t earliest, int64_t latest, uint64_t port, uint64_t protocol, uint64_t counter,
                  int64_t record_bytes):
        self.limits = Limits(earliest, latest, port, protocol, counter, record_bytes)
        self.words = Words()
        self.addresses = Addresses()
        self.contexts = Words()
        self.ends = _addresses(512)
        self.rows = _rows(4096)
        self.groups = _groups(256)
        self.records = _records(64)
        self.heads = array(shape=(HEADS,), itemsize=4, format="i")
        self.clear()

    def clear(self):
        """Forget all rows; the memory is used again."""
        self.words.clear()
        self.addresses.clear()
        self.contexts.clear()
        self.row_count = self.group_count = self.record_count = self.restarted = 0
        self.forget_ends()

    cdef int forget_ends(self) except -1 nogil:
        memset(&self.heads[0], 0xFF, HEADS * sizeof(int32_t))
        return 0

    def read(self, const uint8_t[::1] data, size_t start, size_t limit):
        """Take records from ``data[start:]`` on, blanks and commas between them, until ``limit`` bytes of records or more.

        Gives how many were taken, their bytes, where the last one starts and ends, and whether the end of ``data`` was met
        inside the next one. What is left stands unread behind the last one's end.
        """
        cdef Text t
        cdef size_t begin, last = start, end = start, taken = 0
        cdef int32_t rows, groups, restarted, before = self.record_count
        cdef bint unfinished = False
        if start >= <size_t>data.shape[0]:
            return 0, 0, start, start, True
        t.data = &data[0]
        t.size = data.shape[0]
        t.at = start
        with nogil:
            while taken < limit and _here(&t) == b"{":
                begin = t.at
                rows, groups, restarted = self.row_count, self.group_count, self.restarted
                if not self.record(&t) or <int64_t>(t.at - begin) > self.limits.record_bytes:
                    self.row_count, self.group_count, self.restarted = rows, groups, restarted
                    self.forget_ends()
                    unfinished = t.at >= t.size
                    break
                last, end = begin, t.at
                taken += end - begin
                while _here(&t) in (b" ", b"\n", b"\r", b"\t", b","):
                    t.at += 1
        return self.record_count - before, taken, last, end, unfinished

    cdef int text(self, Text *t, int32_t *word) except -1 nogil:
        """A string as the number of its word, or null as -1."""
        cdef Span span
        if _here(t) == b"n":
            word[0] = -1
            return _word(t, b"null")
        if not _string(t, &span):
            return 0
        word[0] = self.words.number(t.data + span.start, span.length)
        return 1

    cdef int moment(self, Text *t, Record *record) except -1 nogil:
        """A record's time, as a moment where it is plain, else as `text`."""
        cdef Text ahead = t[0]
        cdef Span span
        if _string(&ahead, &span) and _moment(t.data + span.start, span.length, &record.moment):
            record.time = AS_MOMENT
            t.at = ahead.at
            return 1
        return self.text(t, &record.time)

    cdef int record(self, Text *t) except -1 nogil:
        """1 where a whole record was taken, 0 where anything is not plainly one; the keys are those of fast.VnetRecord."""
        cdef Span key
        cdef int seen = 0, known, more = 1
        cdef size_t begin = t.at
        cdef int32_t first_row = self.row_count, resource = -1
        cdef Record found
        found.time = found.mac = found.target = found.log = -1
        t.at += 1
        _blanks(t)
        while more == 1:
            if not _key(t, &key):
                return 0
            if seen == 0 and (t.at - begin > 2 * LONGEST_KEY or key.length > LONGEST_KEY):
                return 0  # Where records start is learned from a short first key.
            known = 0
            if _is(t, &key, b"time", 4):
                known = 2
                if not self.moment(t, &found):
                    return 0
            elif _is(t, &key, b"macAddress", 10):
                known = 4
                if not self.text(t, &found.mac):
                    return 0
            elif _is(t, &key, b"targetResourceID", 16):
                known = 8
                if not self.text(t, &found.target):
                    return 0
            elif _is(t, &key, b"flowLogResourceID", 17):
                known = 16
                if not self.text(t, &found.log):
                    return 0
            elif _is(t, &key, b"resourceId", 10):
                known = 32
                if not self.text(t, &resource):
                    return 0
            elif _is(t, &key, b"resourceid", 10):
                known = 64
                if not _word(t, b"null"):
                    return 0
            elif _is(t, &key, b"flowRecords", 11):
                known = 128
                if not self.holder(t):
                    return 0
            elif not _scalar(t):
                return 0
            if seen & known:
                return 0
            seen |= known | 1
            more = _goes_on(t, b"}")
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

    cdef int holder(self, Text *t) except -1 nogil:
        """The object that holds the flows."""
        cdef Span key
        cdef bint seen = False
        cdef int more = 1, flows
        if not _take(t, b"{"):
            return 0
        _blanks(t)
        while more == 1:
            if not _key(t, &key):
                return 0
            if _is(t, &key, b"flows", 5):
                if seen or not _take(t, b"["):
                    return 0
                seen = True
                _blanks(t)
                flows = 0 if _take(t, b"]") else 1
                while flows == 1:
                    if not self.flow(t):
                        return 0
                    flows = _goes_on(t, b"]")
                if flows < 0:
                    return 0
            elif not _scalar(t):
                return 0
            more = _goes_on(t, b"}")
        return more == 0 and seen

    cdef int flow(self, Text *t) except -1 nogil:
        """One access control list's groups."""
        cdef Span key
        cdef int seen = 0, known, more = 1, groups
        cdef int32_t acl = -1, first = self.group_count, number
        if not _take(t, b"{"):
            return 0
        _blanks(t)
        while more == 1:
            if not _key(t, &key):
                return 0
            known = 0
            if _is(t, &key, b"aclID", 5):
                known = 1
                if not self.text(t, &acl):
                    return 0
            elif _is(t, &key, b"rule", 4):
                known = 2
                if not _word(t, b"null"):
                    return 0
            elif _is(t, &key, b"flowGroups", 10):
                known = 4
                if not _take(t, b"["):
                    return 0
                _blanks(t)
                groups = 0 if _take(t, b"]") else 1
                while groups == 1:
                    if not self.group(t):
                        return 0
                    groups = _goes_on(t, b"]")
                if groups < 0:
                    return 0
            elif not _scalar(t):
                return 0
            if seen & known:
                return 0
            seen |= known
            more = _goes_on(t, b"}")
        for number in range(first, self.group_count):
            self.groups[number].acl = acl
        return more == 0 and seen & 4

    cdef int group(self, Text *t) except -1 nogil:
        """One rule's flow tuples."""
        cdef Span key
        cdef int seen = 0, known, more = 1, tuples
        cdef int32_t rule = -1, first = self.row_count, number = self.group_count
        if not _take(t, b"{"):
            return 0
        if number == self.groups.shape[0]:
            with gil:
                self.grow_groups()
        self.group_count += 1
        _blanks(t)
        while more == 1:
            if not _key(t, &key):
                return 0
            known = 0
            if _is(t, &key, b"rule", 4):
                known = 1
                if not self.text(t, &rule):
                    return 0
            elif _is(t, &key, b"mac", 3):
                known = 2
                if not _word(t, b"null"):
                    return 0
            elif _is(t, &key, b"flowTuples", 10):
                known = 4
                if not _take(t, b"["):
                    return 0
                _blanks(t)
                tuples = 0 if _take(t, b"]") else 1
                while tuples == 1:
                    if not self.flow_tuple(t, number, first):
                        return 0
                    tuples = _goes_on(t, b"]")
                if tuples < 0:
                    return 0
                self.finish_group(first)
            elif not _scalar(t):
                return 0
            if seen & known:
                return 0
            seen |= known
            more = _goes_on(t, b"}")
        self.groups[number].rule = rule
        self.groups[number].record = self.record_count
        return more == 0 and seen & 4

    cdef int flow_tuple(self, Text *t, int32_t group, int32_t first) except -1 nogil:
        """One flow tuple of 13 fields, of 9 where its state carries no counters; fields as vnet.vnet_tuple reads them."""
        cdef Row *row
        cdef uint64_t number
        cdef Address source, destination
        cdef Span code
        cdef int count, place
        cdef int64_t end = 2 * <int64_t>(self.row_count - first)
        cdef uint8_t byte
        if self.row_count == self.rows.shape[0]:
            with gil:
                self.grow_rows()
        row = &self.rows[self.row_count]
        if not _take(t, b'"'):
            return 0
        count = _digits(t, 16, &number)
        if count < 1 or count > 16 or not _take(t, b","):
            return 0
        if number > MOST_STAMP:
            return 0
        if number < SECONDS_BELOW:
            number *= 1_000
        row.time = <int64_t>number * 1_000
        if row.time < self.limits.earliest or row.time >= self.limits.latest:
            return 0
        if not (_address(t, &source) and _address(t, &destination)):
            return 0
        if not (
            _port(t, self.limits.port, &row.source_port) and _port(t, self.limits.port, &row.destination_port)
        ):
            return 0
        count = _digits(t, 3, &number)
        if count < 1 or count > 3 or number >= self.limits.protocol or not _take(t, b","):
            return 0
        row.protocol = <int16_t>number
        byte = _here(t)
        if byte != b"I" and byte != b"O":
            return 0
        row.direction = byte == b"O"
        t.at += 1
        if not _take(t, b","):
            return 0
        byte = _here(t)
        if byte == b"C":
            row.state = CONTINUING
        elif byte == b"E":
            row.state = END
        elif byte == b"B":
            row.state = BEGIN
        elif byte == b"D":
            row.state = DENY
        else:
            return 0
        t.at += 1
        if not _take(t, b","):
            return 0
        code.start = t.at
        while True:
            byte = _here(t)
            if byte == b"," or byte == b'"':
                break
            if byte < 32 or byte > 126 or byte == b"\\":
                return 0
            t.at += 1
        code.length = t.at - code.start
        t.at += 1
        if code.length > LONGEST_CODE or (row.state == DENY and _is_decision_state(t, &code)):
            return 0
        if byte == b'"':
            if row.state != BEGIN and row.state != DENY:
                return 0
            for place in range(4):
                row.counters[place] = -1
        else:
            for place in range(4):
                count = _digits(t, 15, &number)
                if count > 15 or number >= self.limits.counter:
                    return 0
                if count == 0 or (number == 0 and (row.state == BEGIN or row.state == DENY)):
                    row.counters[place] = -1
                else:
                    row.counters[place] = <int64_t>number
                if place < 3 and not _take(t, b","):
                    return 0
            _take(t, b",")
            if not _take(t, b'"'):
                return 0
        row.encryption = self.words.number(t.data + code.start, code.length) if code.length else -1
        row.group = group
        row.restarted = 0
        if end + 2 > self.ends.shape[0]:
            with gil:
                self.grow_ends()
        self.ends[end], self.ends[end + 1] = source, destination
        self.row_count += 1
        return 1

    cdef int finish_group(self, int32_t first) except -1 nogil:
        """What needs look-ups, for the rows of one array from ``first`` on: in short loops, where one need not wait for another."""
        cdef int32_t at
        cdef int64_t end
        for at in range(first, self.row_count):
            end = 2 * <int64_t>(at - first)
            self.rows[at].source = self.addresses.number(&self.ends[end])
            self.rows[at].destination = self.addresses.number(&self.ends[end + 1])
        for at in range(first, self.row_count):
            if self.rows[at].state == END or self.rows[at].state == BEGIN:
                self.match_restart(at, first)
        return 0

    cdef int match_restart(self, int32_t number, int32_t first) except -1 nogil:
        """Mark the Ends before a Begin of the same flow and time in one array, as strict.restarted does."""
        cdef Row *row = &self.rows[number]
        cdef uint64_t hash = _mixed(self.words.seed, <uint64_t>row.time)
        cdef int32_t at, before = -1, following
        cdef Row *end
        hash = _mixed(hash, <uint64_t><uint32_t>row.source << 32 | <uint32_t>row.destination)
        hash = _mixed(hash, <uint64_t><uint32_t>row.source_port << 32 | <uint32_t>row.destination_port)
        cdef size_t slot = _finished(hash) & (HEADS - 1)
        at = self.heads[slot]
        if row.state == END:
            row.earlier_end = at
            self.heads[slot] = number
            return 0
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
        cdef Row[::1] rows = _rows(2 * self.rows.shape[0])
        rows[: self.row_count] = self.rows
        self.rows = rows
        return 0

    cdef int grow_ends(self) except -1:
        cdef Address[::1] ends = _addresses(2 * self.ends.shape[0])
        ends[: self.ends.shape[0]] = self.ends
        self.ends = ends
        return 0

    cdef int grow_groups(self) except -1:
        cdef Group[::1] groups = _groups(2 * self.groups.shape[0])
        groups[: self.group_count] = self.groups
        self.groups = groups
        return 0

    cdef int grow_records(self) except -1:
        cdef Record[::1] records = _records(2 * self.records.shape[0])
        records[: self.record_count] = self.records
        self.records = records
        return 0

    @property
    def states(self):
        """The letters of states, each at the place by which rows name it."""
        return "B", "C", "E", "D"

    @property
    def directions(self):
        """The letters of directions, each at the place by which rows name it."""
        return "I", "O"

    def word_list(self):
        """All words as bytes; numbers elsewhere are places in it, -1 is null."""
        return [self.words.text(number) for number in range(self.words.count)]

    def record_list(self):
        """For each record its time, the words of its MAC address, target and flow log, and how many rows it has.

        A time is a moment in microseconds with the word None, or 0 with its word.
        """
        cdef Record *record
        cdef list found = []
        cdef int32_t number
        for number in range(self.record_count):
            record = &self.records[number]
            found.append(
                (
                    record.moment if record.time == AS_MOMENT else 0,
                    None if record.time == AS_MOMENT else record.time,
                    record.mac,
                    record.target,
                    record.log,
                    record.end_row - record.first_row,
                )
            )
        return found

    def rows_inside(self, int64_t start, int64_t end):
        """For each record how many of its rows are from ``start`` to before ``end``."""
        cdef list found = []
        cdef int32_t number
        cdef int64_t at, inside
        for number in range(self.record_count):
            inside = 0
            for at in range(self.records[number].first_row, self.records[number].end_row):
                inside += start <= self.rows[at].time < end
            found.append(inside)
        return found

    def keep_ends(self, int64_t start, int64_t end):
        """Forget all rows but the Ends from ``start`` to before ``end``."""
        cdef int32_t at, kept = 0
        for at in range(self.row_count):
            if self.rows[at].state == END and start <= self.rows[at].time < end:
                self.rows[kept] = self.rows[at]
                kept += 1
        self.row_count = kept

    def encryption_counts(self):
        """How many rows have each word as encryption code."""
        cdef list counts = [0] * self.words.count
        cdef int64_t[::1] found = array(shape=(self.words.count + 1,), itemsize=8, format="q")
        cdef int32_t at
        found[:] = 0
        with nogil:
            for at in range(self.row_count):
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

    def columns(self, allocate):
        """Each column of the rows as Arrow lays it out: name to validity bits, or None, and values.

        There must be a row. Addresses are numbers, and so are records; directions and states are places in `directions` and
        `states`. Columns of text have a third part: the words that occur, and their values are places in it. ``allocate``
        gives writable memory of a size in bytes.
        """
        cdef int32_t n = self.row_count, at
        cdef int place
        cdef Row *row
        cdef Record *record
        cdef int32_t[::1] narrow
        cdef int64_t[::1] wide
        cdef int16_t[::1] short
        cdef uint8_t[::1] bits
        cdef dict made = {}
        for place, name in enumerate(("src_ip", "dst_ip", "direction", "flow_state", "record")):
            values = _writable(allocate, 4 * n)
            narrow = values[1].cast("i")
            with nogil:
                for at in range(n):
                    row = &self.rows[at]
                    if place == 0:
                        narrow[at] = row.source
                    elif place == 1:
                        narrow[at] = row.destination
                    elif place == 2:
                        narrow[at] = row.direction
                    elif place == 3:
                        narrow[at] = row.state
                    else:
                        narrow[at] = self.groups[row.group].record
            made[name] = None, values[0]
        for place, name in enumerate(("src_port", "dst_port")):
            values, validity = _writable(allocate, 4 * n), _writable(allocate, (n + 7) // 8)
            narrow, bits = values[1].cast("i"), validity[1]
            bits[:] = 0
            with nogil:
                for at in range(n):
                    narrow[at] = self.rows[at].destination_port if place else self.rows[at].source_port
                    bits[at >> 3] |= (narrow[at] >= 0) << (at & 7)
            made[name] = validity[0], values[0]
        for place, name in enumerate(COUNTERS):
            values, validity = _writable(allocate, 8 * n), _writable(allocate, (n + 7) // 8)
            wide, bits = values[1].cast("q"), validity[1]
            bits[:] = 0
            with nogil:
                for at in range(n):
                    wide[at] = self.rows[at].counters[place]
                    bits[at >> 3] |= (wide[at] >= 0) << (at & 7)
            made[name] = validity[0], values[0]
        for place, name in enumerate(
            ("encryption_code", "acl_rule", "acl_id", "mac_address", "target_resource_id", "flow_log_id")
        ):
            values = _writable(allocate, 4 * n)
            narrow = values[1].cast("i")
            with nogil:
                for at in range(n):
                    row = &self.rows[at]
                    record = &self.records[self.groups[row.group].record]
                    if place == 0:
                        narrow[at] = row.encryption
                    elif place == 1:
                        narrow[at] = self.groups[row.group].rule
                    elif place == 2:
                        narrow[at] = self.groups[row.group].acl
                    elif place == 3:
                        narrow[at] = record.mac
                    elif place == 4:
                        narrow[at] = record.target
                    else:
                        narrow[at] = record.log
            validity = _writable(allocate, (n + 7) // 8)
            made[name] = validity[0], values[0], self.occurring(narrow, validity[1])
        values = _writable(allocate, 8 * n)
        wide = values[1].cast("q")
        protocols, restarts = _writable(allocate, 2 * n), _writable(allocate, (n + 7) // 8)
        short, bits = protocols[1].cast("h"), restarts[1]
        bits[:] = 0
        with nogil:
            for at in range(n):
                row = &self.rows[at]
                wide[at] = row.time
                short[at] = row.protocol
                bits[at >> 3] |= row.restarted << (at & 7)
        made["time"] = None, values[0]
        made["protocol"] = None, protocols[0]
        made["restarted"] = None, restarts[0]
        return made

    cdef list occurring(self, int32_t[::1] words, uint8_t[::1] validity):
        """The words that occur, in order of arrival; ``words`` become places among them, and nulls 0."""
        cdef int32_t[::1] place_of = array(shape=(self.words.count + 1,), itemsize=4, format="i")
        cdef int32_t[::1] found = array(shape=(self.words.count + 1,), itemsize=4, format="i")
        cdef int32_t at, word, count = 0
        place_of[:] = -1
        validity[:] = 0
        with nogil:
            for at in range(<int32_t>words.shape[0]):
                word = words[at]
                if word < 0:
                    words[at] = 0
                    continue
                if place_of[word] < 0:
                    place_of[word] = count
                    found[count] = word
                    count += 1
                words[at] = place_of[word]
                validity[at >> 3] |= 1 << (at & 7)
        return [found[at] for at in range(count)]


def _writable(allocate, size):
    """What ``allocate`` made, and its bytes to be written."""
    made = allocate(size)
    return made, memoryview(made).cast("B")


cdef int _write_decimal(uint8_t *out, uint32_t number) noexcept nogil:
    """Digits of a number below 256."""
    cdef int length = 0
    if number >= 100:
        out[length] = <uint8_t>(c'0' + number // 100)
        length += 1
    if number >= 10:
        out[length] = <uint8_t>(c'0' + number // 10 % 10)
        length += 1
    out[length] = <uint8_t>(c'0' + number % 10)
    return length + 1


cdef inline uint32_t _group_of(const Address *address, int place) noexcept nogil:
    cdef uint64_t half = address.high if place < 4 else address.low
    return <uint32_t>(half >> (48 - 16 * (place & 3))) & 0xFFFF


cdef int _write_address(uint8_t *out, const Address *address) noexcept nogil:
    """Canonical text of an address in at most 39 bytes: IPv4 where IPv6 maps it, else as RFC 5952 has it."""
    cdef int length = 0, place, run = 0, longest = 1, start = -1, shift
    cdef uint32_t group
    cdef bint begun
    if address.high == 0 and address.low >> 32 == 0xFFFF:
        for place in range(4):
            if place:
                out[length] = b"."
                length += 1
            length += _write_decimal(out + length, <uint32_t>(address.low >> (24 - 8 * place)) & 255)
        return length
    for place in range(8):
        group = _group_of(address, place)
        run = run + 1 if group == 0 else 0
        if run > longest:
            longest = run
            start = place - run + 1
    place = 0
    while place < 8:
        if place == start:
            out[length] = b":"
            out[length + 1] = b":"
            length += 2
            place += longest
            continue
        if place and (start < 0 or place != start + longest):
            out[length] = b":"
            length += 1
        group = _group_of(address, place)
        begun = False
        for shift in range(12, -1, -4):
            if begun or shift == 0 or group >> shift & 15:
                begun = True
                run = group >> shift & 15
                out[length] = <uint8_t>(c'0' + run if run < 10 else c'a' + run - 10)
                length += 1
        place += 1
    return length


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
        self.slots = _slots(2048)
        self.cells = _cells(1024)
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
            for at in range(reader.addresses.count):
                addresses[at] = self.addresses.number(&reader.addresses.known[at])
            while first < reader.row_count:
                last = min(first + BLOCK, reader.row_count)
                # Look-ups in large tables wait for memory. So each block makes them all at once, one not waiting for another,
                # and what they find is near when it is wanted.
                for at in range(first, last):
                    row = &reader.rows[at]
                    self.make_key(
                        &keys[at - first], row, addresses[row.source], addresses[row.destination], contexts[row.context]
                    )
                    met[at - first] = self.slots[keys[at - first].hash & <uint32_t>(self.slots.shape[0] - 1)].number
                for at in range(first, last):
                    if met[at - first]:
                        near ^= self.cells[met[at - first] - 1].ports ^ self.cells[met[at - first] - 1].last_unanswered
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
        hash = _mixed(self.addresses.seed, <uint64_t><uint32_t>source << 32 | <uint32_t>destination)
        key.hash = _finished(_mixed(_mixed(hash, <uint64_t>key.ports), <uint64_t>context))

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
        cell.tallies[TUPLES] += 1
        cell.first_seen = min(cell.first_seen, row.time)
        cell.last_seen = max(cell.last_seen, row.time)
        if row.state == BEGIN:
            cell.tallies[STARTED] += 1
        elif row.state == DENY:
            cell.tallies[DENIED] += 1
        else:
            if row.state == END:
                cell.tallies[ENDED] += 1
                cell.tallies[RESTARTED] += row.restarted
            if cell.first_traffic == NEVER or row.time < cell.first_traffic:
                cell.first_traffic = row.time
            cell.last_traffic = max(cell.last_traffic, row.time)
        for counter in range(4):
            if row.counters[counter] >= 0:
                cell.counters[counter] += <uint64_t>row.counters[counter]
                cell.has |= 1 << counter
        if row.counters[2] > 0:
            cell.tallies[ANSWERED] += 1
            cell.last_answered = max(cell.last_answered, row.time)
            if 0 <= row.counters[3] < self.small_reply:
                cell.tallies[SMALL_REPLY] += 1
        elif row.counters[2] == 0 and row.counters[0] > 0:
            cell.tallies[UNANSWERED] += 1
            cell.last_unanswered = max(cell.last_unanswered, row.time)
        return 0

    cdef Cell *new_cell(self, Slot *slot, uint32_t short_hash) except NULL nogil:
        """An empty cell, entered in ``slot``."""
        cdef Cell *cell
        if self.count == self.cells.shape[0]:
            with gil:
                self.grow()
        cell = &self.cells[self.count]
        memset(cell, 0, sizeof(Cell))
        cell.first_traffic = cell.last_traffic = cell.last_answered = cell.last_unanswered = NEVER
        self.count += 1
        slot.hash = short_hash
        slot.number = self.count
        if <size_t>self.count * 2 > <size_t>self.slots.shape[0]:
            with gil:
                self.slots = _widened(self.slots)
        return cell

    cdef int grow(self) except -1:
        cdef Cell[::1] cells = _cells(self.cells.shape[0] * 3 // 2)
        cells[: self.count] = self.cells
        self.cells = cells
        return 0

    def address_texts(self, allocate):
        """Offsets and bytes of the canonical text of each address."""
        return self.addresses.texts(allocate)

    def columns(self, allocate):
        """Each column of the sums as Arrow lays it out: name to validity bits, or None, and values."""
        cdef dict made = {}
        cdef int32_t n = self.count, at
        cdef int place
        cdef int64_t value
        cdef int64_t[::1] wide
        cdef int32_t[::1] narrow
        cdef uint8_t[::1] bits
        cdef Cell *cell
        for place, name in enumerate(("src_ip", "dst_ip", "context")):
            values = _writable(allocate, 4 * n)
            narrow = values[1].cast("i")
            for at in range(n):
                cell = &self.cells[at]
                narrow[at] = cell.source if place == 0 else cell.destination if place == 1 else cell.context
            made[name] = (None, values[0])
        for place, name in enumerate(("ports", *TALLIES)):
            values = _writable(allocate, 8 * n)
            wide = values[1].cast("q")
            for at in range(n):
                wide[at] = self.cells[at].tallies[place - 1] if place else self.cells[at].ports
            made[name] = (None, values[0])
        for place, name in enumerate(
            (
                *COUNTERS,
                *("first_seen", "last_seen", "first_traffic", "last_traffic", "last_answered", "last_unanswered"),
            )
        ):
            values, validity = _writable(allocate, 8 * n), _writable(allocate, (n + 7) // 8)
            wide, bits = values[1].cast("q"), validity[1]
            bits[:] = 0
            for at in range(n):
                cell = &self.cells[at]
                if place < 4:
                    value = <int64_t>cell.counters[place]
                    bits[at >> 3] |= (cell.has >> place & 1) << (at & 7)
                else:
                    if place == 4:
                        value = cell.first_seen
                    elif place == 5:
                        value = cell.last_seen
                    elif place == 6:
                        value = cell.first_traffic
                    elif place == 7:
                        value = cell.last_traffic
                    elif place == 8:
                        value = cell.last_answered
                    else:
                        value = cell.last_unanswered
                    bits[at >> 3] |= (value != NEVER) << (at & 7)
                wide[at] = value
            made[name] = (validity[0], values[0])
        return made
