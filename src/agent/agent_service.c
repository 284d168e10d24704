#include "agent/agent_service.h"

#include "agent/settings.h"
#include "base/error.h"
#include "base/file.h"
#include "base/macro.h"
#include "base/mem.h"
#include "base/text.h"

#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNIT        "warren-agent.service"
#define UNIT_PATH   "/etc/systemd/system/" UNIT
#define STATE_ROOT  "/var/lib/"
#define PACKAGED    "/usr/bin/warren-agent"
#define OUTPUT_MAX  16384
#define SETTING_MAX 1024

/* ---- the unit ---- */

static const char unit_head[] =
    "# Written by `warren-agent install`; run that again to change it, or add a drop-in.\n"
    "[Unit]\n"
    "Description=Warren agent\n"
    "Documentation=man:warren-agent(1)\n"
    "After=network.target\n"
    "StartLimitIntervalSec=0\n"
    "\n"
    "[Service]\n"
    "Type=notify\n"
    "NotifyAccess=main\n";

static const char unit_tail[] =
    "ExecReload=/bin/kill -HUP $MAINPID\n"
    "Restart=always\n"
    "RestartSec=1\n"
    "WatchdogSec=30\n"
    "TimeoutStopSec=30\n"
    "LimitNOFILE=65536\n"
    "TasksMax=64\n"
    "\n"
    "# A user that exists only while the service runs; the data folder is handed to it.\n"
    "DynamicUser=yes\n"
    "User=warren-agent\n"
    "StateDirectoryMode=0700\n"
    "UMask=0077\n"
    "\n"
    "# It reads its data folder and talks to the network; everything else is out of reach.\n"
    "NoNewPrivileges=yes\n"
    "CapabilityBoundingSet=\n"
    "AmbientCapabilities=\n"
    "ProtectSystem=strict\n"
    "ProtectHome=yes\n"
    "PrivateTmp=yes\n"
    "PrivateDevices=yes\n"
    "DevicePolicy=closed\n"
    "PrivateUsers=yes\n"
    "ProtectProc=invisible\n"
    "ProcSubset=pid\n"
    "ProtectClock=yes\n"
    "ProtectHostname=yes\n"
    "ProtectControlGroups=yes\n"
    "ProtectKernelLogs=yes\n"
    "ProtectKernelModules=yes\n"
    "ProtectKernelTunables=yes\n"
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK\n"
    "RestrictNamespaces=yes\n"
    "RestrictRealtime=yes\n"
    "RestrictSUIDSGID=yes\n"
    "RemoveIPC=yes\n"
    "KeyringMode=private\n"
    "LockPersonality=yes\n"
    "MemoryDenyWriteExecute=yes\n"
    "SystemCallArchitectures=native\n"
    "SystemCallFilter=@system-service\n"
    "SystemCallFilter=~@privileged @resources\n"
    "SystemCallErrorNumber=EPERM\n"
    "\n"
    "[Install]\n"
    "WantedBy=multi-user.target\n";

static const char *data_folder(const struct agent_service *s)
{
    const char *data = AGENT_DATA;
    for (size_t i = 0; i < s->n_flags; i++) {
        if (strcmp(s->flags[i].flag, "--data") == 0 && s->flags[i].value)
            data = s->flags[i].value;
    }
    return data;
}

/* StateDirectory= is what hands a folder to a dynamic user, and it takes names below /var/lib. */
static int state_name(const struct agent_service *s, const char **ret, struct diag *d)
{
    const char *data = data_folder(s), *name = data + strlen(STATE_ROOT);
    if (strncmp(data, STATE_ROOT, strlen(STATE_ROOT)) != 0 || !text_is_name(name))
        return diag_set_field(d, ERR_INVALID, "data",
                              "%.200s: the service keeps its data in a folder right below "
                              "/var/lib, such as " AGENT_DATA,
                              data);
    *ret = name;
    return 0;
}

/* systemd.service(5), "COMMAND LINES": quotes and backslashes escaped, % and $ doubled. */
static int put_argument(struct buf *out, const char *arg, struct diag *d)
{
    TRY(buf_puts(out, " \""));
    for (const char *c = arg; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return diag_set(d, ERR_INVALID, "an argument has a control character in it");
        if (*c == '"' || *c == '\\')
            TRY(buf_puts(out, "\\"));
        TRY(buf_append(out, c, 1));
        if (*c == '%' || *c == '$')
            TRY(buf_append(out, c, 1));
    }
    return buf_puts(out, "\"");
}

/* A program in a home folder works in a terminal, but the service could not see it. */
static int find_program(const struct agent_service *s, char out[PATH_MAX], struct diag *d)
{
    static const char *const hidden[] = {"/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/"};
    if (s->program) {
        snprintf(out, PATH_MAX, "%s", s->program);
    } else if (s->is_offline) {
        snprintf(out, PATH_MAX, PACKAGED);
    } else {
        ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
        if (n < 0)
            return diag_set(d, ERR_IO, "cannot find this program: %s", strerror(errno));
        out[n] = '\0';
    }
    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++) {
        if (out[0] != '/' || strncmp(out, hidden[i], strlen(hidden[i])) == 0)
            return diag_set(d, ERR_INVALID,
                            "the service cannot reach %.200s: install the program below /usr first",
                            out);
    }
    return 0;
}

int agent_service_unit(const struct agent_service *s, struct buf *ret, struct diag *d)
{
    char program[PATH_MAX];
    const char *state = NULL;
    TRY(find_program(s, program, d));
    TRY(state_name(s, &state, d));
    TRY(buf_puts(ret, unit_head));
    TRY(buf_puts(ret, "ExecStart="));
    size_t start = ret->len;
    TRY(put_argument(ret, program, d));
    memmove(ret->data + start, ret->data + start + 1, ret->len - start); /* the leading space */
    ret->len--;
    TRY(buf_puts(ret, " run --data"));
    TRY(put_argument(ret, data_folder(s), d));
    for (size_t i = 0; i < s->n_flags; i++) {
        if (strcmp(s->flags[i].flag, "--data") == 0)
            continue;
        TRY(buf_printf(ret, " %s", s->flags[i].flag));
        if (s->flags[i].value)
            TRY(put_argument(ret, s->flags[i].value, d));
    }
    TRY(buf_printf(ret, "\nStateDirectory=%s\n", state));
    return buf_puts(ret, unit_tail);
}

/* ---- systemctl ---- */

struct command {
    const char *argv[8]; /* without "systemctl"; ends with NULL */
};

static int read_output(int fd, struct buf *out)
{
    for (;;) {
        TRY(buf_reserve(out, 1024));
        ssize_t n = read(fd, out->data + out->len, 1024);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? ERR_IO : buf_puts(out, "");
        out->len += (size_t)n;
    }
}

/* Standard output and error of the command both go to `out`. */
static int spawn(const char *const *argv, struct buf *out, int *ret_status)
{
    int fds[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    if (pipe(fds) < 0)
        return error_from_errno(errno);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    int err = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    int rc = err ? error_from_errno(err) : read_output(fds[0], out);
    close(fds[0]);
    if (!err) {
        while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
            ;
    }
    return rc;
}

/* `--root=ROOT` is added where the system that is changed does not run. */
static int systemctl(const struct agent_service *s, const struct command *c, struct buf *out,
                     struct diag *d)
{
    const char *argv[ARRAY_SIZE(c->argv) + 3] = {"systemctl"};
    CLEANUP(mem_free) char *root = mem_printf("--root=%s", s->root);
    size_t n = 1;
    int status = 0;
    if (s->is_offline)
        argv[n++] = root;
    for (size_t i = 0; c->argv[i]; i++)
        argv[n++] = c->argv[i];
    int rc = spawn(argv, out, &status);
    if (rc == ERR_NOT_FOUND)
        return diag_set(d, ERR_UNAVAILABLE,
                        "this machine has no systemd: run `warren-agent run` under its own "
                        "supervisor instead");
    if (rc < 0)
        return diag_set(d, rc, "cannot run systemctl: %s", error_text(rc));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return diag_set(d, ERR_UNAVAILABLE, "systemctl %s failed: %.300s", c->argv[0],
                        buf_text(out));
    return 0;
}

static int run_step(const struct agent_service *s, const struct command *c, struct diag *d)
{
    __attribute__((cleanup(buf_done_cleanup))) struct buf out = {.limit = OUTPUT_MAX};
    fprintf(s->out, "systemctl");
    for (size_t i = 0; c->argv[i]; i++)
        fprintf(s->out, " %s", c->argv[i]);
    fputc('\n', s->out);
    return s->is_dry_run ? 0 : systemctl(s, c, &out, d);
}

/* ---- files ---- */

static char *below_root(const struct agent_service *s, const char *path)
{
    return mem_printf("%s%s", s->root, path);
}

static int check_enrolled(const struct agent_service *s, struct diag *d)
{
    CLEANUP(mem_free) char *data = below_root(s, data_folder(s));
    CLEANUP(mem_free) char *cert = mem_printf("%s/cert.pem", data);
    if (access(cert, F_OK) == 0)
        return 0;
    return diag_set(d, error_from_errno(errno),
                    errno == ENOENT ? "this agent has not enrolled yet (no %s): run `warren-agent "
                                      "enroll --data %s ...` first"
                                    : "cannot look at %s in %s: is this root?",
                    cert, data);
}

/* ---- the commands ---- */

int agent_service_install(const struct agent_service *s, struct diag *d)
{
    static const struct command reload = {{"daemon-reload"}}, enable = {{"enable", UNIT}},
                                restart = {{"restart", UNIT}};
    __attribute__((cleanup(buf_done_cleanup))) struct buf unit = {0};
    CLEANUP(mem_free) char *path = below_root(s, UNIT_PATH);
    TRY(agent_service_unit(s, &unit, d));
    if (!s->is_dry_run) {
        TRY(check_enrolled(s, d));
        TRY(file_make_folders(path, 0755, d));
        TRY(file_write_atomic(path, unit.data, unit.len, 0644, d));
    }
    fprintf(s->out, "%s %s\n", s->is_dry_run ? "would write" : "wrote", path);
    if (s->is_dry_run)
        fputs(unit.data, s->out);
    if (!s->is_offline)
        TRY(run_step(s, &reload, d));
    TRY(run_step(s, &enable, d));
    return s->is_offline ? 0 : run_step(s, &restart, d);
}

int agent_service_uninstall(const struct agent_service *s, struct diag *d)
{
    static const struct command stop = {{"disable", "--now", UNIT}}, disable = {{"disable", UNIT}},
                                reload = {{"daemon-reload"}};
    CLEANUP(mem_free) char *path = below_root(s, UNIT_PATH);
    if (access(path, F_OK) < 0)
        return diag_set(d, ERR_NOT_FOUND, "the service is not installed (no %s)", path);
    TRY(run_step(s, s->is_offline ? &disable : &stop, d));
    if (!s->is_dry_run && unlink(path) < 0)
        return diag_set(d, error_from_errno(errno), "cannot remove %s: %s", path, strerror(errno));
    fprintf(s->out, "%s %s\n", s->is_dry_run ? "would remove" : "removed", path);
    if (!s->is_offline)
        TRY(run_step(s, &reload, d));
    fprintf(s->out, "key and certificate stay in %s%s\n", s->root, data_folder(s));
    return 0;
}

/* Copies the value of "KEY=value" out of systemctl's answer. */
static const char *property(const struct buf *text, const char *key, char out[SETTING_MAX])
{
    size_t n = strlen(key);
    out[0] = '\0';
    for (const char *line = buf_text(text); line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, n) == 0 && line[n] == '=') {
            snprintf(out, SETTING_MAX, "%.*s", (int)MIN(strcspn(line + n + 1, "\n"), (size_t)900),
                     line + n + 1);
            break;
        }
    }
    return out;
}

static int64_t number(const struct buf *text, const char *key)
{
    char value[SETTING_MAX];
    uint64_t v;
    return text_to_u64(property(text, key, value), INT64_MAX, &v) < 0 ? 0 : (int64_t)v;
}

int agent_service_status(const struct agent_service *s, struct agent_service_state *ret,
                         struct diag *d)
{
    static const struct command show = {
        {"show", "--property=ActiveState,SubState,UnitFileState,StatusText,MainPID,NRestarts",
         UNIT}};
    struct agent_service_state state = {.state = "not installed"};
    __attribute__((cleanup(buf_done_cleanup))) struct buf out = {.limit = OUTPUT_MAX};
    CLEANUP(mem_free) char *path = below_root(s, UNIT_PATH);
    CLEANUP(mem_free)
    char *wanted = below_root(s, "/etc/systemd/system/multi-user.target.wants/" UNIT);
    struct stat st;
    state.is_installed = access(path, F_OK) == 0;
    state.is_enabled = lstat(wanted, &st) == 0;
    if (state.is_installed)
        snprintf(state.state, sizeof(state.state), "not running");
    if (state.is_installed && !s->is_offline) {
        char active[SETTING_MAX], detail[SETTING_MAX];
        TRY(systemctl(s, &show, &out, d));
        property(&out, "ActiveState", active);
        property(&out, "SubState", detail);
        snprintf(state.state, sizeof(state.state), "%.20s (%.20s)", active, detail);
        state.is_running = strcmp(active, "active") == 0;
        snprintf(state.status, sizeof(state.status), "%.250s",
                 property(&out, "StatusText", active));
        state.pid = number(&out, "MainPID");
        state.restarts = number(&out, "NRestarts");
    }
    *ret = state;
    return 0;
}
