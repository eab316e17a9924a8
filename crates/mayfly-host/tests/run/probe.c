/* What a guest tries: run inside a VPS by the tests, one verb each. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Asks for a subvolume in the current directory; `high` sets a bit that the kernel does not look at. */
static int subvolume(unsigned long request, unsigned long high) {
    char args[4096];
    memset(args, 0, sizeof args);
    strcpy(args + 8, "sv");                                      /* btrfs_ioctl_vol_args.name */
    if ((request & 0xff) >= 0x17) strcpy(args + 56, "sv");       /* btrfs_ioctl_vol_args_v2.name */
    int fd = open(".", O_RDONLY);
    *(long long *)args = fd;
    long r = syscall(SYS_ioctl, fd, request | (high << 32), args);
    printf("%lx %lu: %s\n", request, high, r < 0 ? strerror(errno) : "made");
    return r >= 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "init";
    if (!strcmp(verb, "subvolumes")) {
        unsigned long requests[] = {0x5000940e, 0x50009401, 0x50009417, 0x50009418};
        int made = 0;
        for (int i = 0; i < 4; i++) for (unsigned long high = 0; high < 2; high++) made += subvolume(requests[i], high);
        return made ? 1 : 0;
    }
    if (!strcmp(verb, "inotify")) {
        int most = argc > 2 ? 1 << 20 : 1, n = 0;
        while (n < most && inotify_init() >= 0) n++;
        printf("%d\n", n);
        fflush(stdout);
        if (most > 1) pause();
        return n == 1 ? 0 : 1;
    }
    /* An init that outlives its monitor, and ignores what it is asked. */
    prctl(PR_SET_PDEATHSIG, 0);
    signal(SIGUSR1, SIG_IGN);
    puts("orphan ready");
    for (;;) pause();
}
