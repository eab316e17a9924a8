use std::collections::BTreeMap;

use super::*;

/// The rules of a kernel that limits depend on.
#[derive(Default)]
struct Kernel {
    files: BTreeMap<PathBuf, String>,
    written: usize,
    /// The number of the write that fails, from 1.
    fails: usize,
    used: u64,
    /// What of that nobody gives up.
    held: u64,
    killed: bool,
    /// What the guest takes, and keeps, as soon as its limit allows that.
    greed: u64,
}

impl Kernel {
    fn value(&self, name: &str) -> Option<u64> {
        let (_, text) = self.files.iter().find(|(path, _)| path.ends_with(name))?;
        Some(clamped(text))
    }

    fn new(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
            .collect();
        Self {
            files,
            ..Self::default()
        }
    }
}

/// The kernel keeps no larger number.
fn clamped(text: &str) -> u64 {
    let most = 9_223_372_036_854_771_712;
    text.parse().unwrap_or(most).min(most)
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Files for Kernel {
    fn read(&mut self, file: &Path) -> io::Result<String> {
        match file.file_name().and_then(|name| name.to_str()) {
            Some("memory.current" | "memory.usage_in_bytes" | "memory.memsw.usage_in_bytes") => {
                Ok(self.used.to_string())
            }
            _ => self.files.get(file).cloned().ok_or(errno(libc::ENOENT)),
        }
    }

    fn write(&mut self, file: &Path, value: &str) -> io::Result<()> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap();
        let size = clamped(value);
        if name == "memory.reclaim" {
            let left = self.used.saturating_sub(size).max(self.held);
            let all = self.used - left == size;
            self.used = left;
            return if all {
                Ok(())
            } else {
                Err(errno(libc::EAGAIN))
            };
        }
        if !self.files.contains_key(file) {
            return Err(errno(libc::ENOENT));
        }
        self.written += 1;
        if self.written == self.fails {
            return Err(errno(libc::EIO));
        }
        match name {
            "memory.limit_in_bytes"
                if size > self.value("memory.memsw.limit_in_bytes").unwrap_or(size) =>
            {
                return Err(errno(libc::EINVAL));
            }
            "memory.memsw.limit_in_bytes"
                if size < self.value("memory.limit_in_bytes").unwrap() =>
            {
                return Err(errno(libc::EINVAL));
            }
            "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes" => {
                self.used = self.used.min(size).max(self.held);
                if self.held > size {
                    return Err(errno(libc::EBUSY));
                }
            }
            "memory.max" => self.killed |= self.used > size,
            _ => {}
        }
        let shown = match (name, value) {
            (n, "-1") if n.starts_with("memory.") => "9223372036854771712".to_owned(),
            _ => value.to_owned(),
        };
        self.files.insert(file.to_owned(), shown);
        if name == "memory.max" && self.greed > self.used && size >= self.greed {
            (self.used, self.held) = (self.greed, self.greed);
        }
        Ok(())
    }

    fn is_there(&mut self, dir: &Path) -> io::Result<bool> {
        Ok(self.files.keys().any(|file| file.starts_with(dir)))
    }
}

fn v1() -> Kernel {
    Kernel::new(&[
        ("/memory/p/memory.limit_in_bytes", "9223372036854771712"),
        (
            "/memory/p/memory.memsw.limit_in_bytes",
            "9223372036854771712",
        ),
        ("/pids/p/pids.max", "max"),
        ("/cpu/p/cpu.cfs_period_us", "100000"),
        ("/cpu/p/cpu.cfs_quota_us", "-1"),
    ])
}

fn v2() -> Kernel {
    Kernel::new(&[
        ("/unified/p/memory.max", "max"),
        ("/unified/p/memory.swap.max", "max"),
        ("/unified/p/pids.max", "max"),
        ("/unified/p/cpu.max", "max 100000"),
    ])
}

fn payload(v1: bool) -> Payload {
    let hierarchy = |base: &str, v1: Option<&str>| Hierarchy {
        base: base.into(),
        v1: v1.map(|all| all.split(',').map(str::to_owned).collect()),
    };
    let mut all = vec![hierarchy("/unified", None)];
    if v1 {
        all.push(hierarchy("/memory", Some("memory")));
        all.push(hierarchy("/pids", Some("pids")));
        all.push(hierarchy("/cpu", Some("cpu,cpuacct")));
    }
    Payload::find(100.try_into().unwrap(), &all, Path::new("p")).unwrap()
}

fn limits(memory: u64, swap: u64) -> Limits {
    Limits {
        memory_bytes: Some(Bytes::mib(memory)),
        swap_bytes: Bytes::mib(swap),
        // Not all at once, so that what stays is not written.
        cpu_percent: (swap == 0).then_some(150),
        processes: Some(if memory < 500 { 200 } else { 8192 }),
    }
}

fn many() -> Vec<Limits> {
    let sizes = [
        (64, 0),
        (256, 0),
        (256, 256),
        (256, 2048),
        (1024, 0),
        (1024, 64),
        (512, 512),
    ];
    let mut all: Vec<_> = sizes.map(|(memory, swap)| limits(memory, swap)).into();
    all.push(Limits {
        memory_bytes: None,
        swap_bytes: Bytes(0),
        cpu_percent: None,
        processes: None,
    });
    all
}

fn set(kernel: &mut Kernel, payload: &Payload, want: &Limits) -> HostResult<Outcome> {
    payload.set(kernel, want, Bytes(0))
}

fn refused(done: HostResult<Outcome>) -> Refusal {
    match done {
        Err(HostError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_go_from_any_to_any_and_nobody_is_killed() {
    for (make, v1) in [(v1 as fn() -> Kernel, true), (v2, false)] {
        let payload = payload(v1);
        for from in many() {
            for to in many() {
                let mut kernel = make();
                // Caches up to the limit, which is all that a guest can be made to give up.
                kernel.held = 32 << 20;
                set(&mut kernel, &payload, &from).unwrap();
                kernel.used = from.memory_bytes.map_or(4 << 30, |m| m.0);
                let want = if from == to {
                    Outcome::Unchanged
                } else {
                    Outcome::Changed
                };
                assert_eq!(set(&mut kernel, &payload, &to), Ok(want), "{from:?} {to:?}");
                assert_eq!(set(&mut kernel, &payload, &to), Ok(Outcome::Unchanged));
                assert!(!kernel.killed, "{from:?} {to:?}");
                for file in payload.files(&to) {
                    let got = &kernel.files[&file.path];
                    assert!(file.holds(got), "{from:?} {to:?}: {file:?} {got}");
                }
            }
        }
    }
}

#[test]
fn what_was_written_before_a_failure_is_put_back() {
    for (make, v1) in [(v1 as fn() -> Kernel, true), (v2, false)] {
        let payload = payload(v1);
        for from in many() {
            for to in many() {
                for fails in 1.. {
                    let mut kernel = make();
                    set(&mut kernel, &payload, &from).unwrap();
                    let before = kernel.files.clone();
                    kernel.fails = kernel.written + fails;
                    match set(&mut kernel, &payload, &to) {
                        Ok(_) => break,
                        Err(HostError::Failed { action, why }) => {
                            assert!(action.starts_with("setting the limit of "), "{action}");
                            assert!(action.ends_with(" of VPS 100"), "{action}");
                            assert!(why.starts_with('/') && !why.contains("not back"), "{why}");
                        }
                        Err(other) => panic!("{other}"),
                    }
                    assert_eq!(kernel.files, before, "{from:?} {to:?} at {fails}");
                }
            }
        }
    }
}

#[test]
fn memory_that_was_taken_meanwhile_is_not_taken_back_by_killing() {
    let payload = payload(false);
    let mut kernel = v2();
    set(&mut kernel, &payload, &limits(256, 0)).unwrap();
    kernel.greed = 900 << 20;
    // The write after that of the memory.
    kernel.fails = kernel.written + 2;
    let failed = set(&mut kernel, &payload, &limits(1024, 0)).unwrap_err();
    assert!(!kernel.killed, "{failed}");
    let told = failed.to_string();
    assert!(
        told.contains("memory.max is not back at") && told.contains("uses 900M"),
        "{told}"
    );
    assert_eq!(kernel.value("memory.max"), Some(1024 << 20));
}

#[test]
fn memory_that_cannot_be_given_up_keeps_its_limit() {
    for (make, v1) in [(v1 as fn() -> Kernel, true), (v2, false)] {
        let payload = payload(v1);
        let mut kernel = make();
        set(&mut kernel, &payload, &limits(1024, 0)).unwrap();
        let before = kernel.files.clone();
        kernel.used = 900 << 20;
        kernel.held = (300 << 20) + 1;
        let refusal = refused(set(&mut kernel, &payload, &limits(256, 0)));
        assert_eq!(refusal.code, Code::LimitBelowUse);
        assert!(
            refusal.message.contains("uses 300.0M of memory"),
            "{refusal:?}"
        );
        assert!(
            refusal.hint.contains("ask for 301M at least"),
            "{refusal:?}"
        );
        assert_eq!((&kernel.files, kernel.killed), (&before, false));
        set(&mut kernel, &payload, &limits(301, 0)).unwrap();
    }
}

#[test]
fn a_file_that_is_missing_names_its_limit_and_nothing_is_written() {
    let payload = payload(true);
    for (file, limit) in [
        ("/memory/p/memory.limit_in_bytes", "memory"),
        ("/cpu/p/cpu.cfs_period_us", "cpus"),
    ] {
        let mut kernel = v1();
        kernel.files.remove(Path::new(file));
        let error = set(&mut kernel, &payload, &limits(256, 0)).unwrap_err();
        let told = error.to_string();
        assert!(
            told.starts_with(&format!(
                "setting the limit of {limit} of VPS 100 failed: {file}: "
            )),
            "{told}"
        );
        assert_eq!(kernel.written, 0);
    }
}

#[test]
fn a_run_that_is_over_has_no_limits() {
    let mut kernel = v1();
    kernel.files.retain(|file, _| !file.starts_with("/pids"));
    assert_eq!(
        set(&mut kernel, &payload(true), &limits(256, 0)),
        Ok(Outcome::Unchanged)
    );
    assert_eq!(kernel.written, 0);
}

#[test]
fn swap_that_no_kernel_counts_is_left_as_at_the_start() {
    let payload = payload(true);
    let mut kernel = v1();
    kernel
        .files
        .remove(Path::new("/memory/p/memory.memsw.limit_in_bytes"));
    assert_eq!(
        set(&mut kernel, &payload, &limits(256, 0)),
        Ok(Outcome::Changed)
    );
    let refusal = refused(set(&mut kernel, &payload, &limits(256, 64)));
    assert_eq!(refusal.code, Code::HostUnsuitable);
    let as_before = payload.set(&mut kernel, &limits(512, 64), Bytes::mib(64));
    assert_eq!(as_before, Ok(Outcome::Changed));
}
