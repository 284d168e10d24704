/*
 * A network namespace with a name, as ip-netns(8) has them: /run/netns/NAME for `ip netns exec` and
 * systemd's NetworkNamespacePath=, /etc/netns/NAME/resolv.conf for the names. Root's.
 *
 * A guardian process takes both away as soon as whoever made them is gone, in whatever way; if it
 * is the guardian that was killed, netns_remove does it.
 */
#pragma once

#include "base/diag.h"

#include <stdbool.h>
#include <sys/types.h>

struct netns {
    char name[64];
    pid_t guardian;
    int leash; /* the guardian ends its watch when this closes */
};

bool netns_name_is_good(const char *name);
/* Names the network namespace of process `pid`. While this process has one thread. ERR_EXISTS, or
 * what the system refused. */
int netns_make(struct netns *n, const char *name, pid_t pid, const char *resolv_conf,
               struct diag *d);
void netns_remove(struct netns *n); /* harmless when nothing was made */
