# cython: language_level=3, boundscheck=True, wraparound=False, cdivision=True, initializedcheck=False, show_performance_hints=False
"""Byte strings and addresses as numbers, and memory whose bounds are checked.

Hashes start from a random seed, since whoever sends packets chooses the addresses.
"""

from cython.view cimport array
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from flowlens.kernel.text cimport Address

import os

cdef enum:
    LONGEST_ADDRESS = 40
    BLOCK = 64


cdef array room(sample, size_t count):
    """Memory for ``count`` elements like those of ``sample``."""
    form = memoryview(sample)
    return array(shape=(count,), itemsize=form.itemsize, format=form.format)


cdef Slot[::1] empty_slots(size_t count):
    cdef Slot slot
    cdef Slot[::1] made = room(<Slot[:1]>&slot, count)
    memset(&made[0], 0, count * sizeof(Slot))
    return made


cdef Place[::1] empty_places(size_t count):
    cdef Place place
    cdef Place[::1] made = room(<Place[:1]>&place, count)
    memset(&made[0], 0, count * sizeof(Place))
    return made


cdef Address[::1] addresses_room(size_t count):
    cdef Address address
    return room(<Address[:1]>&address, count)


cdef uint8_t[::1] bytes_room(size_t count):
    return array(shape=(count,), itemsize=1, format="B")


cdef uint64_t random_seed() except? 0:
    return int.from_bytes(os.urandom(8), "little")


cdef tuple writable(allocate, size_t size):
    """What ``allocate`` made, and its bytes to be written."""
    made = allocate(size)
    return made, memoryview(made).cast("B")


cdef class Words:
    """Byte strings as numbers from 0 on, in the order in which they came."""

    def __cinit__(self):
        self.seed = random_seed()
        self.slots = empty_slots(1024)
        self.pool = bytes_room(4096)
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
            hash = mixed(hash, word)
            at += 8
        if at < length:
            word = 0
            memcpy(&word, <const uint8_t *>text + at, length - at)
            hash = mixed(hash, word)
        short_hash = finished(hash)
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
            pool = bytes_room(2 * (used + length) + 1)
            memcpy(&pool[0], &self.pool[0], used)
            self.pool = pool
        if self.count + 2 > self.starts.shape[0]:
            starts = array(shape=(2 * self.starts.shape[0],), itemsize=8, format="q")
            starts[: self.count + 1] = self.starts[: self.count + 1]
            self.starts = starts
        return 0

    cdef int widen(self) except -1:
        self.slots = widened(self.slots)
        return 0

    cdef bytes text(self, int32_t number):
        cdef int64_t start = self.starts[number]
        return (<const char *>&self.pool[start])[: self.starts[number + 1] - start]


cdef class Addresses:
    """Addresses as numbers from 0 on, in the order in which they came; the key stands in the slot, so that one look finds it."""

    def __cinit__(self):
        self.seed = random_seed()
        self.places = empty_places(2048)
        self.known = addresses_room(1024)
        self.count = 0

    cdef int clear(self) except -1:
        memset(&self.places[0], 0, self.places.shape[0] * sizeof(Place))
        self.count = 0
        return 0

    cdef inline uint32_t hashed(self, const Address *address) noexcept nogil:
        return finished(mixed(mixed(self.seed, address.low), address.high))

    cdef int numbers(self, const Address *found, size_t count, int32_t *numbers) except -1 nogil:
        """The numbers of so many addresses.

        Look-ups in large tables wait for memory. So each block makes them all at once, one not waiting for another, and what they
        find is near when it is wanted.
        """
        cdef uint32_t hashes[BLOCK]
        cdef size_t done = 0, block, at, mask
        cdef uint64_t near = 0
        while done < count:
            block = min(count - done, <size_t>BLOCK)
            for at in range(block):
                hashes[at] = self.hashed(&found[done + at])
            mask = self.places.shape[0] - 1
            for at in range(block):
                near ^= self.places[hashes[at] & mask].low
            for at in range(block):
                numbers[done + at] = self.number(&found[done + at], hashes[at])
            done += block
        self.near = near
        return 0

    cdef inline int32_t number(self, const Address *address, uint32_t hash) except -1 nogil:
        cdef size_t mask = self.places.shape[0] - 1
        cdef size_t at = hash & mask
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
            at = hash & mask
            while self.places[at].number:
                at = (at + 1) & mask
            place = &self.places[at]
        self.known[self.count] = address[0]
        self.count += 1
        place.high, place.low, place.number = address.high, address.low, self.count
        return self.count - 1

    cdef int grow(self) except -1:
        """Room for twice as many; half of the places stay empty."""
        cdef Address[::1] known = addresses_room(2 * self.known.shape[0])
        cdef Place[::1] places = empty_places(2 * self.places.shape[0])
        cdef size_t mask = places.shape[0] - 1, at
        cdef int32_t number
        if self.count > MOST_ROWS // 2:
            raise OverflowError("too many addresses")
        known[: self.count] = self.known
        with nogil:
            for number in range(self.count):
                at = self.hashed(&known[number]) & mask
                while places[at].number:
                    at = (at + 1) & mask
                places[at].high, places[at].low, places[at].number = known[number].high, known[number].low, number + 1
        self.known, self.places = known, places
        return 0

    def texts(self, allocate):
        """Offsets and bytes of the canonical text of each address, as Arrow lays them out."""
        offsets = writable(allocate, 4 * (self.count + 1))
        cdef int32_t[::1] ends = offsets[1].cast("i")
        cdef uint8_t[::1] room = bytes_room(LONGEST_ADDRESS * <size_t>self.count + 1)
        cdef uint8_t text[LONGEST_ADDRESS]
        cdef int32_t at
        cdef int64_t used = 0
        cdef int length
        if LONGEST_ADDRESS * <int64_t>self.count > MOST_ROWS:
            raise OverflowError("too many addresses")
        ends[0] = 0
        with nogil:
            for at in range(self.count):
                length = write_address(text, &self.known[at])
                memcpy(&room[used], text, length)
                used += length
                ends[at + 1] = <int32_t>used
        made = writable(allocate, used)
        made[1][:] = memoryview(room)[:used]
        return offsets[0], made[0]


cdef Slot[::1] widened(Slot[::1] slots):
    """The same hashes and numbers in twice as many slots."""
    cdef Slot[::1] wide = empty_slots(2 * slots.shape[0])
    cdef size_t mask = wide.shape[0] - 1, place, at
    with nogil:
        for at in range(<size_t>slots.shape[0]):
            if slots[at].number:
                place = slots[at].hash & mask
                while wide[place].number:
                    place = (place + 1) & mask
                wide[place] = slots[at]
    return wide


cdef int write_decimal(uint8_t *out, uint32_t number) noexcept nogil:
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


cdef inline uint32_t group_of(const Address *address, int place) noexcept nogil:
    cdef uint64_t half = address.high if place < 4 else address.low
    return <uint32_t>(half >> (48 - 16 * (place & 3))) & 0xFFFF


cdef int write_address(uint8_t *out, const Address *address) noexcept nogil:
    """Canonical text of an address in at most 39 bytes: IPv4 where IPv6 maps it, else as RFC 5952 has it."""
    cdef int length = 0, place, run = 0, longest = 1, start = -1, shift
    cdef uint32_t group
    cdef bint begun
    if address.high == 0 and address.low >> 32 == 0xFFFF:
        for place in range(4):
            if place:
                out[length] = b"."
                length += 1
            length += write_decimal(out + length, <uint32_t>(address.low >> (24 - 8 * place)) & 255)
        return length
    for place in range(8):
        group = group_of(address, place)
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
        group = group_of(address, place)
        begun = False
        for shift in range(12, -1, -4):
            if begun or shift == 0 or group >> shift & 15:
                begun = True
                run = group >> shift & 15
                out[length] = <uint8_t>(c'0' + run if run < 10 else c'a' + run - 10)
                length += 1
        place += 1
    return length
