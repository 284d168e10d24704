#include "mount/space.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/macro.h"
#include "mount/tun.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/ipv6.h>
#include <linux/ipv6_route.h>
#include <linux/route.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INTERFACE "warren0"
#define QUEUE_LEN 10000 /* of packets; 500 lose some with 64 busy flows */

/* What a child says before it waits: 0 with the TUN descriptor, or an error with a text. */
struct report {
    int err;
    char text[256];
};

static int fail(struct report *r, int err, const char *what)
{
    r->err = err;
    snprintf(r->text, sizeof(r->text), "%s: %s", what, strerror(errno));
    return err;
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : ERR_IO;
}

/* ---- in the child ---- */

static int enter_user_namespace(uid_t uid, gid_t gid, bool as_root, struct report *r)
{
    char text[64];
    if (unshare(CLONE_NEWUSER) < 0)
        return fail(r, ERR_DENIED,
                    "this system does not let users make a user namespace (run as root, or allow "
                    "it: sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu 24.04 "
                    "kernel.apparmor_restrict_unprivileged_userns=0)");
    write_file("/proc/self/setgroups", "deny");
    snprintf(text, sizeof(text), "%u %u 1", as_root ? 0 : uid, uid);
    if (write_file("/proc/self/uid_map", text) < 0)
        return fail(r, ERR_DENIED, "cannot map the user id");
    snprintf(text, sizeof(text), "%u %u 1", as_root ? 0 : gid, gid);
    if (write_file("/proc/self/gid_map", text) < 0)
        return fail(r, ERR_DENIED, "cannot map the group id");
    return 0;
}

/* The program keeps, in its own namespaces, what nmap or tcpdump need. */
static void keep_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &head, data) < 0)
        return;
    for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        data[i].inheritable = data[i].permitted;
    if (syscall(SYS_capset, &head, data) < 0)
        return;
    for (int cap = 0; cap < 64; cap++) {
        if (data[cap / 32].permitted & 1U << cap % 32)
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    }
}

static int set_interface(int s, const char *name, unsigned long what, struct ifreq *req)
{
    snprintf(req->ifr_name, sizeof(req->ifr_name), "%s", name);
    return ioctl(s, what, req);
}

static int bring_up(int s, const char *name)
{
    struct ifreq req = {0};
    if (set_interface(s, name, SIOCGIFFLAGS, &req) < 0)
        return -1;
    req.ifr_flags |= IFF_UP | IFF_RUNNING;
    return set_interface(s, name, SIOCSIFFLAGS, &req);
}

static int add_route_4(int s, const struct in_addr *to, int bits)
{
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = (char[]){INTERFACE}};
    struct sockaddr_in *dst = (struct sockaddr_in *)&route.rt_dst;
    struct sockaddr_in *mask = (struct sockaddr_in *)&route.rt_genmask;
    dst->sin_family = mask->sin_family = AF_INET;
    mask->sin_addr.s_addr = htonl(bits ? UINT32_MAX << (32 - bits) : 0);
    dst->sin_addr.s_addr = to->s_addr & mask->sin_addr.s_addr;
    return ioctl(s, SIOCADDRT, &route);
}

static int add_route_6(int s, int index, const struct in6_addr *to, int bits)
{
    struct in6_rtmsg route = {.rtmsg_dst = *to,
                              .rtmsg_dst_len = (uint16_t)bits,
                              .rtmsg_metric = 1,
                              .rtmsg_flags = RTF_UP,
                              .rtmsg_ifindex = index};
    return ioctl(s, SIOCADDRT, &route);
}

static int set_up_v4(int s, struct report *r)
{
    struct ifreq req = {0};
    struct sockaddr_in *a = (struct sockaddr_in *)&req.ifr_addr;
    a->sin_family = AF_INET;
    inet_pton(AF_INET, SPACE_ADDRESS_4, &a->sin_addr);
    if (set_interface(s, INTERFACE, SIOCSIFADDR, &req) < 0)
        return fail(r, ERR_IO, "cannot set the interface's address");
    inet_pton(AF_INET, "255.255.255.252", &a->sin_addr);
    if (set_interface(s, INTERFACE, SIOCSIFNETMASK, &req) < 0)
        return fail(r, ERR_IO, "cannot set the interface's netmask");
    return 0;
}

static int set_up_v6(int index, struct report *r)
{
    struct in6_ifreq req = {.ifr6_prefixlen = 128, .ifr6_ifindex = index};
    int s = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET6, SPACE_ADDRESS_6, &req.ifr6_addr);
    int rc = ioctl(s, SIOCSIFADDR, &req);
    close(s);
    return rc < 0 ? fail(r, ERR_IO, "cannot set the interface's IPv6 address") : 0;
}

static int add_route(const char *cidr, int index, struct report *r)
{
    char host[INET6_ADDRSTRLEN];
    struct in6_addr a6;
    struct in_addr a4;
    int bits = -1, rc = -1;
    if (sscanf(cidr, "%45[^/]/%d", host, &bits) < 1)
        return fail(r, ERR_INVALID, cidr);
    bool is_v4 = inet_pton(AF_INET, host, &a4) == 1;
    int s = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (is_v4)
        rc = add_route_4(s, &a4, bits < 0 ? 32 : bits);
    else if (inet_pton(AF_INET6, host, &a6) == 1)
        rc = add_route_6(s, index, &a6, bits < 0 ? 128 : bits);
    close(s);
    return rc < 0 && errno != EEXIST ? fail(r, ERR_IO, cidr) : 0;
}

static int set_up_network(const struct space_config *cfg, int *ret_tun, struct report *r)
{
    /* The host's congestion control may pace, which the path in memory does not need. */
    write_file("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
    write_file("/proc/sys/net/ipv6/conf/all/addr_gen_mode", "1");
    write_file("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1");
    write_file("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535");
    write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    *ret_tun = tun_open(INTERFACE);
    if (*ret_tun < 0)
        return fail(r, *ret_tun,
                    "cannot make a TUN interface (/dev/net/tun must exist and be open to you: "
                    "modprobe tun; chmod 0666 /dev/net/tun)");
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq mtu = {.ifr_mtu = SPACE_MTU}, queue = {.ifr_qlen = QUEUE_LEN}, index = {0};
    int rc = bring_up(s, "lo");
    rc |= set_interface(s, INTERFACE, SIOCSIFMTU, &mtu);
    rc |= set_interface(s, INTERFACE, SIOCSIFTXQLEN, &queue);
    rc |= set_interface(s, INTERFACE, SIOCGIFINDEX, &index);
    rc = rc < 0 ? fail(r, ERR_IO, "cannot set up the interface") : set_up_v4(s, r);
    if (rc == 0 && bring_up(s, INTERFACE) < 0)
        rc = fail(r, ERR_IO, "cannot bring the interface up");
    close(s);
    if (rc == 0 && cfg->has_v6)
        rc = set_up_v6(index.ifr_ifindex, r);
    static const char *const everything[] = {"0.0.0.0/0", "::/0"};
    const char *const *routes = cfg->routes ? cfg->routes : everything;
    size_t n = cfg->routes ? cfg->n_routes : cfg->has_v6 ? 2 : 1;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_route(routes[i], index.ifr_ifindex, r);
    return rc;
}

/* A file of the namespace's own in the place of /etc/resolv.conf; the ways around it, by sockets of
 * the host's name services, are covered. */
static int set_up_names(const struct space_config *cfg, struct report *r)
{
    static const char *const leaks[] = {"/run/systemd/resolve", "/run/nscd", "/run/avahi-daemon"};
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return fail(r, ERR_IO, "cannot make the mount namespace private");
    if (!cfg->resolv_conf)
        return 0;
    char path[] = "/tmp/warren-resolv-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return fail(r, ERR_IO, "cannot make a file in /tmp");
    bool is_written =
        write(fd, cfg->resolv_conf, strlen(cfg->resolv_conf)) == (ssize_t)strlen(cfg->resolv_conf);
    fchmod(fd, 0644);
    close(fd);
    int rc = is_written ? mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL) : -1;
    unlink(path); /* the bind keeps it */
    if (rc < 0)
        return fail(r, ERR_IO, "cannot put the network's resolv.conf over /etc/resolv.conf");
    for (size_t i = 0; i < ARRAY_SIZE(leaks); i++) {
        if (access(leaks[i], F_OK) == 0)
            mount("none", leaks[i], "tmpfs", MS_NOSUID | MS_NODEV, "size=4k");
    }
    return 0;
}

static int prepare(const struct space_config *cfg, int *ret_tun, struct report *r)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (uid != 0)
        TRY(enter_user_namespace(uid, gid, cfg->as_root, r));
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) < 0)
        return fail(r, ERR_DENIED, "cannot make a network namespace");
    TRY(set_up_network(cfg, ret_tun, r));
    TRY(set_up_names(cfg, r));
    if (uid != 0)
        keep_capabilities();
    return 0;
}

static void send_report(int to, const struct report *r, int fd)
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

__attribute__((noreturn)) static void run_child(const struct space_config *cfg, int control)
{
    struct report r = {0};
    int tun = -1;
    char go;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* without the mount it has no network */
    int rc = prepare(cfg, &tun, &r);
    send_report(control, &r, rc == 0 ? tun : -1);
    if (rc < 0)
        _exit(125);
    close(tun);
    if (read(control, &go, 1) != 1)
        _exit(125); /* whoever mounted is gone */
    execvp(cfg->argv[0], cfg->argv);
    int status = errno == ENOENT ? 127 : 126;
    fprintf(stderr, "warren mount: cannot run '%s': %s\n", cfg->argv[0], strerror(errno));
    _exit(status);
}

/* ---- outside ---- */

static int receive_report(int from, struct report *r)
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

int space_open(const struct space_config *cfg, struct space *ret, struct diag *d)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return diag_set(d, ERR_LIMIT, "cannot make a socket: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        run_child(cfg, pair[1]);
    }
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return diag_set(d, ERR_LIMIT, "cannot start a process: %s", strerror(errno));
    }
    struct report r = {0};
    *ret = (struct space){.pid = pid, .go = pair[0], .tun = receive_report(pair[0], &r)};
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
    (void)!send(s->go, "g", 1, MSG_NOSIGNAL);
}

int space_wait(struct space *s)
{
    int status = 0;
    close(s->go);
    while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(s->pidfd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
