/*
 * Two clocks, never mixed: `mono_ms` for waits and deadlines inside a process, `wall_ms` (Unix
 * time) for what is stored or shown. Code on a loop asks the loop for the time instead, so that
 * tests can turn it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t time_mono_ms(void);
uint64_t time_mono_us(void);
int64_t time_wall_ms(void);

/* The wall clock for `created`: strictly rising within a process, so that lists in order of
 * creation have one order even when two objects were made in one millisecond. Any thread. */
int64_t time_created_ms(void);

#define TIME_TEXT_SIZE 32

/* RFC 3339, UTC, milliseconds: "2026-11-21T02:33:38.000Z". */
void time_format(int64_t wall_ms, char out[TIME_TEXT_SIZE]);
int time_parse(const char *s, int64_t *ret_wall_ms);
