//! Trees like `/proc`, with mount tables as they were captured on hosts with btrfs and with ZFS.

use std::os::unix::fs::symlink;

use super::*;

const HOST: &str = "user:[4026531837]";
const GUEST: &str = "user:[4026532731]";
const BTRFS_RUN: &str = "\
761 760 254:0 / / rw,relatime - ext4 /dev/root rw
790 761 0:57 /11327.impermanence-c5a8b7/private /var/lib/mayfly/runs/11327.c5a8b7/mnt/root rw,nodev,noatime - btrfs /dev/loop0 rw,subvolid=263
791 761 0:57 /11327/nix/private /var/lib/mayfly/runs/11327.c5a8b7/mnt/0 ro,nodev,noatime - btrfs /dev/loop0 rw,subvolid=258
";
const BTRFS_GUEST: &str = "\
801 790 0:57 /11327.impermanence-c5a8b7/private / rw,nodev,noatime,idmapped - btrfs /dev/loop0 rw,subvolid=263
802 801 0:61 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
803 801 0:57 /11327.impermanence-c5a8b7/private/srv/private /mnt rw,nodev,noatime,idmapped - btrfs /dev/loop0 rw
";
const BTRFS_BURIED: &str = "\
790 761 0:57 /trash/11327.impermanence-c5a8b7.01a2/private /mnt/root rw - btrfs /dev/loop0 rw,subvolid=263
";
const ZFS_BURIED: &str = "\
790 761 0:61 /private /mnt/root rw,nodev,noatime shared:4 - zfs tank/ct/trash/11327.impermanence-c5a8b7.01a2 rw,xattr,posixacl
";
const OTHERS: &str = "\
761 760 254:0 / / rw,relatime - ext4 /dev/root rw
762 761 0:57 /113270/private /x rw - btrfs /dev/loop0 rw
763 761 0:58 /11327/private /y rw - btrfs /dev/loop1 rw
";

struct Fixture {
    dir: tempfile::TempDir,
    pool: KernelIdentity,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
            pool: KernelIdentity::FileSystem {
                device: "0:57".into(),
                root: "/".into(),
            },
        };
        let own = "21 1 254:0 / / rw - ext4 /dev/root rw\n30 21 0:57 / /pool rw - btrfs x rw\n";
        fixture.write(
            "self",
            ("mnt:[1]", HOST),
            "/usr/bin/mayfly",
            b"mayfly\0serve\0",
            own,
        );
        fixture
    }

    fn write(&self, at: &str, spaces: (&str, &str), exe: &str, argv: &[u8], mounts: &str) {
        let at = self.dir.path().join(at);
        fs::create_dir_all(at.join("ns")).unwrap();
        symlink(spaces.0, at.join("ns/mnt")).unwrap();
        symlink(spaces.1, at.join("ns/user")).unwrap();
        symlink("/", at.join("root")).unwrap();
        if !exe.is_empty() {
            symlink(exe, at.join("exe")).unwrap();
        }
        fs::write(at.join("cmdline"), argv).unwrap();
        fs::write(at.join("mountinfo"), mounts).unwrap();
    }

    fn process(&self, pid: i32, spaces: (&str, &str), exe: &str, argv: &[u8], mounts: &str) {
        self.write(&format!("{pid}/task/{pid}"), spaces, exe, argv, mounts);
    }

    fn seen(&self) -> Vec<String> {
        self.seen_within(BUDGET)
    }

    fn mounts(&self, budget: Duration) -> Mounts<'_> {
        Mounts {
            proc: self.dir.path().to_owned(),
            pool: &self.pool,
            budget,
            asks_spaces: false,
        }
    }

    fn seen_within(&self, budget: Duration) -> Vec<String> {
        let vps = 11327.try_into().unwrap();
        let question = Question {
            wanted: &|dataset| super::super::is_of(dataset, vps),
            owner: &|user| {
                Ok(match user {
                    100_000..200_000 => Some(vps),
                    200_000..300_000 => Some(200.try_into().unwrap()),
                    _ => None,
                })
            },
            about: Some(vps),
        };
        self.mounts(budget)
            .observe(&question)
            .unwrap()
            .into_iter()
            .map(|one| {
                let whose = one
                    .holder
                    .map_or_else(|| "alive".into(), |command| format!("holds: {command}"));
                format!("{} {} {} {whose}", one.pid, one.dataset, one.at)
            })
            .collect()
    }
}

#[test]
fn who_of_the_host_copied_a_mount_namespace_holds_and_is_not_alive() {
    let it = Fixture::new();
    it.process(
        7,
        ("mnt:[7]", HOST),
        "/usr/bin/sleep",
        b"sleep\x001000\x00",
        BTRFS_RUN,
    );
    it.process(8, ("mnt:[8]", HOST), "/usr/bin/bash", b"bash\0", OTHERS);
    it.process(9, ("mnt:[1]", HOST), "/usr/bin/bash", b"bash\0", BTRFS_RUN);
    assert_eq!(
        it.seen(),
        [
            "7 11327.impermanence-c5a8b7 /var/lib/mayfly/runs/11327.c5a8b7/mnt/root holds: sleep 1000",
            "7 11327/nix /var/lib/mayfly/runs/11327.c5a8b7/mnt/0 holds: sleep 1000",
        ]
    );
}

#[test]
fn a_process_below_the_hosts_user_namespace_is_alive_wherever_it_is() {
    let it = Fixture::new();
    // In a copy of the supervisor's namespace, outside of every cgroup of the run.
    it.process(
        7,
        ("mnt:[7]", GUEST),
        "/bin/sleep",
        b"sleep\x001000\x00",
        BTRFS_BURIED,
    );
    assert_eq!(
        it.seen(),
        ["7 trash/11327.impermanence-c5a8b7.01a2 /mnt/root alive"]
    );
}

#[test]
fn a_holder_in_the_guests_own_namespace_hides_no_guest() {
    let it = Fixture::new();
    let guests = "mnt:[7]";
    it.process(
        5,
        (guests, HOST),
        "/usr/bin/sleep",
        b"sleep\x001000\x00",
        BTRFS_GUEST,
    );
    assert_eq!(
        it.seen(),
        ["5 11327.impermanence-c5a8b7 / holds: sleep 1000"]
    );
    it.process(
        6,
        (guests, GUEST),
        "/sbin/init",
        b"/sbin/init\0",
        BTRFS_GUEST,
    );
    assert_eq!(it.seen(), ["6 11327.impermanence-c5a8b7 / alive"]);
}

#[test]
fn supervisors_and_lxc_without_records_and_cgroups_are_alive() {
    for (exe, argv) in [
        ("/usr/bin/lxc-start", &b"/usr/bin/lxc-start\0-F\0"[..]),
        ("/usr/bin/lxc-start (deleted)", b"x\0"),
        (
            "/usr/bin/mayfly",
            b"/usr/bin/mayfly\0supervise\0/runs/11327.c5a8b7\0",
        ),
        (
            "/old/mayfly (deleted)",
            b"mayfly\0supervise\0/runs/11327.c5a8b7\0",
        ),
        ("/usr/bin/x", b"[lxc monitor] /run mayfly-x-11327\0"),
    ] {
        let it = Fixture::new();
        it.process(7, ("mnt:[7]", HOST), exe, argv, BTRFS_RUN);
        assert!(it.seen()[0].ends_with("alive"), "{exe}: {:?}", it.seen());
    }
}

#[test]
fn what_was_buried_is_seen_under_its_present_name() {
    let mut it = Fixture::new();
    it.process(
        7,
        ("mnt:[7]", HOST),
        "/usr/bin/sleep",
        b"sleep\x001000\x00",
        BTRFS_BURIED,
    );
    let wanted = ["7 trash/11327.impermanence-c5a8b7.01a2 /mnt/root holds: sleep 1000"];
    assert_eq!(it.seen(), wanted);
    it.pool = KernelIdentity::Datasets {
        pool: "tank/ct".into(),
    };
    assert_eq!(it.seen(), [] as [&str; 0]);
    it.process(
        8,
        ("mnt:[8]", HOST),
        "/usr/bin/sleep",
        b"sleep\x001000\x00",
        ZFS_BURIED,
    );
    assert_eq!(it.seen(), [wanted[0].replacen('7', "8", 1)]);
}

#[test]
fn threads_and_chrooted_processes_hide_nothing() {
    let it = Fixture::new();
    // The first thread is in the daemon's namespace, or has ended; another is not.
    it.process(7, ("mnt:[1]", HOST), "/usr/bin/x", b"x\0", OTHERS);
    it.write(
        "7/task/17",
        ("mnt:[7]", GUEST),
        "/usr/bin/x",
        b"x\0",
        BTRFS_GUEST,
    );
    fs::create_dir_all(it.dir.path().join("9/task/9")).unwrap();
    it.write(
        "9/task/19",
        ("mnt:[9]", GUEST),
        "/usr/bin/x",
        b"x\0",
        BTRFS_BURIED,
    );
    // Two in one namespace; the first shows only what is below its own root.
    let chrooted = "5/task/5";
    it.write(
        chrooted,
        ("mnt:[5]", GUEST),
        "/bin/x",
        b"x\0",
        "802 801 0:61 / / rw - proc proc rw\n",
    );
    fs::remove_file(it.dir.path().join("5/task/5/root")).unwrap();
    symlink("/proc", it.dir.path().join("5/task/5/root")).unwrap();
    it.process(6, ("mnt:[5]", GUEST), "/bin/x", b"x\0", BTRFS_RUN);
    let mut pids: Vec<_> = it.seen().iter().map(|s| s[..1].to_owned()).collect();
    pids.dedup();
    assert_eq!(pids, ["6", "7", "9"]);
}

#[test]
fn what_cannot_be_looked_at_is_alive_or_an_error_and_what_has_ended_is_nothing() {
    let it = Fixture::new();
    // Ended: no table, an empty one, no program.
    it.process(4, ("mnt:[4]", HOST), "", b"", BTRFS_RUN);
    it.process(5, ("mnt:[5]", GUEST), "/bin/x", b"x\0", "");
    it.process(6, ("mnt:[6]", GUEST), "/bin/x", b"x\0", BTRFS_RUN);
    fs::remove_file(it.dir.path().join("6/task/6/mountinfo")).unwrap();
    assert_eq!(it.seen(), [] as [&str; 0]);
    // A directory cannot be read: that is no "nothing there".
    fs::create_dir(it.dir.path().join("6/task/6/mountinfo")).unwrap();
    let everything = Question {
        wanted: &|_| true,
        owner: &|_| Ok(None),
        about: None,
    };
    assert!(it.mounts(BUDGET).observe(&everything).is_err());
}

#[test]
fn a_table_of_endless_lines_is_read_in_bounded_space() {
    let deep = "/d".repeat(1 << 20);
    let line = format!(
        "88 64 0:57 /11327/private{deep} /mnt{deep} rw shared:1 - btrfs /dev/loop0 rw,x={deep}\n"
    );
    let many = format!(
        "{line}{BTRFS_RUN}{}",
        "9 8 0:57 /11327/private /m rw - btrfs x rw\n".repeat(100_000)
    );
    let mut longest = 0;
    let mut lines = 0;
    for_each_line(many.as_bytes(), |line| {
        longest = longest.max(line.len());
        lines += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(lines, 100_004);
    assert!(longest <= LINE_LIMIT, "{longest}");
    let it = Fixture::new();
    it.process(7, ("mnt:[7]", GUEST), "/bin/x", b"x\0", &many);
    assert_eq!(it.seen().len(), 3, "{:?}", it.seen());
    // The source comes after a path that is cut.
    let mut it = Fixture::new();
    it.pool = KernelIdentity::Datasets {
        pool: "tank/ct".into(),
    };
    let line = format!("88 64 0:61 /private{deep} /mnt{deep} rw - zfs tank/ct/11327 rw\n");
    it.process(7, ("mnt:[7]", GUEST), "/bin/x", b"x\0", &line);
    assert!(it.seen()[0].starts_with("7 11327 "), "{:?}", it.seen());
}

#[test]
fn tables_that_take_too_long_are_not_read_where_it_is_known_whose_they_are() {
    let it = Fixture::new();
    let status = |pid: i32, user: u32| {
        let at = it.dir.path().join(format!("{pid}/task/{pid}/status"));
        let text = format!(
            "Name:\tx\nUmask:\t0022\nUid:\t{user}\t{user}\t{user}\t{user}\nGid:\t0\t0\t0\t0\n"
        );
        fs::write(at, text).unwrap();
    };
    // Its own guest, another's, nobody's, and one of the host's that has taken such an id.
    for (pid, users, user) in [
        (5, GUEST, 100_007),
        (6, GUEST, 200_007),
        (7, GUEST, 7),
        (8, HOST, 200_007),
    ] {
        it.process(
            pid,
            (&format!("mnt:[{pid}]"), users),
            "/bin/sleep",
            b"sleep\x001\x00",
            BTRFS_BURIED,
        );
        status(pid, user);
    }
    let buried = "trash/11327.impermanence-c5a8b7.01a2 /mnt/root";
    assert_eq!(
        it.seen_within(Duration::ZERO),
        [
            "5 ? ? alive".to_owned(),
            format!("7 {buried} alive"),
            format!("8 {buried} holds: sleep 1"),
        ]
    );
    assert_eq!(it.seen().len(), 4);
}

#[test]
fn the_dataset_is_what_comes_before_its_contents() {
    for (what, dataset) in [
        ("", ""),
        ("11327", "11327"),
        ("11327/private", "11327"),
        ("11327/private//deleted", "11327"),
        ("11327/nix/private/a/private/b", "11327/nix"),
        ("11327/privateer/private", "11327/privateer"),
        ("private", ""),
    ] {
        assert_eq!(dataset_of(what), dataset, "{what}");
    }
}

#[test]
fn the_host_itself_can_be_looked_at() {
    let pool = KernelIdentity::FileSystem {
        device: "0:0".into(),
        root: "/".into(),
    };
    let everything = Question {
        wanted: &|_| true,
        owner: &|_| Ok(None),
        about: None,
    };
    let began = Instant::now();
    assert_eq!(Mounts::of_host(&pool).observe(&everything).unwrap(), []);
    eprintln!("all mount tables: {:?}", began.elapsed());
}
