#include "load.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct mode {
    const char *name;
    int (*run)(const struct load_options *);
    const char *summary;
} modes[] = {
    {"serve", load_serve, "the service at the far end; prints its port"},
    {"bulk", load_bulk, "streams that pour in one direction: Gbit/s"},
    {"rr", load_rr, "one byte to and fro on each stream: rate, p50, p99"},
    {"conn", load_conn, "a new connection for each exchange: rate, p50, p99"},
    {"udp-rr", load_udp_rr, "a datagram to and fro on each flow: rate, p50, p99, lost"},
    {"udp-flood", load_udp_flood, "datagrams without pause: how many a second arrive"},
    {"scan", load_scan, "every port of the host of --to, so many at a time: probes a second"},
    {"hold", load_hold, "idle streams, until standard input ends; then one byte on each"},
    {"stall", load_stall, "streams whose reader stands still, until standard input ends"},
};

enum {
    OPT_TO = 1,
    OPT_COUNTER,
    OPT_STREAMS,
    OPT_SECONDS,
    OPT_WARMUP,
    OPT_FROM,
    OPT_ONE_BYTE,
    OPT_ABANDON,
    OPT_SIZE,
};

static const struct option options[] = {
    {"to", required_argument, NULL, OPT_TO},
    {"counter", required_argument, NULL, OPT_COUNTER},
    {"streams", required_argument, NULL, OPT_STREAMS},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"warmup", required_argument, NULL, OPT_WARMUP},
    {"from-target", no_argument, NULL, OPT_FROM},
    {"one-byte", no_argument, NULL, OPT_ONE_BYTE},
    {"abandon", no_argument, NULL, OPT_ABANDON},
    {"size", required_argument, NULL, OPT_SIZE},
    {NULL, 0, NULL, 0},
};

__attribute__((noreturn)) static void usage(void)
{
    fprintf(stderr, "usage: load MODE [--to IP:PORT] [--counter IP:PORT] [--streams N]\n"
                    "            [--seconds S] [--warmup S] [--from-target] [--one-byte]\n"
                    "            [--abandon] [--size BYTES]\n");
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        fprintf(stderr, "  %-9s %s\n", modes[i].name, modes[i].summary);
    exit(2);
}

static struct sockaddr_in parse_address(const char *text)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof(host))
        usage();
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    a.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        usage();
    return a;
}

static struct load_options parse_options(int argc, char **argv)
{
    struct load_options o = {.streams = 1, .size = LOAD_SIZE, .seconds = 2, .warmup_seconds = 0.3};
    o.to = parse_address("127.0.0.1:0");
    o.counter = o.to;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case OPT_TO:
            o.to = parse_address(optarg);
            break;
        case OPT_COUNTER:
            o.counter = parse_address(optarg);
            break;
        case OPT_STREAMS:
            o.streams = atoi(optarg);
            break;
        case OPT_SECONDS:
            o.seconds = atof(optarg);
            break;
        case OPT_WARMUP:
            o.warmup_seconds = atof(optarg);
            break;
        case OPT_FROM:
            o.from_target = true;
            break;
        case OPT_ONE_BYTE:
            o.one_byte = true;
            break;
        case OPT_ABANDON:
            o.abandon = true;
            break;
        case OPT_SIZE:
            o.size = atoi(optarg);
            if (o.size < 8 || o.size > 2048)
                usage();
            break;
        default:
            usage();
        }
    }
    return o;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; argc > 1 && i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(modes[i].name, argv[1]) == 0) {
            struct load_options o = parse_options(argc - 1, argv + 1);
            return modes[i].run(&o);
        }
    }
    usage();
}
