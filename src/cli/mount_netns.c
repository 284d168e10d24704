#include "cli/mount_netns.h"

#include "base/error.h"
#include "base/macro.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES "/run/netns"
#define FILES "/etc/netns"
#define MARK  "# made by warren mount for as long as it runs\n"

struct paths {
    char name[PATH_MAX], folder[PATH_MAX], resolv_conf[PATH_MAX];
};

static void make_paths(const char *name, struct paths *p)
{
    snprintf(p->name, sizeof(p->name), NAMES "/%s", name);
    snprintf(p->folder, sizeof(p->folder), FILES "/%s", name);
    snprintf(p->resolv_conf, sizeof(p->resolv_conf), FILES "/%s/resolv.conf", name);
}

bool netns_name_is_good(const char *name)
{
    size_t len = strlen(name);
    for (const char *c = name; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
            return false;
    }
    return len > 0 && len < sizeof(((struct netns *)0)->name) && name[0] != '.';
}

/* Whether an earlier mount left the files of this name, of which nobody took care (the machine lost
 * its power). */
static bool is_ours(const struct paths *p)
{
    char text[sizeof(MARK)] = "";
    int fd = open(p->resolv_conf, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof(MARK) - 1);
    close(fd);
    return n == (ssize_t)sizeof(MARK) - 1 && strcmp(text, MARK) == 0;
}

static void remove_all(const struct paths *p)
{
    umount2(p->name, MNT_DETACH);
    unlink(p->name);
    if (is_ours(p))
        unlink(p->resolv_conf);
    rmdir(p->folder);
}

static int fail(struct diag *d, const char *what, const char *path)
{
    int err = errno;
    return diag_set(d, err == EPERM || err == EACCES ? ERR_DENIED : ERR_IO, "cannot %s %s: %s",
                    what, path, strerror(err));
}

/* As ip-netns does it: mounts below it are seen by all. */
static int make_folder(struct diag *d)
{
    if (mkdir(NAMES, 0755) < 0 && errno != EEXIST)
        return fail(d, "make", NAMES);
    if (mount("", NAMES, "none", MS_SHARED | MS_REC, NULL) == 0)
        return 0;
    if (errno != EINVAL || mount(NAMES, NAMES, "none", MS_BIND | MS_REC, NULL) < 0 ||
        mount("", NAMES, "none", MS_SHARED | MS_REC, NULL) < 0)
        return fail(d, "share the mounts in", NAMES);
    return 0;
}

static int write_resolv_conf(const struct paths *p, const char *text, struct diag *d)
{
    mkdir(FILES, 0755);
    if (mkdir(p->folder, 0755) < 0 && errno != EEXIST)
        return fail(d, "make", p->folder);
    int fd = open(p->resolv_conf, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail(d, "make", p->resolv_conf);
    bool is_written = dprintf(fd, MARK "%s", text) > 0;
    close(fd);
    return is_written ? 0 : fail(d, "write", p->resolv_conf);
}

static int make_name(const struct paths *p, pid_t pid, struct diag *d)
{
    char from[64];
    snprintf(from, sizeof(from), "/proc/%d/ns/net", pid);
    int fd = open(p->name, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (fd < 0)
        return fail(d, "make", p->name);
    close(fd);
    return mount(from, p->name, "none", MS_BIND, NULL) < 0 ? fail(d, "mount", p->name) : 0;
}

__attribute__((noreturn)) static void guard(const struct paths *p, int leash)
{
    static const int kept_off[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    char end;
    for (size_t i = 0; i < ARRAY_SIZE(kept_off); i++)
        signal(kept_off[i], SIG_IGN);
    setsid();
    prctl(PR_SET_NAME, "warren-netns");
    if (leash > 0)
        close_range(0, (unsigned int)leash - 1, 0);
    close_range((unsigned int)leash + 1, ~0U, 0);
    while (read(leash, &end, 1) < 0 && errno == EINTR)
        ;
    remove_all(p);
    _exit(0);
}

static int start_guardian(struct netns *n, const struct paths *p, struct diag *d)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return fail(d, "make", "a pipe");
    n->guardian = fork();
    if (n->guardian == 0)
        guard(p, ends[0]); /* closes the other end, too */
    close(ends[0]);
    n->leash = ends[1];
    return n->guardian < 0 ? fail(d, "start", "a process") : 0;
}

int netns_make(struct netns *n, const char *name, pid_t pid, const char *resolv_conf,
               struct diag *d)
{
    struct paths p;
    make_paths(name, &p);
    if (geteuid() != 0)
        return diag_set(d, ERR_DENIED,
                        "a namespace with a name is root's to make: run as root, or "
                        "use --name and \"warren mount exec\"");
    if (is_ours(&p) && access(p.name, F_OK) < 0)
        remove_all(&p);
    if (access(p.name, F_OK) == 0)
        return diag_set(d, ERR_EXISTS,
                        "there is a network namespace '%s' already (ip netns delete)", name);
    TRY(make_folder(d));
    snprintf(n->name, sizeof(n->name), "%s", name);
    int rc = start_guardian(n, &p, d);
    if (rc == 0)
        rc = make_name(&p, pid, d);
    if (rc == 0)
        rc = write_resolv_conf(&p, resolv_conf, d);
    if (rc < 0)
        netns_remove(n);
    return rc;
}

void netns_remove(struct netns *n)
{
    struct paths p;
    int status = -1;
    if (!n->guardian)
        return;
    close(n->leash);
    while (n->guardian > 0 && waitpid(n->guardian, &status, 0) < 0 && errno == EINTR)
        ;
    make_paths(n->name, &p);
    if (status != 0)
        remove_all(&p);
    *n = (struct netns){0};
}
