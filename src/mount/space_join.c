/* One more program in a space that is there. */
#include "mount/space_internal.h"

#include "base/error.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID)

static pid_t program; /* for the handler */

static void pass_signal(int signum)
{
    if (program > 0)
        kill(program, signum);
}

/* Ctrl-C is the terminal's word to the program itself; what others send is passed on. */
static void set_signals(void)
{
    struct sigaction pass = {.sa_handler = pass_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    bool has_terminal = tcgetpgrp(STDIN_FILENO) == getpgrp();
    sigaction(SIGTERM, &pass, NULL);
    sigaction(SIGHUP, &pass, NULL);
    sigaction(SIGINT, has_terminal ? &ignore : &pass, NULL);
    sigaction(SIGQUIT, has_terminal ? &ignore : &pass, NULL);
}

/* A user's place has a user namespace; root's has none of its own. */
static int enter(int pidfd, bool *ret_is_user)
{
    *ret_is_user = true;
    if (setns(pidfd, CLONE_NEWUSER | NAMESPACES) == 0)
        return 0;
    *ret_is_user = false;
    return errno == EINVAL ? setns(pidfd, NAMESPACES) : -1;
}

int space_join(int pidfd, char *const *argv, int *ret_status, struct diag *d)
{
    char here[PATH_MAX];
    bool has_here = getcwd(here, sizeof(here)) != NULL, is_user;
    if (enter(pidfd, &is_user) < 0)
        return diag_set(d, errno == EPERM ? ERR_DENIED : ERR_IO, "cannot enter the mount: %s",
                        strerror(errno));
    if (!has_here || chdir(here) < 0)
        (void)!chdir("/");
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    program = fork();
    if (program == 0)
        space_become(argv, is_user);
    if (program > 0)
        set_signals();
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (program < 0)
        return diag_set(d, ERR_LIMIT, "cannot start a process: %s", strerror(errno));
    while (waitpid(program, ret_status, 0) < 0 && errno == EINTR)
        ;
    return 0;
}
