#include "base/file.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534

static char path[64];

static int new_file(void **state)
{
    snprintf(path, sizeof(path), "/tmp/warren-file-test-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 || write(fd, "secret", 6) != 6 || close(fd) < 0 ? -1 : 0;
}

static int remove_file(void **state)
{
    return unlink(path);
}

static int read_private(mode_t mode)
{
    struct buf text = {0};
    assert_int_equal(chmod(path, mode), 0);
    int rc = file_read(path, 100, true, &text, NULL);
    if (rc == 0)
        assert_string_equal(buf_text(&text), "secret");
    buf_done(&text);
    return rc;
}

static void a_secret_of_ours_is_for_nobody_else(void **state)
{
    assert_int_equal(read_private(0600), 0);
    assert_int_equal(read_private(0640), ERR_DENIED);
    assert_int_equal(read_private(0604), ERR_DENIED);
}

static int read_as_nobody(mode_t mode)
{
    struct buf text = {0};
    assert_int_equal(chmod(path, mode), 0);
    assert_int_equal(setegid(NOBODY), 0);
    assert_int_equal(seteuid(NOBODY), 0);
    int rc = file_read(path, 100, true, &text, NULL);
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(setegid(0), 0);
    buf_done(&text);
    return rc;
}

static void a_mounted_secret_is_roots_and_its_group_may_read_it(void **state)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(path, 0, NOBODY), 0);
    assert_int_equal(read_as_nobody(0440), 0);
    assert_int_equal(read_as_nobody(0460), ERR_DENIED);
    assert_int_equal(read_as_nobody(0444), ERR_DENIED);
}

static void a_file_beyond_the_limit_is_not_read(void **state)
{
    struct buf text = {0};
    assert_int_equal(file_read(path, 5, false, &text, NULL), ERR_TOO_LARGE);
    assert_int_equal(file_read("/tmp", 5, false, &text, NULL), ERR_INVALID);
    assert_int_equal(file_read("/tmp/no such file", 5, false, &text, NULL), ERR_NOT_FOUND);
    buf_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_secret_of_ours_is_for_nobody_else, new_file, remove_file),
        cmocka_unit_test_setup_teardown(a_mounted_secret_is_roots_and_its_group_may_read_it,
                                        new_file, remove_file),
        cmocka_unit_test_setup_teardown(a_file_beyond_the_limit_is_not_read, new_file, remove_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
