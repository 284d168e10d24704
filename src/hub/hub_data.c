/*
 * The hub's data folder. A hub is its folder: what it is called in a database that several share is
 * kept there (hub.id), and one process has it at a time (hub.lock, which the kernel drops with the
 * process, however that ends).
 */
#include "hub/internal.h"

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int take_lock(struct hub *h, struct diag *d)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/hub.lock", h->settings->data);
    h->data_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (h->data_fd < 0)
        return diag_set_field(d, error_from_errno(errno), "data", "cannot make %s: %s", path,
                              strerror(errno));
    if (flock(h->data_fd, LOCK_EX | LOCK_NB) < 0)
        return diag_set_field(d, ERR_EXISTS, "data", "%s is in use by another hub",
                              h->settings->data);
    return 0;
}

static int read_id(struct hub *h, struct diag *d)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/hub.id", h->settings->data);
    CLEANUP(buf_done) struct buf text = {0};
    int rc = file_read(path, ID_SIZE, false, &text, d);
    if (rc == ERR_NOT_FOUND)
        return 0;
    TRY(rc);
    char id[ID_SIZE + 1];
    snprintf(id, sizeof(id), "%s", buf_text(&text));
    id[strcspn(id, "\n")] = '\0';
    if (!id_is(id, "hub"))
        return diag_set(d, ERR_INVALID, "%s does not hold the id of a hub", path);
    memcpy(h->row.id, id, sizeof(h->row.id));
    return 0;
}

int hub_data_open(struct hub *h, struct diag *d)
{
    if (mkdir(h->settings->data, 0700) < 0 && errno != EEXIST)
        return diag_set_field(d, error_from_errno(errno), "data", "cannot make %s: %s",
                              h->settings->data, strerror(errno));
    TRY(take_lock(h, d));
    return read_id(h, d);
}

int hub_data_keep_id(struct hub *h, struct diag *d)
{
    CLEANUP(mem_free) char *path = mem_printf("%s/hub.id", h->settings->data);
    char line[ID_SIZE + 1];
    snprintf(line, sizeof(line), "%s\n", h->row.id);
    return file_write_atomic(path, line, strlen(line), 0644, d);
}

void hub_data_close(struct hub *h)
{
    if (h->data_fd >= 0)
        close(h->data_fd);
}
