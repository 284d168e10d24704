/* The Proxy-Status field of a foreign answer: two bytes of status, then the field. */
#include "wire/proxy_status.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char field[PROXY_STATUS_SIZE];
    if (size < 2)
        return 0;
    int status = 100 + (data[0] << 8 | data[1]) % 500;
    char *text = malloc(size - 1);
    if (!text)
        abort();
    memcpy(text, data + 2, size - 2);
    text[size - 2] = '\0';
    int err = proxy_status_parse(status, text);
    if ((err == 0) != (status / 100 == 2) || err > 0)
        abort();
    if (err && proxy_status_format(err, field) < 400)
        abort();
    free(text);
    return 0;
}
