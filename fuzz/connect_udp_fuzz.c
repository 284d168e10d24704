/* The path of a foreign connect-udp request; what is understood must survive a round trip. */
#include "wire/connect_udp.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct host_port target, again;
    char path[CONNECT_UDP_PATH_SIZE];
    char *text = malloc(size + 1);
    if (!text)
        abort();
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    if (connect_udp_parse(text, &target, NULL) == 0) {
        connect_udp_path(&target, path);
        if (connect_udp_parse(path, &again, NULL) < 0 || strcmp(again.host, target.host) != 0 ||
            again.port != target.port)
            abort();
    }
    free(text);
    return 0;
}
