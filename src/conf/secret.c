/* Files as sources: the whole of one, and secrets. */
#include "conf/internal.h"

#include "base/error.h"
#include "base/macro.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_MAX 4096

static int read_all(int fd, const char *path, struct buf *out, struct diag *d)
{
    for (;;) {
        char chunk[4096];
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return diag_set(d, error_from_errno(errno), "cannot read %s: %s", path,
                            strerror(errno));
        int rc = n == 0 ? 0 : buf_append(out, chunk, (size_t)n);
        explicit_bzero(chunk, sizeof(chunk));
        if (rc < 0)
            return diag_set(d, rc, "%s is larger than %zu bytes", path, out->limit);
        if (n == 0)
            return 0;
    }
}

int conf_read_file(const char *path, bool stdin_ok, struct buf *out, struct diag *d)
{
    if (stdin_ok && strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "the standard input", out, d);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return diag_set(d, error_from_errno(errno), "cannot open %s: %s", path, strerror(errno));
    int rc = read_all(fd, path, out, d);
    close(fd);
    return rc;
}

static int check_private(const char *path, struct diag *d)
{
    struct stat st;
    if (strcmp(path, "-") == 0 || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    if (st.st_mode & 077)
        return diag_set(d, ERR_DENIED,
                        "%s holds a secret but others may access it (mode %04o): chmod 600 %s",
                        path, st.st_mode & 07777, path);
    return 0;
}

int conf_read_secret(const char *path, struct secret *ret, struct diag *d)
{
    struct buf text = {.limit = SECRET_MAX};
    TRY(check_private(path, d));
    TRY(buf_reserve(&text, SECRET_MAX)); /* never moved, so no copy stays behind */
    int rc = conf_read_file(path, true, &text, d);
    while (rc >= 0 && text.len && strchr("\r\n", text.data[text.len - 1]))
        text.len--;
    if (rc >= 0 && !text.len)
        rc = diag_set(d, ERR_INVALID, "%s is empty", path);
    if (rc >= 0)
        secret_set(ret, text.data, text.len);
    explicit_bzero(text.data, text.cap);
    buf_done(&text);
    return rc;
}
