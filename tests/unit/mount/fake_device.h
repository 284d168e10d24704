/*
 * A device that answers GetNext and GetBulk from a table of 1.3.6.1.4.1.N, whose values say how
 * often it was asked for them, and changes its ways on demand.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_ANSWER_MAX 4096

struct fake_device {
    int n_objects;  /* 1.3.6.1.4.1.1 to .n_objects */
    int loops_at;   /* the object after which the first one comes again; 0: none */
    int too_big_at; /* the object from which on answers are tooBig; 0: none */
    int mute_every; /* each n-th request is not answered; 0: all are */
    bool counts;    /* values are how often the device was asked; else the object's number */
    int asked;      /* requests, ever */
    int sets;       /* of these */
};

/* The size of the answer; 0: silence. */
size_t fake_device_answer(struct fake_device *d, const uint8_t *data, size_t len,
                          uint8_t out[FAKE_ANSWER_MAX]);

enum fake_ask { FAKE_NEXT = 0xa1, FAKE_BULK = 0xa5, FAKE_SET = 0xa3, FAKE_GET = 0xa0 };
/* A request for what comes after an object, 0 for the root of the table. */
size_t fake_request(uint8_t *out, int version, enum fake_ask ask, int32_t id, int object);

struct fake_reading {
    int32_t id;
    int error;
    int n;           /* bindings */
    int object[128]; /* 0: end of MIB */
    int value[128];
};
void fake_read(const uint8_t *data, size_t len, struct fake_reading *ret);
