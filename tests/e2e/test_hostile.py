"""Guest root against the host and against its neighbours."""
import ctypes
import os
import pathlib
import re
import shutil

from backends import only
from harness import sh, wait_for
from truth import assert_unchanged, ensure_tiny, pool_path, snapshot, static_program, subvolumes, tree_hash

GREEDY = r"""
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
/* As root and as many others, each in processes of its own, so that no limit of descriptors comes first. */
int main(void) {
    struct rlimit most = {1 << 16, 1 << 16};
    setrlimit(RLIMIT_NOFILE, &most);
    fclose(fopen("/told", "a"));
    chmod("/told", 0666);
    for (int id = 0; id < 40; id++) {
        if (fork() == 0) {
            if (id && (setgid(id) || setuid(id))) return 1;
            int got = 0;
            while (inotify_init1(0) >= 0) got++;
            FILE *told = fopen("/told", "a");
            fprintf(told, "%d %d\n", id, got);
            fclose(told);
            for (;;) { while (inotify_init1(0) >= 0); usleep(1000); }
        }
    }
    for (;;) pause();
}
"""

SUBVOLUMES = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
/* Each request that makes a subvolume, in each way in which it can be asked for. Prints one line each: way, errno. */
struct args { int64_t fd; char name[4088]; };
struct inherit { uint64_t flags, groups, references, exclusives, limit[5], ids[1]; };
struct args2 { int64_t fd; uint64_t transaction, flags, size; struct inherit *inherit; uint64_t rest[2]; char name[4040]; };
static long as_i386(long number, long a, long b, long c) {
    long answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    if (answer < 0) { errno = -answer; return -1; }
    return answer;
}
int main(int count, char **argument) {
    int dir = open(argument[1], O_RDONLY | O_DIRECTORY);
    uint64_t neighbour = strtoull(argument[2], 0, 10), n = 0;
    uint64_t requests[] = {0x5000940e, 0x50009401, 0x50009417, 0x50009418};
    uint64_t high[] = {0, 0xdeadbeef00000000, 0xffffffff00000000, 1ull << 32};
    if (dir < 0) return 1;
    for (int r = 0; r < 4; r++) for (int h = 0; h < 4; h++) for (int group = 0; group < 3; group++) for (int abi = 0; abi < 3; abi++) {
        /* In the low 4 GiB, where a 32-bit system call can reach it. */
        char *low = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        struct inherit *inherit = (void *)(low + 8192);
        inherit->groups = group == 2;
        inherit->ids[0] = neighbour;
        if (r < 2) {
            struct args *a = (void *)low;
            a->fd = dir;
            sprintf(a->name, "made%lu", n++);
        } else {
            struct args2 *a = (void *)low;
            a->fd = dir;
            sprintf(a->name, "made%lu", n++);
            if (group) { a->flags = 4; a->size = sizeof *inherit; a->inherit = inherit; }
        }
        uint64_t request = requests[r] | high[h];
        errno = 0;
        long got = abi == 0 ? syscall(SYS_ioctl, dir, request, low)
                 : abi == 1 ? as_i386(54, dir, (long)request, (long)low)
                            : syscall(0x40000000 | 514, dir, request, low);
        printf("%lx group%d abi%d %s\n", request, group, abi, got >= 0 ? "MADE" : strerrorname_np(errno));
        munmap(low, 1 << 16);
    }
    return 0;
}
"""

WRITABLE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
/* Tries to write below argv[1], a read-only mount, with every call that changes a mount. Prints what succeeded. */
struct attributes { uint64_t set, clear, propagation, namespace; };
static const char *at;
static int can_write(const char *below) {
    char path[256];
    snprintf(path, sizeof path, "%s/written", below);
    int file = open(path, O_WRONLY | O_CREAT, 0644);
    if (file >= 0) { printf("WROTE %s\n", path); close(file); return 1; }
    return 0;
}
static void attempt(const char *how, long done, const char *below) {
    printf("%s: %s\n", how, done < 0 ? strerrorname_np(errno) : "allowed");
    can_write(below);
}
static void all(void) {
    struct attributes clear = {0, 1 /* RDONLY */, 0, 0};
    mkdir("/mnt/a", 0755); mkdir("/mnt/b", 0755); mkdir("/mnt/c", 0755);
    can_write(at);
    attempt("remount", mount(0, at, 0, MS_REMOUNT, 0), at);
    attempt("remount bind", mount(0, at, 0, MS_REMOUNT | MS_BIND, 0), at);
    attempt("remount with data", mount("x", at, "btrfs", MS_REMOUNT, "rw"), at);
    attempt("mount_setattr", syscall(442, -100, at, 0, &clear, sizeof clear), at);
    attempt("mount_setattr all below", syscall(442, -100, at, 0x8000, &clear, sizeof clear), at);
    attempt("bind elsewhere", mount(at, "/mnt/a", 0, MS_BIND, 0), "/mnt/a");
    attempt("bind elsewhere, remount", mount(0, "/mnt/a", 0, MS_REMOUNT | MS_BIND, 0), "/mnt/a");
    char inner[256];
    snprintf(inner, sizeof inner, "/mnt/b%s", at);
    attempt("bind of /, with all below", mount("/", "/mnt/b", 0, MS_BIND | MS_REC, 0), inner);
    attempt("remount of that", mount(0, inner, 0, MS_REMOUNT | MS_BIND, 0), inner);
    attempt("mount_setattr of that", syscall(442, -100, inner, 0, &clear, sizeof clear), inner);
    int tree = syscall(428, -100, at, 1 /* CLONE */);
    attempt("open_tree", tree, at);
    attempt("mount_setattr on it", syscall(442, tree, "", 0x1000, &clear, sizeof clear), at);
    attempt("move_mount", syscall(429, tree, "", -100, "/mnt/c", 4), "/mnt/c");
    attempt("overlay", mount("o", "/mnt/c", "overlay", 0, "lowerdir=/bin"), at);
    attempt("btrfs anew", mount("/dev/loop0", "/mnt/c", "btrfs", 0, 0), "/mnt/c");
}
int main(int count, char **argument) {
    at = argument[1];
    all();
    for (int nested = 0; nested < 2; nested++) {
        if (fork() == 0) {
            unshare(CLONE_NEWNS | (nested ? CLONE_NEWUSER : 0));
            printf("in another namespace, %d\n", nested);
            mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
            all();
            printf("umount: %s\n", umount2(at, MNT_DETACH) ? strerrorname_np(errno) : "allowed");
            fflush(stdout);
            _exit(0);
        }
        wait(0);
    }
    return 0;
}
"""

WHO = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* Prints as whom it runs; with an argument, as whom it runs when that user executes it. */
int main(int count, char **argument) {
    if (count > 1 && !setuid(0) && !setuid(atoi(argument[1]))) execl(argument[0], argument[0], NULL);
    printf("%d\n", geteuid());
    return 0;
}
"""


def put(node, vps, source, name):
    """A static program in /persistent of a VPS."""
    path = static_program(node.dir, name, source)
    shutil.copy(path, pool_path(node) / f"{vps}/private/{name}")
    path.unlink()
    return f"/persistent/{name}"


def test_a_guest_that_takes_all_inotify_instances_stops_nobody(node):
    """H1, H9: another VPS with systemd starts and says `running`, and the host itself has instances left."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as greedy:
        program = put(node, greedy, GREEDY, "greedy")
        node.exec(greedy, "sh", "-c", f"{program} > /dev/null 2>&1 < /dev/null &")
        told = wait_for("it has taken what it can", lambda: len(lines := node.exec(
            greedy, "cat", "/told", check=False).stdout.split("\n")) > 40 and lines, 20)
        taken = sum(int(line.split()[1]) for line in told if line)
        assert taken >= 64, f"only {taken}: this proves nothing"
        libc = ctypes.CDLL(None, use_errno=True)
        own = libc.inotify_init1(0)
        assert own >= 0, f"the host has none left: {os.strerror(ctypes.get_errno())}"
        os.close(own)
        with node.vps("debian-12-impermanence", wait=False) as other:
            node.wait_running(other)
        assert node.show(greedy)["state"] == "running"
        print(f"  {taken} instances were taken")


@only("btrfs", "requests of btrfs")
def test_no_request_of_a_guest_makes_a_subvolume(node):
    """H7: four requests, with high bits in the number, with no, an empty, and a neighbour's quota group, as 64-bit,
    32-bit and x32 system calls."""
    ensure_tiny(node)
    with node.vps("tiny", "--feature", "nesting", wait=False) as vps, node.vps("tiny", start=False) as neighbour:
        listed = sh("btrfs", "subvolume", "list", pool_path(node)).stdout
        group = re.search(rf"^ID (\d+) .* path {neighbour}$", listed, re.M).group(1)
        wait_for("the graves are gone", lambda: not node.graves())
        before = set(subvolumes(node))
        program = put(node, vps, SUBVOLUMES, "subvolumes")
        for place in ("/persistent", "/", "/tmp"):
            lines = node.exec(vps, program, place, group).splitlines()
            assert len(lines) == 4 * 4 * 3 * 3, lines
            for line in lines:
                # A kernel without the 32-bit ABIs answers ENOSYS.
                allowed = ["ENOTTY"] if line.split()[2] == "abi0" else ["ENOTTY", "ENOSYS"]
                assert line.split()[-1] in allowed, f"{place}: {line}"
        assert set(subvolumes(node)) == before
        assert [line for line in lines if line.endswith("ENOTTY")]


def test_a_quota_holds_against_guest_root(node):
    """D1, H7: in the dataset and by links, holes and preallocation; the neighbour has its room."""
    ensure_tiny(node)
    with node.vps("tiny", start=False) as vps:
        node.run("dataset", "set", vps, "quota=512M")
        node.run("dataset", "create", f"{vps}/small", "--quota", "32M", "--mount", "/small")
        node.run("start", vps)
        done = node.exec(vps, "sh", "-c", "dd if=/dev/urandom of=/small/big bs=1M count=64; sync", check=False)
        assert "quota" in done.stderr.lower(), done.stderr
        for way in ("for n in $(seq 400); do dd if=/dev/urandom of=/small/f$n bs=100k count=1 2>/dev/null; done",
                    "fallocate -l 40M /small/reserved", "truncate -s 1G /small/hole; dd if=/dev/urandom of=/small/hole "
                    "bs=1M count=64 seek=10 conv=notrunc 2>/dev/null"):
            node.exec(vps, "sh", "-c", f"{way}; sync", check=False)
        os.sync()
        used = int(sh("du", "-s", "--block-size=1", pool_path(node) / f"{vps}/small/private").stdout.split()[0])
        assert used <= 33 << 20, f"{used} bytes in a dataset of 32M"
        node.exec(vps, "sh", "-c", "dd if=/dev/urandom of=/persistent/other bs=1M count=8")
        node.exec(vps, "sh", "-c", "rm -rf /small/*; echo again > /small/again")


def test_read_only_holds_and_writable_is_writable(node):
    """D3: remount, bind and remount, mount_setattr, open_tree, namespaces of its own, and below the mount."""
    ensure_tiny(node)
    with node.vps("tiny", start=False) as vps:
        node.run("dataset", "set", vps, "quota=512M")
        for name, words in (("locked", ["--read-only"]), ("open", [])):
            node.run("dataset", "create", f"{vps}/{name}", "--quota", "32M")
            node.run("mount", "add", f"{vps}/{name}", f"/{name}", *words)
        locked = pool_path(node) / f"{vps}/locked/private"
        (locked / "kept").write_text("kept")
        before = tree_hash(locked)
        node.run("start", vps)
        program = put(node, vps, WRITABLE, "writable")
        said = node.exec(vps, program, "/locked")
        assert "WROTE" not in said, said
        assert tree_hash(locked) == before, f"the dataset was written to\n{said}"
        # By the shell's tools as well, and what lies below the mount is the root's, not the dataset's.
        for line in ("mount -o remount,rw /locked", "mount -o remount,bind,rw /locked", "touch /locked/x",
                     "mount -o bind /locked /mnt; mount -o remount,bind,rw /mnt; touch /mnt/x",
                     "umount /locked; touch /locked/x; rm -rf /locked/*"):
            node.exec(vps, "sh", "-c", line, check=False)
        assert tree_hash(locked) == before
        node.exec(vps, "touch", "/open/written")
        assert (pool_path(node) / f"{vps}/open/private/written").exists(), "a writable mount is not"
        assert "WROTE" in node.exec(vps, program, "/open"), "the program that tries proves nothing"


def test_a_guest_sees_nothing_of_others(node):
    """R3, H1: no dataset of another, no top of its own, no path of the host that leads there; no device, no handle."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps, node.vps("tiny", wait=False) as other:
        secret = "6d0c9a1e-secret"
        (pool_path(node) / f"{other}/private/secret").write_text(secret)
        roots = [line.split(" ")[3] for line in node.exec(vps, "cat", "/proc/self/mountinfo").splitlines()]
        assert not [root for root in roots if re.match(rf"/{other}\b", root)], roots
        assert [root for root in roots if re.match(rf"/{vps}\b", root)]
        assert not [root for root in roots if re.match(rf"/{vps}[^/]*$", root)], f"a dataset's own top is shown: {roots}"
        found = node.exec(vps, "sh", "-c", "grep -rls --exclude-dir=proc --exclude-dir=sys -e '6d0c9a1e-[s]ecret' / "
                          "2>/dev/null; ls /..; ls /proc/1/root/../..; cat /proc/1/root/persistent/secret; true",
                          check=False)
        assert secret not in found.stdout + found.stderr, found.stdout
        for number in ("b 7 0", "b 7 1", "c 1 1", "b 259 0"):
            made = node.exec(vps, "mknod", "/tmp/device", *number.split(), check=False)
            assert made.returncode != 0, f"a device node was made: {number}"
        assert not node.exec(vps, "sh", "-c", "ls /dev/loop* /dev/sd* /dev/vd* /dev/nvme* /dev/btrfs-control 2>/dev/null",
                             check=False).stdout
        # The same number is another user on the host: neither can signal or look into the other.
        mine, theirs = node.show(vps)["ids"], node.show(other)["ids"]
        assert mine["first"] + mine["count"] <= theirs["first"] or theirs["first"] + theirs["count"] <= mine["first"]
        pid = node.show(vps)["run"]["init_pid"]
        owner = re.search(r"^Uid:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M).group(1)
        assert int(owner) == mine["first"], f"guest root is {owner} on the host"


@only("btrfs", "modes of directories of the pool, which the daemon has mounted")
def test_setuid_files_of_a_guest_are_nothing_on_the_host(node):
    """R3: the pool is nosuid and nodev for the host, tops are 0700, so no host user comes near a guest's files."""
    ensure_tiny(node)
    with node.vps("tiny", wait=False) as vps:
        program = put(node, vps, WHO, "who")
        node.exec(vps, "sh", "-c", f"chown 0:0 {program} && chmod 4755 {program}")
        assert node.exec(vps, "ls", "-l", program).startswith("-rws")
        pool = node.state / "pool"
        options = next(line.split(" ")[5] for line in
                       pathlib.Path(f"/proc/{node.daemon.pid}/mountinfo").read_text().splitlines()
                       if line.split(" ")[4] == str(pool))
        assert {"nosuid", "nodev"} <= set(options.split(",")), options
        # Nobody passes the pool's top, whatever the modes below it.
        for name in ("", ".mayfly", "trash", "templates"):
            mode = (pool_path(node) / name).stat().st_mode & 0o7777
            assert mode == 0o700, f"{name or 'the pool'} has mode {mode:o}"
        inside = ["nsenter", f"--mount=/proc/{node.daemon.pid}/ns/mnt"]
        # `setpriv` has its capabilities until it executes something: the next program is without.
        stranger = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env"]
        file = pool / f"{vps}/private/who"
        ran = sh(*inside, *stranger, file, check=False)
        assert ran.returncode != 0 and "ermission" in ran.stderr, ran
        # Even where somebody had opened the way, the mount does not honour the bit.
        ran = sh(*inside, "sh", "-c", f"exec 9< {file}; exec {' '.join(stranger)} /proc/self/fd/9", check=False)
        assert ran.stdout.strip() == "65534", f"a guest's file ran as: {ran}"
        # In the guest itself the bit works: sudo needs it.
        assert node.exec(vps, program, "1000") == "0"


def test_a_hostile_tree_is_not_walked_by_the_host(node):
    """R4, D3: symlinks of the guest where the host puts files and makes mount points lead nowhere but into the guest."""
    ensure_tiny(node)
    with node.vps("tiny", start=False) as vps:
        node.run("dataset", "set", vps, "quota=256M")
        node.run("dataset", "create", f"{vps}/data", "--quota", "32M", "--mount", "/persistent/a/b")
        victim = node.dir / "victim"
        victim.mkdir()
        (victim / "file").write_text("host")
        before = tree_hash(victim)
        private = pool_path(node) / f"{vps}/private"
        for target in (victim, "../" * 20 + str(victim)[1:], "/proc/1/root", "a", f"/proc/{node.daemon.pid}/root{victim}"):
            (private / "a").symlink_to(target)
            state = snapshot(node)
            refused = node.refused("mount.refused", "start", vps)
            assert "/a" in refused.message and "symlink" in refused.message, refused.message
            wait_for("the root that was begun is gone", lambda: not node.temporary_roots(vps) and not node.graves(), 40)
            assert_unchanged(node, state, besides=["carried out"])
            (private / "a").unlink()
        for kind in ("file", "fifo"):
            (private / "a").touch() if kind == "file" else os.mkfifo(private / "a")
            node.refused("mount.refused", "start", vps)
            (private / "a").unlink()
        assert tree_hash(victim) == before
        node.run("start", vps)
        node.exec(vps, "touch", "/persistent/a/b/there")
        shutil.rmtree(victim)


def test_a_quota_cannot_be_passed_by_sharing_blocks(node):
    """D1, R2: what is copied from the temporary root into persistent data counts there; nothing is shared between them."""
    with node.vps("debian-12-impermanence") as vps:
        node.exec(vps, "dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=48", "status=none")
        refused = node.exec(vps, "cp", "--reflink=always", "/big", "/persistent/big", check=False)
        assert refused.returncode != 0, "blocks were shared"
        node.exec(vps, "cp", "/big", "/persistent/big")
        node.exec(vps, "sync")
        node.exec(vps, "cmp", "/big", "/persistent/big")
        used = next(d["used_bytes"] for d in node.json("dataset", "list", vps) if d["name"] in ("", str(vps)))
        assert used >= 48 << 20, f"{used} bytes count"
