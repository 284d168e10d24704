/* The Proxy-Status field of a foreign answer: two bytes of status, then the field. */
#include "base/error.h"
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
    struct icmp_cause cause, again;
    proxy_status_cause(text, &cause);
    if (cause.version) {
        proxy_status_format(ERR_UNREACHABLE, field);
        proxy_status_add_cause(field, &cause);
        proxy_status_cause(field, &again);
        if (memcmp(&cause, &again, sizeof(cause)) != 0)
            abort();
    }
    free(text);
    return 0;
}
