/*
 * Process 1 of a space. It lets the program go, passes signals on, buries what was orphaned, and
 * ends with the program, or with whoever mounted: everything in the space ends with it. It is a
 * fork of that process, so what the program must not read is not in memory when the space is made.
 */
#include "mount/space_internal.h"

#include "base/macro.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the program ---- */

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

/* The machine's root could join other namespaces, or reach its memory: nothing of that is needed
 * for a program in a network. */
static void drop_capabilities(void)
{
    static const int caps[] = {CAP_SYS_ADMIN, CAP_SYS_MODULE, CAP_SYS_RAWIO,
                               CAP_SYS_BOOT,  CAP_SYS_PTRACE, CAP_MKNOD};
    for (size_t i = 0; i < ARRAY_SIZE(caps); i++)
        prctl(PR_CAPBSET_DROP, caps[i], 0, 0, 0);
}

void space_become(char *const *argv, bool is_user)
{
    static const char *const private_names[] = {"WARREN_TOKEN", "NOTIFY_SOCKET", "WATCHDOG_USEC",
                                                "WATCHDOG_PID"};
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (is_user)
        keep_capabilities();
    else
        drop_capabilities();
    for (size_t i = 0; i < ARRAY_SIZE(private_names); i++)
        unsetenv(private_names[i]);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(argv[0], argv);
    int status = errno == ENOENT ? 127 : 126;
    fprintf(stderr, "warren mount: cannot run '%s': %s\n", argv[0], strerror(errno));
    _exit(status);
}

/* ---- process 1 ---- */

/* It keeps nothing open that is not its own: no pipe that somebody waits to see closed. */
static void let_go_of_descriptors(int control, int signals)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= STDERR_FILENO && null >= 0; fd++)
        dup2(null, fd);
    int low = MIN(control, signals), high = MAX(control, signals);
    if (low > STDERR_FILENO + 1)
        close_range(STDERR_FILENO + 1, (unsigned int)low - 1, 0);
    if (high > low + 1)
        close_range((unsigned int)low + 1, (unsigned int)high - 1, 0);
    close_range((unsigned int)high + 1, ~0U, 0);
}

/* Whether the program is among those that ended. */
static bool bury(pid_t program, int *ret_status)
{
    bool has_ended = false;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != program)
            continue;
        *ret_status = status;
        has_ended = true;
    }
    return has_ended;
}

/* False: whoever mounted is gone. */
static bool pass_signal(int control, pid_t program)
{
    char signum;
    ssize_t n = recv(control, &signum, 1, MSG_DONTWAIT);
    if (n == 1 && program > 0 && signum > 0)
        kill(program, signum);
    return n == 1 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void serve(int control, int signals, pid_t program)
{
    struct pollfd p[] = {{.fd = control, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    struct signalfd_siginfo ignored;
    int status;
    for (;;) {
        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents && !pass_signal(control, program))
            return;
        if (!p[1].revents)
            continue;
        (void)!read(signals, &ignored, sizeof(ignored));
        if (bury(program, &status)) {
            (void)!send(control, &status, sizeof(status), MSG_NOSIGNAL);
            return;
        }
    }
}

void space_run_init(char *const *argv, int control, bool is_user)
{
    sigset_t all;
    pid_t program = 0;
    char go;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    char *token = getenv("WARREN_TOKEN"); /* a program of a user may read its memory */
    if (token)
        explicit_bzero(token, strlen(token));
    int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (argv && recv(control, &go, 1, 0) != 1)
        _exit(125); /* whoever mounted is gone */
    if (argv && (program = fork()) == 0)
        space_become(argv, is_user);
    if (program < 0)
        _exit(125);
    let_go_of_descriptors(control, signals);
    serve(control, signals, program);
    _exit(0);
}
