#include "wire/varint.h"

size_t varint_read(const uint8_t *p, size_t n, uint64_t *ret)
{
    size_t size = n ? (size_t)1 << (p[0] >> 6) : 1;
    if (n < size)
        return 0;
    uint64_t v = p[0] & 0x3f;
    for (size_t i = 1; i < size; i++)
        v = v << 8 | p[i];
    *ret = v;
    return size;
}

size_t varint_write(uint8_t *out, uint64_t v)
{
    size_t log = v < 1u << 6 ? 0 : v < 1u << 14 ? 1 : v < 1u << 30 ? 2 : 3;
    size_t size = (size_t)1 << log;
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)(v >> 8 * (size - 1 - i));
    out[0] |= (uint8_t)(log << 6);
    return size;
}
