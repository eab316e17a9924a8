//! The server of addresses and names: one dnsmasq for the node. It outlives the daemon; its own files say how it was
//! started, and `/proc` whether it is the one.
//!
//! dnsmasq gives up root by itself; what it reads and writes is in a directory that it may pass.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mayfly_core::error::{Code, Refusal};
use mayfly_core::network::NetworkPlan;
use mayfly_core::ports::{HostError, HostResult};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{run, tool};
use crate::runner::Command;

/// How long it may take to begin or to end.
const DEADLINE: Duration = Duration::from_secs(5);

pub(super) struct Server {
    dir: PathBuf,
    /// The mount namespace that it lives in.
    mounts: OwnedFd,
    /// The cards and names that it was told of last.
    told: Mutex<Option<(String, String)>>,
}

impl Server {
    pub(super) fn new(dir: PathBuf) -> io::Result<Self> {
        Ok(Self {
            dir,
            mounts: fs::File::open("/proc/self/ns/mnt")?.into(),
            told: Mutex::default(),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn ensure(&self, plan: &NetworkPlan) -> HostResult<bool> {
        let files = |error: io::Error| {
            HostError::failed(format!("writing into {}", self.dir.display()), error)
        };
        fs::create_dir_all(&self.dir).map_err(files)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o711)).map_err(files)?;
        self.put("dhcp-hosts", &plan.dhcp_hosts).map_err(files)?;
        self.put("names", &plan.names).map_err(files)?;
        let mut told = self.told.lock().expect("no thread panics with it");
        let wanted = (plan.dhcp_hosts.clone(), plan.names.clone());
        let process = self.process()?;
        let anew = !self.has("dnsmasq.conf", &plan.dnsmasq) || self.foreign_leases(plan).is_some();
        match process {
            Some(_) if !anew && told.as_ref() == Some(&wanted) => return Ok(false),
            // It rereads both files. What an earlier daemon told it nobody knows.
            Some(process) if !anew => send(&process, Signal::HUP)?,
            process => {
                // Its configuration is written when nobody goes by the one before any more.
                if let Some(process) = process {
                    self.end(&process)?;
                }
                self.put("dnsmasq.conf", &plan.dnsmasq).map_err(files)?;
                if let Some(kept) = self.foreign_leases(plan) {
                    self.put("leases", &kept).map_err(files)?;
                }
                self.start(plan)?;
            }
        }
        *told = Some(wanted);
        Ok(true)
    }

    /// The leases without those of addresses that are another card's now: nobody else would get them for an hour. None where
    /// there is no such lease.
    fn foreign_leases(&self, plan: &NetworkPlan) -> Option<String> {
        let leases = fs::read_to_string(self.file("leases")).ok()?;
        let is_ours = |line: &&str| {
            let mut words = line.split(' ').skip(1);
            match (words.next(), words.next()) {
                (Some(mac), Some(address)) => !plan.dhcp_hosts.lines().any(|host| {
                    let mut own = host.split(',');
                    own.next() != Some(mac) && own.next() == Some(address)
                }),
                _ => true,
            }
        };
        let kept: Vec<&str> = leases.lines().filter(is_ours).collect();
        (kept.len() < leases.lines().count())
            .then(|| kept.iter().map(|l| format!("{l}\n")).collect())
    }

    fn has(&self, name: &str, text: &str) -> bool {
        fs::read(self.file(name)).is_ok_and(|found| found == text.as_bytes())
    }

    /// Puts a file there.
    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        let file = self.file(name);
        if self.has(name, text) {
            return Ok(());
        }
        let new = self.file(&format!("{name}.new"));
        let mut out = fs::File::create(&new)?;
        out.write_all(text.as_bytes())?;
        out.set_permissions(fs::Permissions::from_mode(0o644))?;
        fs::rename(&new, &file)
    }

    /// What no other process of the host is started with.
    fn sign(&self) -> String {
        format!("--conf-file={}", self.file("dnsmasq.conf").display())
    }

    fn start(&self, plan: &NetworkPlan) -> HostResult<()> {
        let dnsmasq = tool("dnsmasq", "dnsmasq-base")?;
        let named = |option: &str, name: &str| format!("--{option}={}", self.file(name).display());
        let command = Command::new(&dnsmasq)
            .arg(self.sign())
            .arg(named("pid-file", "dnsmasq.pid"))
            .arg(named("dhcp-hostsfile", "dhcp-hosts"))
            .arg(named("addn-hosts", "names"))
            .arg(named("dhcp-leasefile", "leases"))
            .arg(format!("--user={}", unprivileged()))
            .deadline(DEADLINE);
        let mounts = self.mounts.try_clone().map_err(|error| {
            HostError::failed("starting the server of addresses and names", error)
        })?;
        // A thread of its own, which ends with it: whoever enters a namespace stays there.
        let begun = std::thread::spawn(move || {
            crate::sys::ns::enter_mounts(&mounts)
                .map_err(|error| HostError::failed("entering the host's mount namespace", error))?;
            run("starting the server of addresses and names", &command)
        });
        let began = begun.join().map_err(|_| {
            HostError::failed(
                "starting the server of addresses and names",
                "its thread died",
            )
        })?;
        if let Err(why) = began {
            let busy = why.to_string().contains("Address already in use");
            let hint = match busy {
                true => format!(
                    "another server has port 53, 67 or 547 of all addresses: have it leave {} out (dnsmasq: \
                     except-interface and bind-interfaces), or stop it",
                    plan.bridge
                ),
                false => "look at the message of dnsmasq above".to_owned(),
            };
            return Err(Refusal::new(Code::NetworkUnavailable, why.to_string(), hint).into());
        }
        let end = Instant::now() + DEADLINE;
        while self.process()?.is_none() {
            if Instant::now() >= end {
                return Err(HostError::failed(
                    "starting the server of addresses and names",
                    "it ended at once",
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The server, where it lives: a descriptor that is this process's whatever happens to its number.
    fn process(&self) -> HostResult<Option<OwnedFd>> {
        let file = self.file("dnsmasq.pid");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(HostError::failed(
                    format!("reading {}", file.display()),
                    error,
                ));
            }
        };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(None);
        };
        // Read after it was opened: if it is this very process now, then the descriptor is its.
        Ok(is_started_with(pid, &self.sign()).then_some(process))
    }

    fn end(&self, process: &OwnedFd) -> HostResult<()> {
        send(process, Signal::TERM)?;
        let end = Instant::now() + DEADLINE;
        loop {
            if self.process()?.is_none() {
                return Ok(());
            }
            if Instant::now() >= end {
                send(process, Signal::KILL)?;
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn remove(&self) -> HostResult<bool> {
        let found = self.process()?;
        if let Some(process) = &found {
            self.end(process)?;
        }
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(found.is_some()),
            Err(error) => Err(HostError::failed(
                format!("removing {}", self.dir.display()),
                error,
            )),
        }
    }
}

fn send(process: &OwnedFd, signal: Signal) -> HostResult<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(HostError::failed(
            "sending a signal to the server of addresses and names",
            errno,
        )),
    }
}

fn is_started_with(pid: Pid, argument: &str) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    fs::read(proc.join("cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|one| one == argument.as_bytes())
    })
}

/// Whom it becomes: the user that its package makes, or nobody.
fn unprivileged() -> &'static str {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    match users.lines().any(|line| line.starts_with("dnsmasq:")) {
        true => "dnsmasq",
        false => "nobody",
    }
}
