#include "net/nameserver.h"

#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"

#include <stdio.h>
#include <string.h>

#define RESOLV_CONF  "/etc/resolv.conf"
#define RESOLV_BYTES 65536
#define DNS_PORT     53

int nameserver_find(struct host_port *ret)
{
    CLEANUP(buf_done) struct buf text = {0};
    struct addr a;
    TRY(file_read(RESOLV_CONF, RESOLV_BYTES, false, &text, NULL));
    char *line, *rest = text.data;
    while ((line = strsep(&rest, "\n"))) {
        if (sscanf(line, " nameserver %255s", ret->host) == 1 &&
            addr_parse(ret->host, DNS_PORT, &a) == 0) {
            ret->port = DNS_PORT;
            return 0;
        }
    }
    return ERR_NOT_FOUND;
}
