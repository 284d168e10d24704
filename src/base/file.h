/*
 * Small files that must be whole or absent: written to a temporary name beside the target, synced,
 * renamed, and the folder synced. For keys, certificates, tokens and an agent's state.
 */
#pragma once

#include "base/buf.h"
#include "base/diag.h"

#include <stdbool.h>
#include <stddef.h>

int file_write_atomic(const char *path, const void *data, size_t len, unsigned mode,
                      struct diag *d);

/* At most `max` bytes. `is_private`: refuse one that group or others can access (ERR_DENIED); where
 * it is root's and we are not, its group may read it, as secrets are mounted by Kubernetes and
 * systemd. ERR_NOT_FOUND when it does not exist; ERR_TOO_LARGE. */
int file_read(const char *path, size_t max, bool is_private, struct buf *ret, struct diag *d);

/* Makes what is missing of the folders above the file `path`, with `mode`. */
int file_make_folders(const char *path, unsigned mode, struct diag *d);
