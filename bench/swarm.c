/*
 * A swarm: thousands of agents in one process, for weighing idle agents at hubs, and for seeing
 * them come back when a hub has died. Each logs in over mutual TLS with its own certificate (ALPN
 * warren-agent/1, Connect) and keeps its session alive; it just holds no lease.
 *
 *     swarm --hub URL... --ca FILE --token-file FILE [--agents N]       enrols them first
 *     swarm --hub URL... --ca FILE --identities FILE [--agents N] [--first K]
 *     swarm --issue CA-DIR --tenant ID --rows FILE --identities FILE [--agents N] [--networks N]
 *
 * Reports one JSON line after each step: {"enrolled": N}, {"connected": N}; then waits for the end
 * of standard input and tells how many sessions still live: {"alive": N}. With --stay a session
 * that ends is sought anew when and where an agent would; each second in which some are missing
 * gives a line, and when all are there again one says how long they were away, and how many dialled
 * in each tenth of a second since the first was missing: {"back": N, "p50_ms": ..., "dials":
 * [...]}.
 */
#include "swarm.h"

#include "base/buf.h"
#include "base/diag.h"
#include "base/file.h"
#include "base/mem.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES 65536

void swarm_fail(const char *what, const struct diag *d)
{
    fprintf(stderr, "swarm: %s: %s\n", what, d ? diag_text(d) : "failed");
    exit(1);
}

void swarm_report(const char *step, int count)
{
    printf("{\"%s\": %d}\n", step, count);
    fflush(stdout);
}

static void on_input(struct io *io)
{
    struct swarm *s = container_of(io, struct swarm, input);
    char data[64];
    ssize_t n;
    while ((n = read(io->fd, data, sizeof(data))) > 0)
        swarm_tell(s);
    if (n == 0) {
        swarm_report("alive", s->up);
        exit(0);
    }
}

static char *read_text(const char *path)
{
    struct buf b = {0};
    struct diag d = {0};
    if (file_read(path, FILE_BYTES, false, &b, &d) < 0)
        swarm_fail(path, &d);
    return buf_take(&b);
}

struct options {
    const char *hub, *ca, *token, *identities, *rows, *issue, *tenant;
    int networks;
};

static int usage(void)
{
    fprintf(stderr, "usage: swarm --hub URL... --ca FILE (--token-file FILE | --identities FILE "
                    "[--first K])\n             [--agents N] [--parallel N] [--stay]\n"
                    "       swarm --issue CA-DIR --tenant ID --rows FILE --identities FILE "
                    "[--agents N] [--networks N]\n");
    return 2;
}

static int parse(int argc, char **argv, struct swarm *s, struct options *o)
{
    static const struct option options[] = {{"hub", required_argument, NULL, 'h'},
                                            {"ca", required_argument, NULL, 'c'},
                                            {"token-file", required_argument, NULL, 't'},
                                            {"agents", required_argument, NULL, 'n'},
                                            {"identities", required_argument, NULL, 'i'},
                                            {"first", required_argument, NULL, 'f'},
                                            {"parallel", required_argument, NULL, 'p'},
                                            {"stay", no_argument, NULL, 's'},
                                            {"issue", required_argument, NULL, 'I'},
                                            {"tenant", required_argument, NULL, 'T'},
                                            {"rows", required_argument, NULL, 'r'},
                                            {"networks", required_argument, NULL, 'w'},
                                            {NULL, 0, NULL, 0}};
    const char **texts[128] = {['c'] = &o->ca,   ['t'] = &o->token, ['i'] = &o->identities,
                               ['r'] = &o->rows, ['I'] = &o->issue, ['T'] = &o->tenant};
    int *numbers[128] = {
        ['n'] = &s->size, ['f'] = &s->first, ['p'] = &s->parallel, ['w'] = &o->networks};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'h') {
            o->hub = s->n_hubs ? o->hub : optarg;
            swarm_hubs_add(s, optarg);
        } else if (c == 's') {
            s->stays = true;
        } else if (c < 128 && texts[c]) {
            *texts[c] = optarg;
        } else if (c < 128 && numbers[c]) {
            *numbers[c] = atoi(optarg);
        } else {
            return -1;
        }
    }
    bool is_complete = o->issue ? o->tenant && o->rows && o->identities
                                : s->n_hubs && o->ca && !o->token == !!o->identities;
    return is_complete && s->size > 0 && s->parallel > 0 && o->networks > 0 ? 0 : -1;
}

static int issue(const struct swarm *s, const struct options *o)
{
    const struct identity_issue i = {.ca_dir = o->issue,
                                     .trust_domain = "warren",
                                     .tenant = o->tenant,
                                     .agents = (size_t)s->size,
                                     .networks = (size_t)o->networks,
                                     .rows = o->rows,
                                     .identities = o->identities};
    identity_issue(&i);
    return 0;
}

static void use_file(struct swarm *s, const char *path)
{
    const struct identity_der *ids = identity_file_read(path, (size_t)s->first, (size_t)s->size);
    for (int i = 0; i < s->size; i++)
        s->members[i].identity = &ids[i];
    swarm_connect(s);
}

int main(int argc, char **argv)
{
    struct swarm s = {.size = 2000, .parallel = 32};
    struct options o = {.networks = 1};
    if (parse(argc, argv, &s, &o) < 0)
        return usage();
    if (o.issue)
        return issue(&s, &o);
    signal(SIGPIPE, SIG_IGN);
    io_raise_descriptor_limit();
    s.ca_pem = read_text(o.ca);
    s.members = mem_new((size_t)s.size * sizeof(*s.members));
    if (loop_new(&s.loop) < 0)
        swarm_fail("loop", NULL);
    swarm_hubs_start(&s);
    s.start_ms = loop_now_ms(s.loop);
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    if (io_start(&s.input, s.loop, STDIN_FILENO, on_input) < 0)
        swarm_fail("standard input", NULL);
    if (o.token)
        swarm_enrol(&s, o.hub, o.token);
    else
        use_file(&s, o.identities);
    loop_run(s.loop);
}
