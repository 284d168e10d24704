/*
 * The server name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), read from the
 * first bytes of a connection without taking part in the handshake. No I/O.
 */
#pragma once

#include "base/addr.h"

#include <stddef.h>
#include <stdint.h>

/* A longer one is nobody's: OpenSSL's own limit is lower. */
#define CLIENT_HELLO_MAX 16384

#define CLIENT_HELLO_MORE 1 /* more bytes are needed */

/* 0: `name` is what was asked for, in lower case; "" if nothing that is a host name was.
 * CLIENT_HELLO_MORE. ERR_PROTO: no ClientHello; ERR_TOO_LARGE. `name` is untouched unless 0. */
int client_hello_name(const uint8_t *data, size_t len, char name[HOST_SIZE]);

/* The same from the body of the extension "server_name". False: none. */
bool client_hello_sni(const uint8_t *ext, size_t len, char name[HOST_SIZE]);
