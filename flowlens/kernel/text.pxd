"""Pieces of JSON and of flow tuples, read byte by byte; every function is inlined where it is used.

Text ends with a byte 0, as the bytes of Python do, and no function goes past a byte that it has not looked at or past a 0. So
none reads behind the end, and only those that take several bytes at once need to know where that is.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef struct Text:
    const uint8_t *at
    const uint8_t *end


cdef struct Span:
    const uint8_t *start
    size_t length


cdef struct Address:
    uint64_t high, low


cdef struct Seen:
    const uint8_t *start
    size_t length
    int32_t place
    Address address


cdef inline bint take(Text *t, uint8_t byte) noexcept nogil:
    if t.at[0] != byte:
        return False
    t.at += 1
    return True


cdef inline bint is_blank(uint8_t byte) noexcept nogil:
    return byte == b" " or byte == b"\n" or byte == b"\r" or byte == b"\t"


cdef inline void blanks(Text *t) noexcept nogil:
    while is_blank(t.at[0]):
        t.at += 1


cdef inline bint string(Text *t, Span *span) noexcept nogil:
    """A string without escapes, quotes not included."""
    if not take(t, b'"'):
        return False
    span.start = t.at
    while t.at[0] != b'"':
        if t.at[0] < 32 or t.at[0] == b"\\":
            return False
        t.at += 1
    span.length = t.at - span.start
    t.at += 1
    return True


cdef inline bint word(Text *t, const char *expected) noexcept nogil:
    while expected[0]:
        if not take(t, expected[0]):
            return False
        expected += 1
    return True


cdef inline bint scalar(Text *t) noexcept nogil:
    """A value that holds no other; a number must be whole."""
    cdef Span span
    cdef uint8_t byte = t.at[0]
    if byte == b'"':
        return string(t, &span)
    if byte == b"n":
        return word(t, b"null")
    if byte == b"t":
        return word(t, b"true")
    if byte == b"f":
        return word(t, b"false")
    if byte == b"-":
        t.at += 1
    if take(t, b"0"):
        return True
    if not b"1" <= t.at[0] <= b"9":
        return False
    while b"0" <= t.at[0] <= b"9":
        t.at += 1
    return True


cdef inline bint equals(Span *span, const char *expected, size_t length) noexcept nogil:
    return span.length == length and memcmp(span.start, expected, length) == 0


cdef inline bint key(Text *t, Span *span) noexcept nogil:
    """A key with its colon; the value is next."""
    if not string(t, span):
        return False
    blanks(t)
    if not take(t, b":"):
        return False
    blanks(t)
    return True


cdef inline int goes_on(Text *t, uint8_t closer) noexcept nogil:
    """1 before another element, 0 behind the closer, -1 where neither is."""
    blanks(t)
    if take(t, b","):
        blanks(t)
        return 1
    return 0 if take(t, closer) else -1


cdef inline uint64_t eight(const uint8_t *at) noexcept nogil:
    """The next eight bytes in one number, the first of them lowest; one load where the processor has them so."""
    return (
        at[0] | <uint64_t>at[1] << 8 | <uint64_t>at[2] << 16 | <uint64_t>at[3] << 24
        | <uint64_t>at[4] << 32 | <uint64_t>at[5] << 40 | <uint64_t>at[6] << 48 | <uint64_t>at[7] << 56
    )  # fmt: skip


cdef inline const uint8_t *digits(const uint8_t *at, int most, uint64_t *value) noexcept nogil:
    """Behind the digits that stand here, of which ``most`` are read; they are put behind those of ``value``."""
    cdef const uint8_t *end = at + most
    cdef uint64_t number = value[0]
    cdef uint8_t digit = at[0] - c'0'
    while digit < 10 and at < end:
        number = number * 10 + digit
        at += 1
        digit = at[0] - c'0'
    value[0] = number
    return at


cdef inline const uint8_t *whole(const uint8_t *at, int most, uint64_t *value) noexcept nogil:
    """Behind the digits that stand here, of which ``most`` are read, and their value; ``most`` must be below 20."""
    value[0] = 0
    return digits(at, most, value)


cdef inline const uint8_t *stamp(const uint8_t *at, const uint8_t *end, uint64_t *value) noexcept nogil:
    """As `whole`, for up to 16 digits that are mostly more than eight."""
    cdef uint64_t word
    if end - at >= 8:
        word = eight(at) ^ 0x3030303030303030ULL
        # Only a byte from 0 to 9 stays below 16 when 6 is added.
        if (word | (word + 0x0606060606060606ULL)) & 0xF0F0F0F0F0F0F0F0ULL == 0:
            # Pairs, then fours, then all of them.
            word = word * 10 + (word >> 8)
            value[0] = (
                (word & 0x000000FF000000FFULL) * 0x000F424000000064ULL
                + (word >> 16 & 0x000000FF000000FFULL) * 0x0000271000000001ULL
            ) >> 32
            return digits(at + 8, 8, value)
    return whole(at, 16, value)


cdef inline const uint8_t *octet(const uint8_t *at, uint8_t closer, uint64_t *number) noexcept nogil:
    """Behind a canonical number below 256 and its closer; NULL where neither is. It is put behind the bits of ``number``."""
    cdef uint32_t value = <uint8_t>(at[0] - c'0'), digit
    if value > 9:
        return NULL
    at += 1
    if at[0] != closer:
        digit = <uint8_t>(at[0] - c'0')
        if digit > 9 or value == 0:
            return NULL
        value = value * 10 + digit
        at += 1
        if at[0] != closer:
            digit = <uint8_t>(at[0] - c'0')
            value = value * 10 + digit
            at += 1
            if digit > 9 or value > 255 or at[0] != closer:
                return NULL
    number[0] = number[0] << 8 | value
    return at + 1


cdef inline const uint8_t *ipv4(const uint8_t *at, Address *address) noexcept nogil:
    """Behind a canonical IPv4 address and its comma, as IPv6 maps it; NULL where none is."""
    cdef uint64_t number = 0
    cdef int place
    for place in range(4):
        at = octet(at, b"," if place == 3 else b".", &number)
        if at == NULL:
            return NULL
    address.high = 0
    address.low = 0xFFFF00000000ULL | number
    return at


cdef inline const uint8_t *ipv6(const uint8_t *at, Address *address, bint *is_one) noexcept nogil:
    """Behind an IPv6 address of hexadecimal groups and its comma; where none is, as far as one was read."""
    cdef uint32_t groups[8]
    cdef int count = 0, gap = -1, digits, place, hidden
    cdef uint32_t value
    cdef uint8_t byte
    is_one[0] = False
    if at[0] == b":":
        at += 1
        if at[0] != b":":
            return at
        at += 1
        gap = 0
    while not (gap == count and at[0] == b","):
        value = 0
        digits = 0
        while digits < 4:
            byte = at[0]
            if b"0" <= byte <= b"9":
                value = value << 4 | (byte - c'0')
            elif b"a" <= byte <= b"f":
                value = value << 4 | (byte - c'a' + 10)
            elif b"A" <= byte <= b"F":
                value = value << 4 | (byte - c'A' + 10)
            else:
                break
            digits += 1
            at += 1
        if digits == 0 or count == 8:
            return at
        groups[count] = value
        count += 1
        if at[0] == b",":
            break
        if at[0] != b":":
            # An IPv4 address that is cut off is read up to there.
            while at[0] == b"." or b"0" <= at[0] <= b"9":
                at += 1
            return at
        at += 1
        if at[0] == b":":
            if gap >= 0:
                return at
            gap = count
            at += 1
    if count > 7 if gap >= 0 else count != 8:
        return at
    hidden = 8 - count
    address.high = address.low = 0
    for place in range(count):
        digits = place if gap < 0 or place < gap else place + hidden
        if digits < 4:
            address.high |= <uint64_t>groups[place] << (48 - 16 * digits)
        else:
            address.low |= <uint64_t>groups[place] << (112 - 16 * digits)
    is_one[0] = True
    return at + 1


cdef inline bint goes_on_with(const uint8_t *at, const uint8_t *end, const uint8_t *text, size_t length) noexcept nogil:
    """Whether at least eight bytes that are known stand here; they stand before ``end`` too."""
    return (
        length >= 8
        and <size_t>(end - at) >= length
        and eight(at) == eight(text)
        and eight(at + length - 8) == eight(text + length - 8)
        and (length <= 16 or memcmp(at + 8, text + 8, length - 16) == 0)
    )


cdef inline const uint8_t *address(const uint8_t *at, const uint8_t *end, Seen *seen, bint *is_one) noexcept nogil:
    """Behind an address and its comma; where none is, as far as one was read. ``seen`` is the one before, and then this one."""
    cdef const uint8_t *behind
    is_one[0] = True
    # A NIC's own address stands in all tuples of a group.
    if goes_on_with(at, end, seen.start, seen.length):
        return at + seen.length
    behind = ipv4(at, &seen.address)
    if behind == NULL:
        behind = ipv6(at, &seen.address, is_one)
    seen.start = at
    seen.length = behind - at if is_one[0] else 0
    return behind


cdef inline const uint8_t *port(const uint8_t *at, uint64_t limit, int32_t *found, bint *is_one) noexcept nogil:
    """Behind a port and its comma; -1 where the field is empty. Where neither is, as far as a port was read."""
    cdef uint64_t number
    cdef const uint8_t *behind = whole(at, 5, &number)
    found[0] = <int32_t>number if behind > at else -1
    is_one[0] = number < limit and behind[0] == b","
    return behind + 1 if is_one[0] else behind


cdef inline int64_t number_of(const uint8_t *text, int digits) noexcept nogil:
    """The value of so many digits, or something below 0."""
    cdef int64_t value = 0
    cdef int place
    for place in range(digits):
        if not b"0" <= text[place] <= b"9":
            return -(10**12)
        value = value * 10 + (text[place] - c'0')
    return value


cdef inline bint moment(const uint8_t *text, size_t length, int64_t *micros) noexcept nogil:
    """Microseconds of an ISO time of the form that Azure writes, ``2022-09-14T09:00:52.5625085Z``, with fields.record_time's meaning."""
    cdef int64_t year, month, day, hour, minute, second, days, of_era, fraction = 0
    cdef size_t at
    cdef int digits = 0
    if not 22 <= length <= 32 or text[4] != b"-" or text[7] != b"-" or text[10] != b"T":
        return False
    if text[13] != b":" or text[16] != b":" or text[19] != b"." or text[length - 1] != b"Z":
        return False
    year, month, day = number_of(text, 4), number_of(text + 5, 2), number_of(text + 8, 2)
    hour, minute, second = number_of(text + 11, 2), number_of(text + 14, 2), number_of(text + 17, 2)
    # A 29th of February and the 31st are for the slower way.
    if not (1970 <= year and 1 <= month <= 12 and 1 <= day <= (28 if month == 2 else 30)):
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


cdef inline bint is_decision_state(Span *span) noexcept nogil:
    """Whether an NSG flow log writes this behind its decision, see nsg.DECISION_STATES."""
    return span.length == 0 or (span.length == 1 and span.start[0] in (b"B", b"C", b"E"))
