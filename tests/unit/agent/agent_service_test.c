/* With a folder instead of / and a program of ours instead of systemctl. */
#include "agent/agent_service.h"

#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];
static char *told;
static size_t told_len;

static struct agent_service new_service(void)
{
    free(told);
    return (struct agent_service){
        .root = root, .program = "/usr/bin/warren-agent", .out = open_memstream(&told, &told_len)};
}

static void put_file(const char *name, const char *text, unsigned mode)
{
    char path[256];
    snprintf(path, sizeof(path), "%s%s", root, name);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    assert_int_equal(file_write_atomic(path, text, strlen(text), mode, NULL), 0);
}

static bool file_has(const char *name, const char *text)
{
    char path[256];
    struct buf b = {0};
    snprintf(path, sizeof(path), "%s%s", root, name);
    bool has = file_read(path, 65536, false, &b, NULL) == 0 && strstr(buf_text(&b), text);
    buf_done(&b);
    return has;
}

/* Writes its arguments into a file and answers `show`. */
static void fake_systemctl(int exit_code)
{
    char script[512];
    snprintf(script, sizeof(script),
             "#!/bin/sh\necho \"$@\" >> %s/calls\n"
             "[ \"$1\" = show ] && printf 'MainPID=42\\nNRestarts=3\\nStatusText=2 tunnels\\n"
             "ActiveState=active\\nSubState=running\\n'\n"
             "[ %d = 0 ] || echo no such bus >&2\nexit %d\n",
             root, exit_code, exit_code);
    put_file("/bin/systemctl", script, 0755);
}

static int make_root(void **state)
{
    snprintf(root, sizeof(root), "/tmp/warren-service-XXXXXX");
    if (!mkdtemp(root))
        return -1;
    CLEANUP(mem_free) char *path = mem_printf("%s/bin:%s", root, getenv("PATH"));
    setenv("PATH", path, 1);
    fake_systemctl(0);
    put_file("/var/lib/warren-agent/cert.pem", "x", 0600);
    return 0;
}

static int remove_root(void **state)
{
    CLEANUP(mem_free) char *command = mem_printf("rm -r %s", root);
    free(told);
    told = NULL;
    return system(command);
}

static void installing_writes_enables_and_starts_the_unit(void **state)
{
    static const struct conf_flag flags[] = {{"--allow", "10.0.0.0/8:80,443"},
                                             {"--hub", "https://h/$a%b\"c\\"}};
    struct diag d = {0};
    struct agent_service s = new_service();
    s.flags = flags;
    s.n_flags = ARRAY_SIZE(flags);
    assert_int_equal(agent_service_install(&s, &d), 0);
    fclose(s.out);
    assert_true(file_has("/etc/systemd/system/warren-agent.service",
                         "\nExecStart=\"/usr/bin/warren-agent\" run --data "
                         "\"/var/lib/warren-agent\" --allow \"10.0.0.0/8:80,443\" "
                         "--hub \"https://h/$$a%%b\\\"c\\\\\"\n"));
    assert_true(file_has("/etc/systemd/system/warren-agent.service", "\nCapabilityBoundingSet=\n"));
    assert_true(
        file_has("/etc/systemd/system/warren-agent.service", "\nStateDirectory=warren-agent\n"));
    assert_true(file_has("/calls", "daemon-reload\nenable warren-agent.service\n"
                                   "restart warren-agent.service\n"));
}

static void status_tells_what_systemd_knows(void **state)
{
    struct agent_service_state st;
    struct diag d = {0};
    struct agent_service s = new_service();
    assert_int_equal(agent_service_status(&s, &st, &d), 0);
    assert_false(st.is_installed);
    assert_string_equal(st.state, "not installed");
    assert_int_equal(agent_service_install(&s, &d), 0);
    assert_int_equal(agent_service_status(&s, &st, &d), 0);
    assert_true(st.is_installed && st.is_running);
    assert_string_equal(st.state, "active (running)");
    assert_string_equal(st.status, "2 tunnels");
    assert_int_equal(st.pid, 42);
    assert_int_equal(st.restarts, 3);
    fclose(s.out);
}

static void uninstalling_removes_the_unit_and_keeps_the_key(void **state)
{
    struct diag d = {0};
    struct agent_service s = new_service();
    assert_int_equal(agent_service_uninstall(&s, &d), ERR_NOT_FOUND);
    assert_int_equal(agent_service_install(&s, &d), 0);
    assert_int_equal(agent_service_uninstall(&s, &d), 0);
    fclose(s.out);
    assert_false(file_has("/etc/systemd/system/warren-agent.service", ""));
    assert_true(file_has("/var/lib/warren-agent/cert.pem", "x"));
    assert_true(file_has("/calls", "disable --now warren-agent.service\ndaemon-reload\n"));
    assert_non_null(strstr(told, "key and certificate stay in"));
}

static void an_image_is_prepared_without_starting_anything(void **state)
{
    struct diag d = {0};
    struct agent_service s = new_service();
    s.is_offline = true;
    s.program = NULL;
    assert_int_equal(agent_service_install(&s, &d), 0);
    fclose(s.out);
    assert_true(file_has("/etc/systemd/system/warren-agent.service",
                         "ExecStart=\"/usr/bin/warren-agent\" run"));
    assert_true(file_has("/calls", root));
    assert_true(file_has("/calls", "enable"));
    assert_false(file_has("/calls", "restart"));
}

static void a_dry_run_shows_all_and_does_nothing(void **state)
{
    struct diag d = {0};
    struct agent_service s = new_service();
    s.is_dry_run = true;
    assert_int_equal(agent_service_install(&s, &d), 0);
    fclose(s.out);
    assert_non_null(strstr(told, "would write "));
    assert_non_null(strstr(told, "\nDynamicUser=yes\n"));
    assert_non_null(strstr(told, "\nsystemctl restart warren-agent.service\n"));
    assert_false(file_has("/etc/systemd/system/warren-agent.service", ""));
    assert_false(file_has("/calls", ""));
}

static void what_cannot_work_is_refused_with_the_reason(void **state)
{
    struct diag d = {0};
    struct agent_service s = new_service();
    struct conf_flag flag = {"--data", "/srv/agent"};
    s.flags = &flag;
    s.n_flags = 1;
    assert_int_equal(agent_service_install(&s, &d), ERR_INVALID);
    assert_non_null(strstr(d.text, "right below /var/lib"));
    flag.value = "/var/lib/../x";
    assert_int_equal(agent_service_install(&s, &d), ERR_INVALID);
    flag.value = "/var/lib/other";
    assert_int_equal(agent_service_install(&s, &d), ERR_NOT_FOUND);
    assert_non_null(strstr(d.text, "not enrolled yet"));
    flag = (struct conf_flag){"--hub", "https://a\nUser=root"};
    assert_int_equal(agent_service_install(&s, &d), ERR_INVALID);
    s.n_flags = 0;
    s.program = "/home/me/warren-agent";
    assert_int_equal(agent_service_install(&s, &d), ERR_INVALID);
    assert_non_null(strstr(d.text, "below /usr"));
    s.program = "/usr/bin/warren-agent";
    fake_systemctl(1);
    assert_int_equal(agent_service_install(&s, &d), ERR_UNAVAILABLE);
    assert_non_null(strstr(d.text, "systemctl daemon-reload failed: no such bus"));
    fclose(s.out);
}

#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ROOT(installing_writes_enables_and_starts_the_unit),
        WITH_ROOT(status_tells_what_systemd_knows),
        WITH_ROOT(uninstalling_removes_the_unit_and_keeps_the_key),
        WITH_ROOT(an_image_is_prepared_without_starting_anything),
        WITH_ROOT(a_dry_run_shows_all_and_does_nothing),
        WITH_ROOT(what_cannot_work_is_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
