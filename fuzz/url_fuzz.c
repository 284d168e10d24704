/* Percent-decoding of paths and queries. */
#include "base/error.h"
#include "base/mem.h"
#include "http/internal.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(mem_free) char *out = mem_new(size + 1);
    for (int plus_is_space = 0; plus_is_space < 2; plus_is_space++) {
        int rc = http_unescape((const char *)data, size, plus_is_space, out);
        assert(rc == 0 || rc == ERR_INVALID);
        if (rc == 0)
            assert(strlen(out) <= size);
    }
    return 0;
}
