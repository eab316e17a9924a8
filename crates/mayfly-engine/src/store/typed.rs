//! Documents as the types that they are: parsing, and the refusal of what a newer program wrote.

use mayfly_core::documents::SCHEMA;
use mayfly_core::error::Refusal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Entry, Revision, Store, StoreError, Write};

/// A document with its place in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc<T> {
    /// Its key.
    pub key: String,
    /// What it says.
    pub doc: T,
    /// When its key came to be.
    pub create_revision: Revision,
    /// When it was last put: what [`super::Condition::AtRevision`] compares with.
    pub mod_revision: Revision,
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadDoc {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
    /// When it was last put.
    pub mod_revision: Revision,
}

impl BadDoc {
    /// The refusal of whatever needs it.
    pub fn refusal(&self) -> Refusal {
        StoreError::BadDocument {
            key: self.key.clone(),
            why: self.why.clone(),
        }
        .into()
    }

    /// That it is there, in words.
    pub fn told(&self) -> String {
        self.refusal().message
    }
}

/// All documents below a prefix at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docs<T> {
    /// The store's revision at that moment.
    pub revision: Revision,
    /// The documents, sorted by key.
    pub docs: Vec<Doc<T>>,
    /// Those that cannot be used, sorted by key. They are not absent.
    pub bad: Vec<BadDoc>,
}

/// Every document has this field; the rest may be unreadable to an older program.
#[derive(Deserialize)]
struct Stamp {
    schema: u32,
}

fn parse<T: DeserializeOwned>(entry: Entry) -> Result<Doc<T>, StoreError> {
    let bad = |why: String| StoreError::BadDocument {
        key: entry.key.clone(),
        why,
    };
    let stamp = serde_json::from_str::<Stamp>(&entry.value).map_err(|why| bad(why.to_string()))?;
    if stamp.schema > SCHEMA {
        return Err(bad(format!(
            "it has schema {}; this program knows up to {SCHEMA}",
            stamp.schema
        )));
    }
    let doc = serde_json::from_str(&entry.value).map_err(|why| bad(why.to_string()))?;
    Ok(Doc {
        key: entry.key,
        doc,
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
    })
}

/// Reading documents, on every store.
pub trait TypedStore: Store {
    /// The document under a key; `None` when it is certain that there is none.
    fn get_doc<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Doc<T>>, StoreError> {
        self.get(key)?.map(parse).transpose()
    }

    /// All documents below a prefix, and apart from them those that cannot be used: who takes what is missing for absent
    /// has to look at those as well.
    fn list_docs<T: DeserializeOwned>(&self, prefix: &str) -> Result<Docs<T>, StoreError> {
        let snapshot = self.range(prefix)?;
        let (mut docs, mut bad) = (Vec::new(), Vec::new());
        for entry in snapshot.entries {
            let mod_revision = entry.mod_revision;
            match parse(entry) {
                Ok(doc) => docs.push(doc),
                Err(StoreError::BadDocument { key, why }) => bad.push(BadDoc {
                    key,
                    why,
                    mod_revision,
                }),
                Err(other) => return Err(other),
            }
        }
        Ok(Docs {
            revision: snapshot.revision,
            docs,
            bad,
        })
    }
}

impl<S: Store + ?Sized> TypedStore for S {}

impl Write {
    /// Puts a document.
    pub fn put_doc<T: Serialize>(key: impl Into<String>, doc: &T) -> Result<Self, StoreError> {
        let key = key.into();
        match serde_json::to_string(doc) {
            Ok(value) => Ok(Self::Put(key, value)),
            Err(why) => Err(StoreError::BadDocument {
                key,
                why: why.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::{MemoryStore, Txn};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lamp {
        schema: u32,
        colour: String,
    }

    fn store_with(values: &[(&str, &str)]) -> Arc<dyn Store> {
        let store = MemoryStore::new(Arc::new(|| Duration::ZERO));
        let put = |(key, value): &(&str, &str)| Write::Put((*key).to_owned(), (*value).to_owned());
        let writes = values.iter().map(put).collect();
        store
            .txn(Txn {
                conditions: vec![],
                writes,
            })
            .unwrap();
        Arc::new(store)
    }

    fn why_bad(value: &str) -> String {
        match store_with(&[("/lamps/1", value)]).get_doc::<Lamp>("/lamps/1") {
            Err(StoreError::BadDocument { key, why }) if key == "/lamps/1" => why,
            other => panic!("{value} gave {other:?}"),
        }
    }

    #[test]
    fn a_document_comes_back_as_it_was_put() {
        let store = store_with(&[]);
        let lamp = Lamp {
            schema: SCHEMA,
            colour: "red".to_owned(),
        };
        let writes = vec![Write::put_doc("/lamps/1", &lamp).unwrap()];
        store
            .txn(Txn {
                conditions: vec![],
                writes,
            })
            .unwrap();
        let got = store.get_doc::<Lamp>("/lamps/1").unwrap().unwrap();
        assert_eq!((got.doc, got.mod_revision), (lamp, Revision(1)));
        assert_eq!(store.list_docs::<Lamp>("/lamps/").unwrap().docs.len(), 1);
        assert_eq!(store.get_doc::<Lamp>("/lamps/2").unwrap(), None);
    }

    #[test]
    fn a_newer_document_is_refused_even_where_it_would_parse() {
        let newer = SCHEMA + 1;
        let why = why_bad(&format!(r#"{{"schema": {newer}, "colour": "red"}}"#));
        let expected = format!("it has schema {newer}; this program knows up to {SCHEMA}");
        assert_eq!(why, expected);
        assert_eq!(
            why_bad(&format!(r#"{{"schema": {newer}, "hue": 7}}"#)),
            expected
        );
    }

    #[test]
    fn a_document_that_is_not_one_says_why() {
        assert!(why_bad(r#"{"colour": "red"}"#).contains("missing field `schema`"));
        assert!(why_bad(r#"{"schema": 1}"#).contains("missing field `colour`"));
        assert!(why_bad("7").contains("invalid type"));
    }

    #[test]
    fn one_bad_document_is_listed_apart_and_spoils_no_other() {
        let good = r#"{"schema": 1, "colour": "red"}"#;
        let store = store_with(&[("/lamps/1", good), ("/lamps/2", "{}"), ("/lamps/3", good)]);
        let listed = store.list_docs::<Lamp>("/lamps/").unwrap();
        let keys: Vec<_> = listed.docs.iter().map(|doc| doc.key.as_str()).collect();
        assert_eq!(keys, ["/lamps/1", "/lamps/3"]);
        assert_eq!(listed.bad.len(), 1);
        assert_eq!(listed.bad[0].key, "/lamps/2");
        assert!(
            listed.bad[0]
                .told()
                .contains("/lamps/2 cannot be used: missing field")
        );
    }
}
