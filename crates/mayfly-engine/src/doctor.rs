//! What the doctor looks at: a VPS's document, its declarations, and of a NixOS the files of its configuration, read from
//! its datasets whether it runs or not. All of it is a guest's: what makes no sense in it is told, and is no failure.

use std::collections::BTreeSet;

use mayfly_core::doctor::{
    ConfigFile, FILE_BYTES, FILES, Finding, Looked, NixosLook, Role, judge, read_nix,
};
use mayfly_core::documents::VpsDoc;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::persist::list::list;
use mayfly_core::persist::path::TreePath;
use mayfly_core::plan::place_of;
use mayfly_core::ports::{HostError, Storage};

use crate::engine::Engine;

/// Where a NixOS has its configuration, below a storage or `/`.
const CONFIGURATION: &str = "/etc/nixos";
const FLAKE: &str = "flake.nix";
const MODULE: &str = "configuration.nix";
/// Whose presence tells of an SSH server.
const SSHD: &str = "/etc/ssh/sshd_config";
const SSHD_BYTES: usize = 1 << 20;

/// What was looked at, and what is to be said of it.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The VPS.
    pub doc: VpsDoc,
    /// The directory that the configuration of a NixOS was found in, as the guest names it.
    pub configuration: Option<String>,
    /// Its files that were read.
    pub files: Vec<String>,
    /// What was found; what matters most comes first.
    pub findings: Vec<Finding>,
}

impl Engine {
    /// Looks a VPS over and changes nothing.
    pub fn doctor(&self, which: &str) -> Result<Diagnosis, Refusal> {
        let doc = self.vps(which)?;
        let declared = self.declared(&doc, &[])?;
        let listing = list(&doc.manifest.layout.persistence, &declared);
        let look = Look {
            doc: &doc,
            storage: &*self.deps().storage,
        };
        let is_nixos = doc.manifest.distribution == "nixos";
        let nixos = is_nixos.then(|| look.configuration()).transpose()?;
        let sshd = match is_nixos {
            true => None,
            false => look.sshd()?,
        };
        let findings = judge(&Looked {
            doc: &doc,
            listing: &listing,
            nixos: nixos.as_ref(),
            sshd,
        });
        let NixosLook { directory, files } = nixos.unwrap_or_default();
        let read = files.into_iter().filter(|file| file.read.is_ok());
        Ok(Diagnosis {
            configuration: directory,
            files: read.map(|file| file.name).collect(),
            findings,
            doc,
        })
    }
}

/// Reads files of a VPS.
struct Look<'a> {
    doc: &'a VpsDoc,
    storage: &'a dyn Storage,
}

impl Look<'_> {
    /// What is no file to be read is a reason; nothing where nothing is. Only a look that failed is an error.
    fn read(
        &self,
        path: &TreePath,
        limit: usize,
    ) -> Result<Result<Option<Vec<u8>>, String>, Refusal> {
        let Some((dataset, inside)) = place_of(self.doc, path) else {
            return Ok(Ok(None));
        };
        match self.storage.read_file(&dataset, &inside, limit) {
            Ok(read) => Ok(Ok(read)),
            Err(HostError::Refused(why)) if why.code == Code::Invalid => Ok(Err(why.message)),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Whether there is an SSH server; none where there is no root to look into.
    fn sshd(&self) -> Result<Option<bool>, Refusal> {
        let path = TreePath::parse(SSHD).ok();
        let Some(path) = path.filter(|path| place_of(self.doc, path).is_some()) else {
            return Ok(None);
        };
        let read = self.read(&path, SSHD_BYTES)?;
        Ok(Some(!matches!(read, Ok(None))))
    }

    /// The places where a configuration may be: in the storage first, then where a mount or the root has it, then below any
    /// other mount.
    fn places(&self) -> Vec<TreePath> {
        let storage = self.doc.storage.iter().map(|path| path.as_str());
        let mounts = self.doc.mounts.iter().map(|mount| mount.path.as_str());
        let mut places = Vec::new();
        for base in storage.chain(["/"]).chain(mounts) {
            let place = TreePath::parse(base).and_then(|base| base.join(CONFIGURATION));
            places.extend(place.ok().filter(|place| !places.contains(place)));
        }
        places
    }

    /// The configuration at the first place where there is one.
    fn configuration(&self) -> Result<NixosLook, Refusal> {
        for place in self.places() {
            let mut look = NixosLook::default();
            let mut files = Files::default();
            for (name, role) in [(FLAKE, Role::Flake), (MODULE, Role::Module)] {
                files.add(name, role);
            }
            while let Some((name, role)) = files.next() {
                let optional = !files.imported.contains(&name);
                if optional && role == Role::Module && says_all(&look) {
                    continue;
                }
                let bytes = match place.join(&name) {
                    Ok(path) => self.read(&path, FILE_BYTES)?,
                    Err(why) => Err(why.to_owned()),
                };
                let read = match bytes {
                    Ok(None) if optional => continue,
                    Ok(None) => Err("it is not there".to_owned()),
                    Ok(Some(bytes)) => String::from_utf8(bytes)
                        .map_err(|_| "it is no UTF-8".to_owned())
                        .and_then(|text| read_nix(&text, role)),
                    Err(why) => Err(why),
                };
                if let Ok(facts) = &read {
                    for (import, _) in &facts.imports {
                        files.import(&name, import);
                    }
                }
                look.files.push(ConfigFile { name, read });
            }
            if look.files.is_empty() {
                continue;
            }
            look.files.extend(files.left_out());
            look.directory = Some(place.to_string());
            return Ok(look);
        }
        Ok(NixosLook::default())
    }
}

/// Whether a flake was read that says which modules there are: a file beside it that it does not import is none.
fn says_all(look: &NixosLook) -> bool {
    look.files
        .first()
        .and_then(|flake| flake.read.as_ref().ok())
        .is_some_and(|facts| facts.unsure.is_empty())
}

/// Files of a configuration, each once and not too many.
#[derive(Default)]
struct Files {
    known: BTreeSet<String>,
    /// Named in another file.
    imported: BTreeSet<String>,
    left: Vec<(String, Role)>,
    /// Not to be read, and why.
    out: Vec<(String, &'static str)>,
}

impl Files {
    fn add(&mut self, name: &str, role: Role) {
        if self.known.insert(name.to_owned()) {
            self.left.insert(0, (name.to_owned(), role));
        }
    }

    /// Takes up what a file imports, by the path that stands there: relative to that file, and never above the configuration.
    fn import(&mut self, from: &str, text: &str) {
        let mut names: Vec<&str> = from.split('/').collect();
        names.pop();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." if names.pop().is_none() => {
                    return self.leave_out(text, "it lies outside the configuration");
                }
                ".." => {}
                name => names.push(name),
            }
        }
        let mut name = names.join("/");
        // A directory is meant by what is in it.
        if !name.ends_with(".nix") {
            name = format!("{name}/default.nix")
                .trim_start_matches('/')
                .to_owned();
        }
        self.imported.insert(name.clone());
        if self.known.contains(&name) {
            return;
        }
        if self.known.len() >= FILES {
            return self.leave_out(&name, "the configuration has too many files");
        }
        self.add(&name, Role::Module);
    }

    fn leave_out(&mut self, name: &str, why: &'static str) {
        if self.out.len() < FILES {
            self.out.push((name.chars().take(255).collect(), why));
        }
    }

    fn next(&mut self) -> Option<(String, Role)> {
        self.left.pop()
    }

    fn left_out(self) -> impl Iterator<Item = ConfigFile> {
        self.out.into_iter().map(|(name, why)| ConfigFile {
            name,
            read: Err(why.to_owned()),
        })
    }
}
