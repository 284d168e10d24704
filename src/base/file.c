#include "base/file.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *p, size_t len)
{
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_synced(int fd, const void *data, size_t len, unsigned mode)
{
    if (fchmod(fd, mode) < 0)
        return -errno;
    int err = write_all(fd, data, len);
    if (!err && fsync(fd) < 0)
        err = -errno;
    return err;
}

static void sync_folder_of(const char *path)
{
    CLEANUP(mem_free) char *folder = mem_strdup(path);
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0';
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

int file_write_atomic(const char *path, const void *data, size_t len, unsigned mode, struct diag *d)
{
    CLEANUP(mem_free) char *temporary = mem_printf("%s.XXXXXX", path);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot write %s: %s", path, strerror(errno));
    int err = write_synced(fd, data, len, mode);
    if (close(fd) < 0 && !err)
        err = -errno;
    if (!err && rename(temporary, path) < 0)
        err = -errno;
    if (err) {
        unlink(temporary);
        return diag_set(d, error_from_errno(-err), "cannot write %s: %s", path, strerror(-err));
    }
    sync_folder_of(path);
    return 0;
}

/* A mounted secret belongs to root and to the group of who may read it. */
static bool is_open_to_others(const struct stat *st)
{
    bool is_mounted_secret = st->st_uid == 0 && geteuid() != 0;
    return S_ISREG(st->st_mode) && (st->st_mode & (is_mounted_secret ? 037 : 077));
}

static int check_and_read(int fd, const char *path, size_t max, bool is_private, struct buf *ret,
                          struct diag *d)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return diag_set(d, ERR_IO, "cannot read %s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return diag_set(d, ERR_INVALID, "%s is a folder, not a file", path);
    if (is_private && is_open_to_others(&st))
        return diag_set(d, ERR_DENIED, "%s is accessible by others (mode %03o); chmod 600 it", path,
                        (unsigned)st.st_mode & 0777);
    buf_clear(ret);
    for (;;) {
        buf_reserve(ret, 4096);
        ssize_t n = read(fd, ret->data + ret->len, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return diag_set(d, ERR_IO, "cannot read %s: %s", path, strerror(errno));
        if (!n)
            return 0;
        ret->len += (size_t)n;
        if (ret->len > max)
            return diag_set(d, ERR_TOO_LARGE, "%s is larger than %zu bytes", path, max);
    }
}

int file_read(const char *path, size_t max, bool is_private, struct buf *ret, struct diag *d)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot read %s: %s", path, strerror(errno));
    int err = check_and_read(fd, path, max, is_private, ret, d);
    close(fd);
    if (err)
        buf_clear(ret);
    else
        buf_puts(ret, "");
    return err;
}

int file_make_folders(const char *path, unsigned mode, struct diag *d)
{
    CLEANUP(mem_free) char *part = mem_strdup(path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, mode) < 0 && errno != EEXIST)
            return diag_set(d, error_from_errno(errno), "cannot make the folder %s: %s", part,
                            strerror(errno));
        *slash = '/';
    }
    return 0;
}
