"""A reader whose rows a rollup takes, and columns to be filled."""

from libc.stdint cimport int32_t, uint8_t

from flowlens.kernel.records cimport Records
from flowlens.kernel.words cimport Words


cdef class Columns:
    cdef object allocate
    cdef size_t rows
    cdef dict made

    cdef values(self, str name, str form, size_t width)
    cdef uint8_t[::1] validity(self, str name)


cdef class Repeated:
    cdef int32_t[::1] values, places
    cdef uint8_t[::1] bits
    cdef list found
    cdef int32_t word, place
    cdef Py_ssize_t filled

    cdef int turn(self, Py_ssize_t row, int32_t word) except -1 nogil
    cdef int fill(self, Py_ssize_t end) except -1 nogil


cdef class Reader(Records):
    cdef Words contexts
