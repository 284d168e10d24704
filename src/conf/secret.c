/* A secret comes from a file that only its owner can read, or from the standard input. */
#include "conf/conf.h"

#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define SECRET_MAX 4096

static int read_stdin(struct buf *out, struct diag *d)
{
    while (out->len <= SECRET_MAX) {
        ssize_t n = read(STDIN_FILENO, out->data + out->len, SECRET_MAX + 1 - out->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return diag_set(d, ERR_IO, "cannot read the standard input: %s", strerror(errno));
        if (n == 0)
            return 0;
        out->len += (size_t)n;
    }
    return diag_set(d, ERR_TOO_LARGE, "the standard input is larger than %d bytes", SECRET_MAX);
}

int conf_read_secret(const char *path, struct secret *ret, struct diag *d)
{
    struct buf text = {0};
    TRY(buf_reserve(&text, 3 * SECRET_MAX)); /* never moved, so no copy stays behind */
    int rc =
        strcmp(path, "-") == 0 ? read_stdin(&text, d) : file_read(path, SECRET_MAX, true, &text, d);
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
