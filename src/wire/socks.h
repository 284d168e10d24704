/*
 * SOCKS as a proxy's listener hears it: version 5 (RFC 1928) with no authentication or a password
 * (RFC 1929), and version 4 with 4a's names. No I/O.
 *
 * The parsers get all bytes of one message, or its beginning: they return its size, 0 when it is
 * not complete, or ERR_PROTO when it never will be one. Nothing after the message is looked at.
 */
#pragma once

#include "base/addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOCKS_MESSAGE_MAX 600 /* no message is longer */

enum socks_command { SOCKS_CONNECT = 1, SOCKS_BIND = 2, SOCKS_ASSOCIATE = 3 };

/* The first message of version 5: which authentication the client can do. */
struct socks_greeting {
    bool offers_none, offers_password;
};
int socks_greeting_parse(const uint8_t *data, size_t len, struct socks_greeting *ret);

enum socks_method { SOCKS_NONE = 0, SOCKS_PASSWORD = 2, SOCKS_NO_METHOD = 0xff };
#define SOCKS_METHOD_SIZE 2
void socks_method_write(enum socks_method m, uint8_t out[SOCKS_METHOD_SIZE]);

struct socks_login {
    char user[256], password[256]; /* without NULs */
};
int socks_login_parse(const uint8_t *data, size_t len, struct socks_login *ret);
void socks_login_answer(bool is_good, uint8_t out[SOCKS_METHOD_SIZE]);

/* `command` may be any value; ERR_INVALID: complete, but the address is none, or of an unknown
 * type. The port may be 0. */
struct socks_request {
    int command;
    struct host_port target;
};
int socks_request_parse(const uint8_t *data, size_t len, struct socks_request *ret);
int socks4_request_parse(const uint8_t *data, size_t len, struct socks_request *ret);

/* What became of a request: 0 or an error code. `bound` NULL: no address. Returns the size. */
#define SOCKS_REPLY_MAX 22
size_t socks_reply(int err, const struct addr *bound, uint8_t out[SOCKS_REPLY_MAX]);
size_t socks4_reply(int err, uint8_t out[SOCKS_REPLY_MAX]);

/* The head of a datagram of an association: its size, ERR_UNSUPPORTED for a fragment, ERR_PROTO. */
#define SOCKS_DATAGRAM_HEAD_MAX (4 + 1 + 255 + 2)
int socks_datagram_parse(const uint8_t *data, size_t len, struct host_port *ret);
size_t socks_datagram_head(const struct host_port *from, uint8_t out[SOCKS_DATAGRAM_HEAD_MAX]);
