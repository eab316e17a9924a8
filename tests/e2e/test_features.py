"""Features, impermanence among them: on and off, several at once, with limits, and put back together."""
import contextlib
import errno
import os

from harness import sh, wait_for
from test_crash import persistent
from test_set import agreed
from truth import documents, ensure_tiny, operations_over, pool_path, static_program


def test_impermanence_goes_on_and_off_on_a_running_debian(node):
    """R11: it is restarted into a temporary root, its own root dataset stays as it was; off boots that again."""
    with node.vps("debian-12", "plain") as vps:
        node.exec(vps, "sh", "-c", "echo mine > /mine; sync")
        run = node.show(vps)["run"]
        assert run["root"] == str(vps) and node.temporary_roots(vps) == []

        # systemd is content with the mounts of nested containers.
        node.run("feature", "set", vps, "impermanence=on", "nesting=on", "--root-quota", "1G")
        node.wait_running(vps)
        shown = node.show(vps)
        assert shown["run"]["id"] != run["id"] and node.temporary_roots(vps) == [shown["run"]["root"]]
        assert shown["impermanence"] == {"root_quota_bytes": 1 << 30, "root_kind": "template"}
        assert node.exec(vps, "ls", "/mine", check=False).returncode == 2
        with node.pool() as pool:
            assert (pool / str(vps) / "private/mine").read_text() == "mine\n"
        # Said again it changes nothing: the same run goes on.
        node.run("feature", "set", vps, "impermanence=on")
        assert node.show(vps)["run"] == shown["run"]

        node.run("feature", "set", vps, "impermanence=off")
        node.wait_running(vps)
        assert node.show(vps)["run"]["root"] == str(vps)
        assert node.exec(vps, "cat", "/mine") == "mine"
        wait_for("no temporary root is left", lambda: node.temporary_roots(vps) == [] and not node.graves())


def test_impermanence_of_a_stopped_vps_leaves_it_stopped(node):
    """R11: the next start has a temporary root."""
    with node.vps("debian-12", start=False) as vps:
        node.run("feature", "set", vps, "impermanence=on")
        shown = node.show(vps)
        assert (shown["state"], shown["desired"], shown["run"]) == ("stopped", "stopped", None)
        assert node.nothing_alive(vps) and node.temporary_roots(vps) == []
        node.run("start", vps)
        assert node.temporary_roots(vps) == [node.show(vps)["run"]["root"]]
        node.run("stop", vps, "--force")
        node.run("feature", "set", vps, "impermanence=off")
        assert node.show(vps)["state"] == "stopped" and node.nothing_alive(vps)
        node.run("start", vps)
        assert node.show(vps)["run"]["root"] == str(vps)


def listed(node, vps):
    """What `feature list` says: name to state and detail."""
    return {f["name"]: (f["state"], f["detail"]) for f in node.json("feature", "list", vps)}


def test_a_feature_that_the_host_has_not_is_refused(node):
    """F1, E1: with the reason; nothing is changed, also not what the host has."""
    with node.vps("debian-12", start=False) as vps:
        before = documents(node)["vpses"][vps]
        said = listed(node, vps)
        assert set(said) == {"impermanence", "nesting", *DEVICES} and said["nesting"] == ("off", "")
        for feature, device in DEVICES.items():
            state, why = said[feature]
            assert state == ("off" if usable(device) else "unavailable"), (feature, said[feature])
            if state == "unavailable":
                refused = node.refused("feature.unavailable", "feature", "set", vps, "nesting=on", "memory=300M", f"{feature}=on")
                assert why in refused.message and f"/dev/{device}" in why, refused.message
        if "unavailable" not in {state for state, _ in said.values()}:
            print("  this host has all devices: that one is refused is not shown here")
        node.refused("input.invalid", "feature", "set", vps, "impermanence=on", "nesting=on", "--root-quota", "1M")
        node.refused("input.invalid", "feature", "set", vps, "nesting=on", "memory=1M")
        assert documents(node)["vpses"][vps] == before


# Each line: what was tried, and `done` or the error.
USES = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void say(const char *what, long done) { printf("%s %s\n", what, done < 0 ? strerrorname_np(errno) : "done"); fflush(stdout); }
/* Makes namespaces and says whether proc and sysfs can be mounted there. */
static void mounts(const char *where, int namespaces) {
    if (fork() == 0) {
        /* What is mounted must not be seen outside: a second proc in sight would be all that the next one needs. */
        if (unshare(namespaces) || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0)) { say(where, -1); _exit(0); }
        if (fork() == 0) {
            char what[80];
            sprintf(what, "proc-%s", where);
            say(what, mount("p", "/tmp/p", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
            sprintf(what, "sysfs-%s", where);
            say(what, mount("s", "/tmp/s", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
            int setting = open("/tmp/p/sys/kernel/core_pattern", O_WRONLY);
            if (setting >= 0) printf("a setting of the host opens\n");
            _exit(0);
        }
        wait(0);
        _exit(0);
    }
    wait(0);
}
int main(void) {
    mkdir("/tmp/p", 0755), mkdir("/tmp/s", 0755), mkdir("/tmp/f", 0755);
    int tun = open("/dev/net/tun", O_RDWR);
    say("tun", tun);
    struct ifreq card = {.ifr_name = "vpn0", .ifr_flags = IFF_TUN | IFF_NO_PI};
    if (tun >= 0) say("tun-card", ioctl(tun, TUNSETIFF, &card));
    int fuse = open("/dev/fuse", O_RDWR);
    say("fuse", fuse);
    char how[120];
    sprintf(how, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
    if (fuse >= 0) {
        say("fuse-mount", mount("mine", "/tmp/f", "fuse", MS_NOSUID | MS_NODEV, how));
        say("fuse-umount", umount2("/tmp/f", MNT_DETACH));
    }
    int kvm = open("/dev/kvm", O_RDWR);
    say("kvm", kvm);
    if (kvm >= 0) say("kvm-machine", ioctl(kvm, KVM_CREATE_VM, 0));
    say("ppp", open("/dev/ppp", O_RDWR));
    mounts("own", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET);
    mounts("nested", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET);
    return 0;
}
"""
DEVICES = {"tun": "net/tun", "fuse": "fuse", "kvm": "kvm", "ppp": "ppp"}


def usable(device):
    """Whether the host itself can open it."""
    try:
        os.close(os.open(f"/dev/{device}", os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return False
        raise
    return True


@contextlib.contextmanager
def user(node):
    """A VPS with the program in it, and what the program does there: what is tried, and how it goes."""
    ensure_tiny(node)
    with node.vps("tiny", "--memory", "256M", wait=False) as vps:
        program = static_program(node.dir, "uses", USES)
        inside = pool_path(node) / f"{vps}/private/uses"
        inside.write_bytes(program.read_bytes())
        inside.chmod(0o755)
        yield vps, lambda: dict(line.split(" ", 1) for line in node.exec(vps, "/persistent/uses").splitlines())


def test_a_feature_is_there_when_it_is_on_and_gone_when_it_is_off(node):
    """F1: devices open and work, nested containers get their /proc, several at once; the host has none of what is made."""
    with user(node) as (vps, uses):
        without = uses()
        assert {without[one] for one in DEVICES} == {"ENOENT"}, without
        assert without["proc-own"] == "done" and (without["proc-nested"], without["sysfs-nested"]) == ("EPERM", "EPERM"), without
        on = ["nesting", *(feature for feature, device in DEVICES.items() if usable(device))]
        cards = sh("ip", "-o", "link").stdout

        node.run("feature", "set", vps, *(f"{feature}=on" for feature in on), "memory=300M", "processes=300")
        shown = node.show(vps)
        assert shown["features"] == on, shown["features"]
        assert (shown["limits"]["memory_bytes"], shown["limits"]["processes"]) == (300 << 20, 300)
        within = uses()
        tried = [one for one in within if one.split("-")[0] in on]
        assert {within[one] for one in tried} <= {"done"} and len(tried) >= len(on) - 1, within
        assert {within[one] for one in DEVICES if one not in on} <= {"ENOENT"}, within
        assert (within["proc-nested"], within["sysfs-nested"]) == ("done", "done"), within
        assert not [one for one in within if one.startswith("a ")], "a nested /proc opens what /proc does not"
        # What is made inside is of the guest's own network, and the device is the guest's root's.
        assert sh("ip", "-o", "link").stdout == cards
        for feature in on[1:]:
            assert node.exec(vps, "stat", "-c", "%u:%g", f"/dev/{DEVICES[feature]}").strip() == "0:0"
        # It is of the VPS, not of one run.
        node.run("restart", vps)
        assert uses() == within
        assert {feature for feature, (state, _) in listed(node, vps).items() if state == "on"} - {"impermanence"} == set(on)

        node.run("feature", "set", vps, *(f"{feature}=off" for feature in on))
        assert uses() == without and node.show(vps)["features"] == []


@contextlib.contextmanager
def hidden(node, device):
    """The daemon finds another device there, and nobody else does."""
    inside = ("nsenter", f"--mount=/proc/{node.daemon.pid}/ns/mnt")
    sh(*inside, "mount", "--bind", "/dev/null", f"/dev/{device}")
    try:
        yield
    finally:
        sh(*inside, "umount", f"/dev/{device}")


def test_a_feature_that_the_host_has_lost_keeps_it_from_starting_and_not_from_running(node):
    """F1, E1: the reason and the next step; the run that there is goes on, and without the feature it starts."""
    ensure_tiny(node)
    there = [feature for feature, device in DEVICES.items() if usable(device)]
    assert there, "the host has no device at all: this proves nothing"
    feature = there[0]
    with node.vps("tiny", "--feature", f"{feature},nesting", wait=False) as vps:
        before = node.show(vps)
        assert before["features"] == ["nesting", feature]
        with hidden(node, DEVICES[feature]):
            state, why = listed(node, vps)[feature]
            assert state == "on" and "device 1:3" in why, (state, why)
            for words in (("restart", vps), ("feature", "set", vps, "nesting=off")):
                refused = node.refused("feature.unavailable", *words)
                assert f"{feature}=off" in refused.hint, refused.hint
            assert node.show(vps)["run"] == before["run"], "it was restarted"
            node.run("stop", vps, "--force")
            node.refused("feature.unavailable", "start", vps)
            node.refused("feature.unavailable", "create", "--template", "tiny", "--disk", "64M", "--feature", feature)
            node.run("feature", "set", vps, f"{feature}=off")
            node.run("start", vps)
            assert node.exec(vps, "ls", f"/dev/{DEVICES[feature]}", check=False).returncode != 0
        node.run("feature", "set", vps, f"{feature}=on")
        node.exec(vps, "ls", f"/dev/{DEVICES[feature]}")


def test_features_limits_and_impermanence_that_do_not_start_are_put_back(node):
    """F1, R11: the restart fails; then it runs as before, with the memory, the features and the kind of root that it had."""
    kept = persistent(node)
    vps = kept.id
    init = pool_path(node) / f"{vps}/private/sbin/init"
    good = init.read_bytes()
    init.write_text("#!/bin/none\n")
    kept.hashes = kept.look()
    node.run("feature", "set", vps, "impermanence=on", "memory=256M")
    node.wait_state(vps, "running")
    before = node.show(vps)
    root = before["run"]["root"]
    assert node.temporary_roots(vps) == [root]

    failed = node.refused("vps.start_failed", "feature", "set", vps, "impermanence=off", "nesting=on", "memory=300M", "cpus=1")
    assert str(vps) in failed.message, failed.message
    node.wait_state(vps, "running")
    operations_over(node)
    after = node.show(vps)
    same = ("features", "limits", "impermanence", "state", "desired", "mounts", "datasets")
    assert [after[one] for one in same] == [before[one] for one in same], (before, after)
    assert node.temporary_roots(vps) == [after["run"]["root"]] != [root], "it has a new root, as after every start"
    assert agreed(node, vps)["memory_bytes"] == 256 << 20
    assert node.exec(vps, "ls", "/dev/.lxc", check=False).returncode != 0
    kept.assert_intact()

    # The same with an init that can be executed goes well, so it was that.
    (pool_path(node) / f"{vps}/private/sbin/init").write_bytes(good)
    kept.hashes = kept.look()
    node.run("feature", "set", vps, "impermanence=off", "memory=300M")
    node.wait_state(vps, "running")
    assert node.show(vps)["run"]["root"] == str(vps) and agreed(node, vps)["memory_bytes"] == 300 << 20
    kept.destroy()
