/* The first bytes of a TLS connection: read whole, and as they would arrive. */
#include "wire/client_hello.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[HOST_SIZE] = "", early[HOST_SIZE] = "";
    int rc = client_hello_name(data, size, name);
    for (size_t i = 0; i < size; i++) {
        int before = client_hello_name(data, i, early);
        if (before == CLIENT_HELLO_MORE)
            continue;
        if (before != rc || strcmp(name, early) != 0)
            abort(); /* more bytes changed what was decided */
        break;
    }
    if (rc == 0 && strlen(name) > 253)
        abort();
    return 0;
}
