#include "mount/space_internal.h"

#include "base/error.h"
#include "base/macro.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_MS     2000
#define NAMESPACES (CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID)

int space_fail(struct space_report *r, int err, const char *what)
{
    r->err = err;
    snprintf(r->text, sizeof(r->text), "%s: %s", what, strerror(errno));
    return err;
}

int space_write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : ERR_IO;
}

/* ---- in the child ---- */

static int map_user(uid_t uid, gid_t gid, bool as_root, struct space_report *r)
{
    char text[64];
    space_write_file("/proc/self/setgroups", "deny");
    snprintf(text, sizeof(text), "%u %u 1", as_root ? 0 : uid, uid);
    if (space_write_file("/proc/self/uid_map", text) < 0)
        return space_fail(r, ERR_DENIED, "cannot map the user id");
    snprintf(text, sizeof(text), "%u %u 1", as_root ? 0 : gid, gid);
    if (space_write_file("/proc/self/gid_map", text) < 0)
        return space_fail(r, ERR_DENIED, "cannot map the group id");
    return 0;
}

static int write_names(int fd, const char *text)
{
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));
    if (fd >= 0) {
        fchmod(fd, 0644);
        close(fd);
    }
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

/* A file of the namespace's own in the place of /etc/resolv.conf. The ways around it, by sockets of
 * the machine's name services, are covered first: resolv.conf may lie there. */
static int set_up_names(const struct space_config *cfg, struct space_report *r)
{
    static const char *const leaks[] = {"/run/systemd/resolve", "/run/nscd", "/run/avahi-daemon"};
    char real[PATH_MAX], path[] = "/tmp/warren-resolv-XXXXXX";
    if (!cfg->resolv_conf)
        return 0;
    if (!realpath("/etc/resolv.conf", real))
        return space_fail(r, ERR_NOT_FOUND,
                          "there is no /etc/resolv.conf to put the network's in place of (make an "
                          "empty one)");
    for (size_t i = 0; i < ARRAY_SIZE(leaks); i++) {
        if (access(leaks[i], F_OK) == 0)
            mount("none", leaks[i], "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755");
    }
    if (access(real, F_OK) < 0) {
        int fd = open(real, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        return write_names(fd, cfg->resolv_conf) < 0
                   ? space_fail(r, ERR_IO, "cannot write a resolv.conf")
                   : 0;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return space_fail(r, ERR_IO, "cannot make a file in /tmp");
    int rc = write_names(fd, cfg->resolv_conf);
    if (rc == 0)
        rc = mount(path, real, NULL, MS_BIND, NULL);
    if (rc < 0)
        space_fail(r, ERR_IO, "cannot put the network's resolv.conf over /etc/resolv.conf");
    unlink(path); /* the bind keeps it */
    return rc < 0 ? ERR_IO : 0;
}

static int prepare(const struct space_config *cfg, uid_t uid, gid_t gid, int *ret_tun,
                   struct space_report *r)
{
    if (uid != 0)
        TRY(map_user(uid, gid, cfg->as_root, r));
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* which a change of credentials would clear */
    TRY(space_set_up_network(cfg, ret_tun, r));
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return space_fail(r, ERR_IO, "cannot make the mount namespace private");
    TRY(set_up_names(cfg, r));
    /* Where that is forbidden (in some containers) the machine's processes stay visible. */
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    return 0;
}

static void send_report(int to, const struct space_report *r, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {(void *)r, sizeof(*r)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        *c = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    (void)!sendmsg(to, &msg, MSG_NOSIGNAL);
}

__attribute__((noreturn)) static void run_child(const struct space_config *cfg, uid_t uid,
                                                gid_t gid, int control)
{
    struct space_report r = {0};
    int tun = -1;
    int rc = prepare(cfg, uid, gid, &tun, &r);
    send_report(control, &r, rc == 0 ? tun : -1);
    if (rc < 0)
        _exit(125);
    space_run_init(cfg->argv, control, uid != 0);
}

/* ---- outside ---- */

static int receive_report(int from, struct space_report *r)
{
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {r, sizeof(*r)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    ssize_t n;
    do {
        n = recvmsg(from, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof(*r)) {
        r->err = ERR_IO;
        snprintf(r->text, sizeof(r->text), "its process ended before it was ready");
    }
    const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    int fd = -1;
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

/* As fork(2), into new namespaces. */
static pid_t fork_apart(bool is_user)
{
    unsigned long flags = (is_user ? CLONE_NEWUSER : 0) | NAMESPACES | SIGCHLD;
    return (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, NULL);
}

static int refused(struct diag *d)
{
    bool is_denied = errno == EPERM || errno == ENOSPC;
    return diag_set(d, is_denied ? ERR_DENIED : ERR_LIMIT,
                    "the mount cannot be set up: new namespaces are refused: %s%s", strerror(errno),
                    is_denied ? " (run as root, or let users make user namespaces: sysctl "
                                "kernel.unprivileged_userns_clone=1, and on Ubuntu 24.04 "
                                "kernel.apparmor_restrict_unprivileged_userns=0)"
                              : "");
}

int space_open(const struct space_config *cfg, struct space *ret, struct diag *d)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return diag_set(d, ERR_LIMIT, "cannot make a socket: %s", strerror(errno));
    pid_t pid = fork_apart(uid != 0);
    if (pid == 0) {
        close(pair[0]);
        run_child(cfg, uid, gid, pair[1]);
    }
    int err = errno;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        errno = err;
        return refused(d);
    }
    struct space_report r = {0};
    *ret = (struct space){.pid = pid, .control = pair[0], .tun = receive_report(pair[0], &r)};
    ret->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (r.err < 0 || ret->tun < 0 || ret->pidfd < 0) {
        close(pair[0]);
        waitpid(pid, NULL, 0);
        return diag_set(d, r.err < 0 ? r.err : ERR_IO, "the mount cannot be set up: %s", r.text);
    }
    fcntl(ret->pidfd, F_SETFL, O_NONBLOCK);
    return 0;
}

void space_go(struct space *s)
{
    space_signal(s, 0);
}

void space_signal(struct space *s, int signum)
{
    (void)!send(s->control, &(char){(char)signum}, 1, MSG_NOSIGNAL);
}

/* Its process 1 ends when all in it have, and one that `mount exec` has brought in only when that
 * has taken note, which may be stopped: what then remains has no network any more. */
static void bury(const struct space *s)
{
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
    while (poll(&p, 1, END_MS) < 0 && errno == EINTR)
        ;
    waitpid(s->pid, NULL, WNOHANG);
}

int space_wait(struct space *s)
{
    int status = 0;
    kill(s->pid, SIGKILL);
    bury(s);
    if (recv(s->control, &status, sizeof(status), MSG_DONTWAIT) != sizeof(status))
        status = SIGKILL;
    close(s->control);
    close(s->pidfd);
    return status;
}

int space_exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
