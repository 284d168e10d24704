/*
 * The least that a relay of two processes can do: bytes copied by blocking calls, a thread for each
 * direction, no protocol, no encryption. What a round trip takes through a pair of these no tunnel
 * on the same machine can save.
 *
 *     plain-copy [ADDRESS:]PORT [ADDRESS:]TARGET-PORT
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct way {
    int from, to;
};

static void *copy(void *arg)
{
    struct way *way = arg;
    char bytes[65536];
    ssize_t n;
    while ((n = read(way->from, bytes, sizeof(bytes))) > 0) {
        if (write(way->to, bytes, (size_t)n) != n)
            break;
    }
    shutdown(way->to, SHUT_WR);
    free(way);
    return NULL;
}

static void start(int from, int to)
{
    int on = 1;
    struct way *way = malloc(sizeof(*way));
    pthread_t thread;
    setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (!way) {
        perror("plain-copy");
        exit(1);
    }
    *way = (struct way){from, to};
    if (pthread_create(&thread, NULL, copy, way)) {
        fprintf(stderr, "plain-copy: no more threads\n");
        exit(1);
    }
    pthread_detach(thread);
}

/* Without an address: this host's own. */
static struct sockaddr_in at(char *place)
{
    char *colon = strchr(place, ':');
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (colon) {
        *colon = '\0';
        a.sin_addr.s_addr = inet_addr(place);
    }
    a.sin_port = htons((uint16_t)strtoul(colon ? colon + 1 : place, NULL, 10));
    return a;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: plain-copy [ADDRESS:]PORT [ADDRESS:]TARGET-PORT\n");
        return 2;
    }
    struct sockaddr_in here = at(argv[1]), target = at(argv[2]);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&here, sizeof(here)) < 0 || listen(listener, 512) < 0) {
        perror("plain-copy: listen");
        return 1;
    }
    while (true) {
        int client = accept(listener, NULL, NULL), service = socket(AF_INET, SOCK_STREAM, 0);
        if (client < 0 || connect(service, (struct sockaddr *)&target, sizeof(target)) < 0) {
            perror("plain-copy: connect");
            return 1;
        }
        start(client, service);
        start(service, client);
    }
}
