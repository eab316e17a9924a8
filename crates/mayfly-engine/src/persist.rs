//! What a VPS declares to stay, read from its datasets while it runs or not. All of it is a guest's text: what makes no
//! sense in it is told, and is no failure of the look.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::documents::{Request, VpsDoc};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::GuestPath;
use mayfly_core::persist::declare::Source;
use mayfly_core::persist::limits;
use mayfly_core::persist::list::{Listing, list};
use mayfly_core::persist::own::{self, DeclaredSeen, Found, OwnFile};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::people::People;
use mayfly_core::persist::read::parse_value;
use mayfly_core::persist::report::Summary;
use mayfly_core::plan::{place_of, storage_inactive};
use mayfly_core::ports::{HostError, Storage};

use crate::engine::Engine;

/// A file is told from a directory by reading it; one that is longer is not told.
const LOOK_BYTES: usize = 1 << 20;
/// A name that is in no directory: whether it is absent or cannot be reached tells a directory from what is none.
const NOWHERE: &str = ".mayfly-nothing";

/// All that is declared, as it is told.
#[derive(Clone, Debug)]
pub struct Persistence {
    /// The VPS.
    pub doc: VpsDoc,
    /// Its own file, where there is one.
    pub own: Option<TreePath>,
    /// Why nothing of it stays, where that is so.
    pub inactive: Option<String>,
    /// What is declared now; it holds from the next start on.
    pub listing: Listing,
    /// What became of the declarations at the start of the present run.
    pub last_start: Option<Summary>,
}

impl Engine {
    /// What a VPS declares.
    pub fn persistence(&self, which: &str) -> Result<Persistence, Refusal> {
        let doc = self.vps(which)?;
        let seen = self.declared(&doc, &[])?;
        let last_start = self.run_state(&doc)?.and_then(|run| run.persistence);
        Ok(Persistence {
            own: seen.own.as_ref().map(|own| own.path.clone()),
            inactive: inactive(&doc),
            listing: list(&doc.manifest.layout.persistence, &seen),
            last_start,
            doc,
        })
    }

    /// What a request needs to know of declarations.
    pub(crate) fn declared_for(
        &self,
        request: &Request,
        doc: &VpsDoc,
    ) -> Result<Option<DeclaredSeen>, Refusal> {
        let Request::PersistChange { change } = request else {
            return Ok(None);
        };
        let unknown = change.add.iter().filter(|wish| wish.kind().is_none());
        let unknown: Vec<_> = unknown.map(|wish| wish.path.clone()).collect();
        self.declared(doc, &unknown).map(Some)
    }

    /// What it declares, as it was found.
    pub(crate) fn declared(
        &self,
        doc: &VpsDoc,
        unknown: &[TreePath],
    ) -> Result<DeclaredSeen, Refusal> {
        let mut look = Look {
            doc,
            storage: &*self.deps().storage,
            failed: None,
        };
        let storage = doc.storage.as_ref();
        let storage = storage.and_then(|path| TreePath::parse(path.as_str()).ok());
        let own = storage
            .as_ref()
            .filter(|storage| storage_inactive(doc, storage).is_none())
            .and_then(|storage| own::find(storage, |path| look.read(path, limits::FILE_BYTES)));
        let declared = doc.manifest.layout.persistence.clone();
        let manifest = parse_value(&serde_json::Value::Object(declared));
        let source = own.as_ref().map(OwnFile::source).unwrap_or_default();
        let people = look.people(storage.as_ref(), &manifest, &source);
        let found: BTreeMap<_, _> = unknown
            .iter()
            .map(|path| (path.clone(), look.kind(path)))
            .collect();
        if let Some(failed) = look.failed {
            return Err(failed.into());
        }
        let named: BTreeSet<TreePath> = own::storages_of(&manifest, &source);
        let inactive = named.into_iter().chain(storage).filter_map(|storage| {
            let why = storage_inactive(doc, &storage)?;
            Some((storage, why))
        });
        Ok(DeclaredSeen {
            inactive: inactive.collect(),
            own,
            people,
            found,
        })
    }
}

fn inactive(doc: &VpsDoc) -> Option<String> {
    if doc.impermanence.is_none() {
        return Some("impermanence is off: what is in `/` stays anyway".to_owned());
    }
    let Some(storage) = &doc.storage else {
        return Some("it has no storage for declared paths".to_owned());
    };
    storage_inactive(doc, &TreePath::parse(storage.as_str()).ok()?)
}

/// Reads files of a VPS. The first look that fails is kept: what comes after it counts for nothing.
struct Look<'a> {
    doc: &'a VpsDoc,
    storage: &'a dyn Storage,
    failed: Option<HostError>,
}

impl Look<'_> {
    /// What is no file to be read is a reason; nothing where nothing is.
    fn read(&mut self, path: &TreePath, limit: usize) -> Result<Option<Vec<u8>>, String> {
        let Some((dataset, inside)) = place_of(self.doc, path) else {
            return Ok(None);
        };
        match self.storage.read_file(&dataset, &inside, limit) {
            Ok(read) => Ok(read),
            // The place of the file is told beside the reason.
            Err(HostError::Refused(refusal)) if refusal.code == Code::Invalid => {
                Err(refusal.message)
            }
            Err(failed) => {
                let why = failed.to_string();
                self.failed.get_or_insert(failed);
                Err(why)
            }
        }
    }

    fn bytes(&mut self, path: &TreePath) -> Option<Vec<u8>> {
        self.read(path, limits::ACCOUNT_BYTES).ok().flatten()
    }

    /// In the order in which the helper inside looks people up.
    fn people(&mut self, storage: Option<&TreePath>, manifest: &Source, source: &Source) -> People {
        let mut people = People::new();
        // Without a user there is no home to look up.
        let users = |source: &Source| source.storages.values().any(|s| !s.users.is_empty());
        if !users(manifest) && !users(source) {
            return people;
        }
        for kept in own::accounts_in(manifest, source) {
            if storage_inactive(self.doc, &kept).is_some() {
                continue;
            }
            let mut text = |name: &str| {
                let path = kept.join(own::ACCOUNTS).and_then(|at| at.join(name)).ok();
                let bytes = path.and_then(|path| self.bytes(&path)).unwrap_or_default();
                String::from_utf8(bytes).unwrap_or_default()
            };
            let (passwd, group) = (text("passwd"), text("group"));
            people.add_passwd(&passwd);
            people.add_group(&group);
        }
        own::add_people(&mut people, storage, |path| self.bytes(path));
        people
    }

    fn kind(&mut self, path: &TreePath) -> Found {
        let Some((dataset, inside)) = place_of(self.doc, path) else {
            return Found::Neither;
        };
        let mut read = |path: &GuestPath| match self.storage.read_file(&dataset, path, LOOK_BYTES) {
            Err(HostError::Refused(refusal)) if refusal.code == Code::Invalid => Some(None),
            Err(failed) => {
                self.failed.get_or_insert(failed);
                None
            }
            Ok(read) => Some(Some(read.is_some())),
        };
        let below = format!("{inside}/{NOWHERE}").parse::<GuestPath>();
        match read(&inside) {
            Some(Some(true)) => Found::File,
            Some(None) => match below.ok().and_then(|below| read(&below)) {
                Some(Some(_)) => Found::Directory,
                _ => Found::Neither,
            },
            _ => Found::Neither,
        }
    }
}
