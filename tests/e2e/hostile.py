"""What the tests of hostile guests share: a program that takes what it can get, and a neighbour by which is told whether
anybody else feels it."""
import contextlib
import os
import pathlib
import re
import shutil
import statistics
import time

from harness import SLOW, wait_for
from truth import pool_path, static_program

# Runs with big numbers: MAYFLY_HOSTILE=full. The default is for every day.
FULL = os.environ.get("MAYFLY_HOSTILE") == "full"

# One program, so that it is compiled once. Each attack prints a line `attack number errno` and keeps what it got.
ATTACKS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *error = "none";
static int failed(void) { error = strerrorname_np(errno); return 1; }
static void told(const char *attack, long got) { printf("%s %ld %s\n", attack, got, error); fflush(stdout); for (;;) pause(); }

/* Below the working directory, `depth` directories with names of `length` bytes. */
static long deepen(long depth, int length, char with) {
    char name[256] = {0};
    memset(name, with, length);
    for (long n = 0; n < depth; n++)
        if ((mkdir(name, 0755) && errno != EEXIST) || chdir(name)) { failed(); return n; }
    return depth;
}
static int join_cgroup(void) {
    int file = open("cgroup.procs", O_WRONLY);
    if (file < 0 || write(file, "0", 1) != 1) return failed();
    return 0;
}
/* Forks `count` that each run `each(n)` and stay; the sum of what they answer. */
static long many(long count, long (*each)(long)) {
    long sum = 0;
    for (long n = 0; n < count; n++) {
        int answer[2];
        long got = -1;
        if (pipe(answer)) { failed(); break; }
        int child = fork();
        if (child < 0) { failed(); break; }
        if (child == 0) {
            got = each(n);
            struct { long got; char error[24]; } says = {got};
            strncpy(says.error, error, 23);
            write(answer[1], &says, sizeof says);
            for (;;) pause();
        }
        struct { long got; char error[24]; } says;
        close(answer[1]);
        if (read(answer[0], &says, sizeof says) != sizeof says) { close(answer[0]); break; }
        close(answer[0]);
        if (strcmp(says.error, "none")) error = strdup(says.error);
        if (says.got < 0) break;
        sum += says.got;
    }
    return sum;
}
static int flags;
static const char *path;
static long spaces(long n) { return unshare(flags) ? failed(), -1 : 1; }
static long files(long n) { long got = 0; while (open("/dev/null", O_RDONLY) >= 0) got++; failed(); return got; }
static long locks(long n) {
    long got = 0;
    char name[64];
    sprintf(name, "/tmp/locked-%ld", n);
    int file = open(name, O_RDWR | O_CREAT, 0600);
    struct flock lock = {F_WRLCK, SEEK_SET, 0, 1};
    for (; got < 5000; got++) { lock.l_start = 2 * got; if (fcntl(file, F_SETLK, &lock)) { failed(); break; } }
    return got;
}
static long tables(long n) {
    if (unshare(CLONE_NEWNS)) { failed(); return -1; }
    long got = 0;
    /* Side by side: the kernel walks through all that are stacked at one place, which takes the attacker for ever. */
    char name[32];
    if (mount("x", "/mnt", "tmpfs", 0, "")) { failed(); return -1; }
    for (; got < flags; got++) {
        sprintf(name, "/mnt/%ld", got);
        if (mkdir(name, 0755) || mount("/bin", name, 0, MS_BIND, 0)) { failed(); break; }
    }
    return got;
}
static long named(long n) { prctl(PR_SET_NAME, "\xff\x1b]0;x\x07\n"); return 1; }

int main(int count, char **argument) {
    const char *attack = argument[1];
    long number = count > 2 ? atol(argument[2]) : 0, got = 0;
    path = count > 3 ? argument[3] : "";
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
#define IS(word) (!strcmp(attack, word))
    if (IS("deep-root")) {
        chdir("/tmp");
        got = deepen(number, 200, 'd');
        if (chroot(".")) failed();
    } else if (IS("mute-names")) {
        got = many(number, named);
    } else if (IS("deep-cgroup")) {
        if (chdir(path)) failed();
        got = deepen(number, 240, 'c');
        join_cgroup();
    } else if (IS("odd-cgroup")) {
        if (chdir(path) || mkdir("\xff\x1b[31m", 0755) || chdir("\xff\x1b[31m") || join_cgroup()) failed();
    } else if (IS("cgroups")) {
        char name[32];
        if (chdir(path)) failed();
        for (; got < number; got++) { sprintf(name, "g%ld", got); if (mkdir(name, 0755)) { failed(); break; } }
    } else if (IS("mounts")) {
        flags = number;
        got = tables(0);
    } else if (IS("namespaces")) {
        const struct { const char *name; int flag; } kinds[] = {{"user", CLONE_NEWUSER}, {"net", CLONE_NEWNET}, {"pid", CLONE_NEWPID},
            {"mnt", CLONE_NEWNS}, {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}};
        for (int n = 0; n < 7; n++) if (strstr(path, kinds[n].name)) flags |= kinds[n].flag;
        got = many(number, spaces);
    } else if (IS("files")) {
        got = many(number, files);
    } else if (IS("locks")) {
        got = many(number, locks);
    } else if (IS("ptys")) {
        mkdir("/tmp/pts", 0755);
        for (; got < number; got++) {
            if (got % 1000 == 0 && mount("d", "/tmp/pts", "devpts", 0, "newinstance,ptmxmode=0666")) { failed(); break; }
            if (open("/tmp/pts/ptmx", O_RDWR | O_NOCTTY) < 0) { failed(); break; }
        }
    } else if (IS("aio")) {
        for (; got < number; got += 1000) {
            unsigned long context = 0;
            if (syscall(SYS_io_setup, 1000, &context)) { failed(); break; }
        }
    } else if (IS("inodes")) {
        char name[64];
        mkdir(path, 0755);
        if (chdir(path)) failed();
        for (; got < number; got++) {
            sprintf(name, "inode-%ld", got);
            int file = open(name, O_WRONLY | O_CREAT, 0600);
            if (file < 0) { failed(); break; }
            close(file);
        }
        sync();
    } else if (IS("sockets")) {
        for (; got < number; got++) {
            struct sockaddr_un name = {AF_UNIX};
            int length = sprintf(name.sun_path + 1, "%s", path) + 1, file = socket(AF_UNIX, SOCK_STREAM, 0);
            if (got) length += sprintf(name.sun_path + length, "-%ld", got);
            if (file < 0 || bind(file, (void *)&name, sizeof(sa_family_t) + length) || listen(file, 5)) { failed(); break; }
        }
    } else if (IS("forks")) {
        while (fork() >= 0) got++;
        for (;;) { fork(); }
    } else if (IS("memory")) {
        for (;;) { char *more = malloc(1 << 20); if (!more) { failed(); break; } memset(more, 1, 1 << 20); got++; }
    }
    told(attack, got);
}
"""


def put_attacks(node, vps):
    """The program, in /persistent of a VPS that has it there."""
    built = static_program(node.dir, "attacks", ATTACKS)
    shutil.copy(built, pool_path(node) / f"{vps}/private/attacks")
    return "/persistent/attacks"


def attack(node, vps, what, number, path="", seconds=60, wait=True):
    """Runs one attack in a VPS and leaves it there; answers with how much it got, and the error that ended it."""
    node.exec(vps, "sh", "-c", f"/persistent/attacks {what} {number} {path} > /tmp/{what} 2>&1 < /dev/null &")
    if not wait:
        return None
    said = wait_for(f"{what} has what it can get", lambda: (said := node.exec(
        vps, "cat", f"/tmp/{what}", check=False).stdout.strip()) and said, seconds, 0.1)
    word, got, error = said.splitlines()[-1].split()
    assert word == what, said
    return int(got), error


def mount_cgroup(node, vps, controller="pids"):
    """A guest's own view of one hierarchy; answers with where, or nothing where the host has no such one."""
    at = f"/tmp/cgroup-{controller or 2}"
    kind = f"-t cgroup -o {controller}" if controller else "-t cgroup2"
    done = node.exec(vps, "sh", "-c", f"mkdir -p {at}; mount {kind} c {at}", check=False)
    return at if done.returncode == 0 else None


class Neighbour:
    """Another VPS, and how long it usually takes to start and to stop: measured on this machine, before the attack."""

    def __init__(self, node, vps):
        self.node, self.vps = node, vps
        self.usual = statistics.median([self._took() for _ in range(3)])
        self.daemon = daemon_size(node)

    def _took(self):
        began = time.monotonic()
        self.node.run("restart", self.vps, "--force")
        self.node.exec(self.vps, "true")
        return time.monotonic() - began

    def feels_nothing(self, factor=10, floor=10.0 * SLOW):
        """It stops, starts and executes in its usual time. An attack keeps processors and disks busy, so the limit is
        generous; what is meant to be seen is waiting for something that does not come, for half a minute and longer."""
        took = self._took()
        most = max(floor, factor * self.usual)
        assert took < most, f"a restart of another VPS took {took:.2f} s, usually {self.usual:.2f} s"
        return took

    def daemon_has_not_grown(self, kilobytes=24 << 10, descriptors=8):
        """What the daemon holds, once it is idle."""
        def settled():
            now = daemon_size(self.node)
            return now[0] <= self.daemon[0] + kilobytes and now[1] <= self.daemon[1] + descriptors
        wait_for(f"the daemon is as large as before: {self.daemon}, now {daemon_size(self.node)}", settled, 10)


def daemon_size(node):
    """(resident memory in KiB, open descriptors) of the daemon."""
    return size_of(node.daemon.pid), len(os.listdir(f"/proc/{node.daemon.pid}/fd"))


def size_of(pid):
    """Resident memory in KiB."""
    return int(re.search(r"^VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M).group(1))


@contextlib.contextmanager
def besieged(node, *words, template="tiny"):
    """A VPS to attack from, with the program in it, and a neighbour."""
    node.ensure_template("tiny")
    with node.vps("tiny", wait=False) as other, node.vps(template, *words, wait=False) as vps:
        put_attacks(node, vps)
        yield vps, Neighbour(node, other)


__all__ = [name for name in dir() if not name.startswith("_")]
