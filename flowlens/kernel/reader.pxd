"""A reader whose rows a rollup takes, and columns to be filled."""

from libc.stdint cimport int32_t, uint8_t

from flowlens.kernel.records cimport Records
from flowlens.kernel.words cimport Words


cdef class Met:
    cdef int32_t[::1] places
    cdef list found

    cdef int32_t place(self, int32_t word) except -2 nogil


cdef class Columns:
    cdef object allocate
    cdef size_t rows
    cdef dict made

    cdef values(self, str name, str form, size_t width)
    cdef uint8_t[::1] validity(self, str name)


cdef class Reader(Records):
    cdef Words contexts
