/*
 * "Who are you?" in SNMP v2c: a request for sysDescr.0 and sysName.0 (RFC 3418), and its answer. No
 * I/O. The reader is that of wire/snmp.h.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SNMP_GET_MAX 128 /* with a community of up to 64 bytes */

/* Returns the size. */
size_t snmp_get_write(const char *community, uint8_t out[SNMP_GET_MAX]);
/* The two texts as UTF-8, "" where the device has none. ERR_PROTO: it is no answer. */
int snmp_get_read(const uint8_t *data, size_t len, char *descr, char *name, size_t size);
