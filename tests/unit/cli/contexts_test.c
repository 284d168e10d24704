#include "cli/contexts.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/warren-contexts-XXXXXX";
static char path[128];

static int set_up(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/a/contexts.json", dir);
    return setenv("WARREN_CONTEXTS", path, 1);
}

static int tear_down(void **state)
{
    char folder[128];
    snprintf(folder, sizeof(folder), "%s/a", dir);
    unlink(path);
    rmdir(folder);
    return rmdir(dir);
}

static void what_was_saved_is_there_again_and_private(void **state)
{
    struct contexts cs = {0};
    struct context c;
    struct diag d = {0};
    struct stat st;
    assert_int_equal(contexts_load(&cs, &d), 0);
    assert_int_equal(contexts_get(&cs, NULL, &c, &d), ERR_NOT_FOUND);
    contexts_put(&cs, &(struct context){"home", "https://hub:8443", "wat_x", "PEM"});
    contexts_put(&cs, &(struct context){.name = "lab", .hub = "https://lab"});
    contexts_use(&cs, "home");
    assert_int_equal(contexts_save(&cs, &d), 0);
    contexts_done(&cs);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    assert_int_equal(contexts_load(&cs, &d), 0);
    assert_int_equal(contexts_get(&cs, NULL, &c, &d), 0);
    assert_string_equal(c.name, "home");
    assert_string_equal(c.token, "wat_x");
    assert_string_equal(c.ca, "PEM");
    assert_int_equal(contexts_get(&cs, "lab", &c, &d), 0);
    assert_null(c.token);
    contexts_done(&cs);
}

static void removing_the_current_one_leaves_none_in_use(void **state)
{
    struct contexts cs = {0};
    struct context c;
    struct diag d = {0};
    assert_int_equal(contexts_load(&cs, &d), 0);
    contexts_remove(&cs, "home");
    assert_null(contexts_current(&cs));
    assert_int_equal(contexts_get(&cs, "home", &c, &d), ERR_NOT_FOUND);
    json_t *list = contexts_list(&cs);
    char *text = json_dumps(list, JSON_COMPACT);
    assert_string_equal(text, "[{\"name\":\"lab\",\"hub\":\"https://lab\",\"current\":false}]");
    free(text);
    json_decref(list);
    contexts_done(&cs);
}

static void a_file_that_others_can_read_is_refused(void **state)
{
    struct contexts cs = {0};
    struct diag d = {0};
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(contexts_load(&cs, &d), ERR_DENIED);
    assert_non_null(strstr(d.text, path));
    assert_int_equal(chmod(path, 0600), 0);
}

static void a_damaged_file_is_told_and_not_lost(void **state)
{
    struct contexts cs = {0};
    struct diag d = {0};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"contexts\": 3}", f);
    fclose(f);
    assert_int_equal(contexts_load(&cs, &d), ERR_INVALID);
    assert_non_null(strstr(d.text, "damaged"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_saved_is_there_again_and_private),
        cmocka_unit_test(removing_the_current_one_leaves_none_in_use),
        cmocka_unit_test(a_file_that_others_can_read_is_refused),
        cmocka_unit_test(a_damaged_file_is_told_and_not_lost),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
