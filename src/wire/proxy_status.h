/*
 * How a failure to reach a target travels in HTTP: a status and a Proxy-Status field (RFC 9209)
 * "warren; error=connection_refused", and back to the same error code on the other side.
 */
#pragma once

#define PROXY_STATUS_SIZE 64

/* The status (such as 502) for an error code; `field` gets the Proxy-Status value. */
int proxy_status_format(int error, char field[PROXY_STATUS_SIZE]);

/* The error code for an answer; `field` may be NULL. 0 for a 2xx status. */
int proxy_status_parse(int status, const char *field);
