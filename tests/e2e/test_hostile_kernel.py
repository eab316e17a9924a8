"""What the kernel lets a guest's root do, call by call: docs/isolation.md has the list. Nothing of it changes the host."""
import pathlib

from harness import sh
from hostile import besieged
from truth import pool_path, static_program

CALLS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <unistd.h>
/* One line a call: its name, and `allowed` or the error. */
static void say(const char *what, long done) { printf("%s %s\n", what, done < 0 ? strerrorname_np(errno) : "allowed"); fflush(stdout); }
static long writes(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return -1;
    long done = write(file, text, strlen(text));
    close(file);
    return done;
}
int main(void) {
    char buffer[4096];
    mkdir("/tmp/m", 0755);
    /* The kernel itself. */
    say("syslog", klogctl(3, buffer, sizeof buffer));
    say("syslog-size", klogctl(10, 0, 0));
    say("open-kmsg", open("/dev/kmsg", O_RDONLY));
    say("open-proc-kmsg", open("/proc/kmsg", O_RDONLY | O_NONBLOCK));
    say("open-kcore", open("/proc/kcore", O_RDONLY));
    say("init_module", syscall(SYS_init_module, "x", 1UL, ""));
    say("finit_module", syscall(SYS_finit_module, 0, "", 0));
    say("delete_module", syscall(SYS_delete_module, "loop", 0));
    say("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
    say("kexec_file_load", syscall(SYS_kexec_file_load, 0, 0, 0, "", 0));
    say("swapon", swapon("/tmp", 0));
    say("acct", acct("/tmp/acct"));
    struct timeval now = {1, 0};
    say("settimeofday", settimeofday(&now, 0));
    struct timex adjust = {.modes = ADJ_FREQUENCY, .freq = 1};
    say("adjtimex", adjtimex(&adjust));
    say("iopl", syscall(SYS_iopl, 3));
    say("ioperm", syscall(SYS_ioperm, 0x80, 1, 1));
    say("quotactl", syscall(SYS_quotactl, 0x800003 << 8, "/dev/loop0", 0, buffer));
    say("sysrq", writes("/proc/sysrq-trigger", "h"));
    /* Keys. */
    say("add_key", syscall(SYS_add_key, "user", "x", "x", 1UL, -2));
    say("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    say("request_key", syscall(SYS_request_key, "user", "x", 0, -2));
    /* Programs for the kernel, and looks at others. */
    struct bpf_insn code[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
    union bpf_attr program = {.prog_type = BPF_PROG_TYPE_KPROBE, .insn_cnt = 2, .insns = (uint64_t)code, .license = (uint64_t)"GPL"};
    say("bpf-kprobe", syscall(SYS_bpf, BPF_PROG_LOAD, &program, sizeof program));
    union bpf_attr next = {0};
    say("bpf-list", syscall(SYS_bpf, BPF_PROG_GET_NEXT_ID, &next, sizeof next));
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK, .size = sizeof event};
    say("perf-of-a-processor", syscall(SYS_perf_event_open, &event, -1, 0, -1, 0));
    say("perf-of-the-kernel", syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
    struct io_uring_params ring = {0};
    say("io_uring", syscall(SYS_io_uring_setup, 4, &ring));
    struct file_handle handle = {0};
    say("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, &handle, O_RDONLY));
    /* Devices and file systems. */
    const struct { const char *name; int kind, major, minor; } nodes[] = {{"mem", S_IFCHR, 1, 1}, {"kmsg", S_IFCHR, 1, 11}, {"loop0", S_IFBLK, 7, 0},
        {"loop-control", S_IFCHR, 10, 237}, {"btrfs-control", S_IFCHR, 10, 234}, {"fuse", S_IFCHR, 10, 229}, {"null", S_IFCHR, 1, 3}};
    for (int n = 0; n < 7; n++) for (int place = 0; place < 3; place++) {
        const char *places[] = {"/tmp", "/persistent", "/dev"};
        sprintf(buffer, "%s/node-%s", places[place], nodes[n].name);
        char what[80];
        sprintf(what, "mknod-%s-in-%s", nodes[n].name, places[place] + 1);
        say(what, mknod(buffer, nodes[n].kind | 0666, nodes[n].major << 8 | nodes[n].minor));
    }
    say("mknod-whiteout", mknod("/tmp/whiteout", S_IFCHR, 0));
    say("mount-btrfs", mount("/dev/loop0", "/tmp/m", "btrfs", 0, 0));
    say("mount-ext4", mount("/dev/loop0", "/tmp/m", "ext4", 0, 0));
    say("mount-zfs", mount("tank", "/tmp/m", "zfs", 0, 0));
    say("mount-devtmpfs", mount("d", "/tmp/m", "devtmpfs", 0, 0));
    say("mount-debugfs", mount("d", "/tmp/m", "debugfs", 0, 0));
    say("mount-tracefs", mount("d", "/tmp/m", "tracefs", 0, 0));
    say("mount-securityfs", mount("d", "/tmp/m", "securityfs", 0, 0));
    say("mount-bpf", mount("d", "/tmp/m", "bpf", 0, 0));
    say("fsopen-btrfs", syscall(430, "btrfs", 0) < 0 ? -1 : (errno = EPERM, syscall(431, syscall(430, "btrfs", 0), 6, 0, 0, 0)));
    /* The file system of the pool, through what is mounted. */
    int top = open("/persistent", O_RDONLY | O_DIRECTORY);
    say("freeze", ioctl(top, FIFREEZE, 0));
    uint64_t range[3] = {0, -1, 0};
    say("trim", ioctl(top, FITRIM, range));
    int flags = FS_IMMUTABLE_FL, file = open("/persistent/immutable", O_RDWR | O_CREAT, 0600);
    say("immutable", ioctl(file, FS_IOC_SETFLAGS, &flags));
    const struct { const char *name; unsigned long request; } btrfs[] = {{"btrfs-tree-search", 0xd0009411}, {"btrfs-add-device", 0x5000940a},
        {"btrfs-remove-device", 0x5000940b}, {"btrfs-resize", 0x50009403}, {"btrfs-balance", 0xc4009420}, {"btrfs-scrub", 0xc400941b},
        {"btrfs-quota", 0xc0109428}, {"btrfs-limit", 0x8030942b}, {"btrfs-group", 0x4010942a}, {"btrfs-assign", 0x40189429},
        {"btrfs-default", 0x40089413}, {"btrfs-logical", 0xc0389424}, {"btrfs-send", 0x40489426}, {"btrfs-destroy-by-id", 0x5000943f}};
    for (int n = 0; n < 14; n++) {
        memset(buffer, 0, sizeof buffer);
        if (n == 13) { buffer[16] = 16; *(uint64_t *)(buffer + 56) = 256; }
        say(btrfs[n].name, ioctl(top, btrfs[n].request, buffer));
    }
    /* Files of the kernel. */
    mkdir("/tmp/p", 0755);
    mkdir("/tmp/s", 0755);
    say("mount-proc", mount("p", "/tmp/p", "proc", 0, 0));
    say("mount-sysfs", mount("s", "/tmp/s", "sysfs", 0, 0));
    const struct { const char *path, *text; } knobs[] = {{"sys/kernel/core_pattern", "|/x"}, {"sys/kernel/modprobe", "/x"}, {"sys/kernel/hotplug", "/x"},
        {"sys/kernel/sysrq", "1"}, {"sys/kernel/panic", "1"}, {"sys/kernel/pty/max", "1"}, {"sys/kernel/pid_max", "301"}, {"sys/kernel/dmesg_restrict", "0"},
        {"sys/vm/drop_caches", "3"}, {"sys/vm/overcommit_memory", "2"}, {"sys/fs/file-max", "1"}, {"sys/fs/suid_dumpable", "2"},
        {"sys/fs/inotify/max_user_instances", "1"}, {"sys/user/max_net_namespaces", "100000"}, {"irq/default_smp_affinity", "1"}};
    for (int n = 0; n < 15; n++) for (int fresh = 0; fresh < 2; fresh++) {
        sprintf(buffer, "%s/%s", fresh ? "/tmp/p" : "/proc", knobs[n].path);
        char what[120];
        sprintf(what, "write-%s%s", fresh ? "fresh-" : "", knobs[n].path);
        say(what, writes(buffer, knobs[n].text));
    }
    const struct { const char *path, *text; } devices[] = {{"kernel/uevent_helper", "/x"}, {"power/state", "mem"}, {"kernel/mm/transparent_hugepage/enabled", "never"},
        {"block/loop0/queue/nr_requests", "4"}, {"devices/system/cpu/cpu1/online", "0"}, {"module/loop/uevent", "add"}};
    for (int n = 0; n < 6; n++) {
        sprintf(buffer, "/tmp/s/%s", devices[n].path);
        char what[120];
        sprintf(what, "write-sys-%s", devices[n].path);
        say(what, writes(buffer, devices[n].text));
    }
    /* Its own limits, from the outermost namespace that it has and from one within. */
    struct rlimit more = {1 << 30, 1 << 30};
    say("raise-nofile", setrlimit(RLIMIT_NOFILE, &more));
    say("nice", setpriority(PRIO_PROCESS, 0, -20));
    struct sched_param real = {99};
    say("realtime", sched_setscheduler(0, SCHED_FIFO, &real));
    say("oom-score", writes("/proc/self/oom_score_adj", "-1000"));
    if (fork() == 0) {
        say("unshare-user", unshare(CLONE_NEWUSER));
        say("reboot-within", reboot(RB_AUTOBOOT));
        _exit(0);
    }
    wait(0);
    return 0;
}
"""

# What a guest may do, each for a reason: docs/isolation.md tells.
ALLOWED = {"io_uring", "mknod-whiteout", "mount-proc", "mount-sysfs", "unshare-user"}
# What depends on the kernel and the host's settings: since Linux 6.14 a guest has a pid_max of its own, say.
EITHER = {"perf-of-the-kernel", "mount-bpf", "write-fresh-sys/kernel/pid_max"}
# What daemons raise, also those of other nodes.
BUDGETS = {"kernel/pty/max", "kernel/pid_max", "fs/file-max", "fs/inotify/max_user_instances"}


def knobs():
    """Settings of the host that a guest would like to change."""
    names = ("kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/panic", "kernel/pty/max", "kernel/pid_max",
             "kernel/dmesg_restrict", "vm/overcommit_memory", "fs/file-max", "fs/suid_dumpable", "user/max_net_namespaces",
             "fs/inotify/max_user_instances", "kernel/hostname", "kernel/random/boot_id")
    return {name: at.read_text() for name in names if (at := pathlib.Path("/proc/sys", name)).exists()}


def refuses(node, vps, before):
    """Everything but what is allowed is refused, and nothing of the host has changed."""
    lines = [line.split() for line in node.exec(vps, "/persistent/calls").splitlines()]
    said = {what: how for what, how in lines}
    assert len(said) == len(lines) > 100, len(lines)
    passed = {what for what, how in said.items() if how == "allowed"} - EITHER
    assert passed == ALLOWED, f"allowed {sorted(passed - ALLOWED)}, not allowed {sorted(ALLOWED - passed)}\n{said}"
    # Why it is refused is part of the answer: a program that finds no keys goes on, one that may not use them may not.
    assert {said[call] for call in ("add_key", "keyctl", "request_key")} == {"ENOSYS"}, said
    assert {said[call] for call in ("syslog", "init_module", "kexec_load", "open_by_handle_at")} == {"EPERM"}, said
    now = knobs()
    changed = {name: (before[name], now[name]) for name in now if now[name] != before[name]}
    # A guest would have lowered them.
    assert all(name in BUDGETS and int(new) > int(old) for name, (old, new) in changed.items()), changed
    # It sees no process but its own, in any /proc that it mounts.
    own = {int(p) for p in node.exec(vps, "sh", "-c", "ls /tmp/p").split() if p.isdigit()}
    assert own and len(own) < 20, own
    assert node.exec(vps, "sh", "-c", "cat /tmp/p/keys /proc/keys | wc -l").strip().isdigit()


def test_the_kernel_refuses_guest_root_what_is_the_hosts(node):
    """F1, H7: modules, the log, clocks, devices, the pool's file system, settings, programs for the kernel, keys; and the same
    with every feature that the host can give."""
    before = knobs()
    with besieged(node) as (vps, other):
        program = static_program(node.dir, "calls", CALLS)
        (pool_path(node) / f"{vps}/private/calls").write_bytes(program.read_bytes())
        (pool_path(node) / f"{vps}/private/calls").chmod(0o755)
        refuses(node, vps, before)
        there = [f["name"] for f in node.json("feature", "list", vps) if f["state"] == "off"]
        assert "nesting" in there, there
        node.run("feature", "set", vps, *(f"{feature}=on" for feature in there))
        refuses(node, vps, before)
        other.feels_nothing()
        other.daemon_has_not_grown()
    assert sh("dmesg", check=False).returncode == 0, "the host itself cannot read its log: this proves nothing"
