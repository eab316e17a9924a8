//! What every store checks before it looks at anything. The limits are those that etcd has by default.

use std::collections::BTreeSet;

use serde::de::IgnoredAny;

use super::{StoreError, Txn};

/// The longest key, in bytes.
const KEY_BYTES: usize = 512;
/// The most conditions, and the most writes, of one transaction.
const TXN_PARTS: usize = 128;
/// The most bytes of all values of one transaction.
const TXN_BYTES: usize = 1024 * 1024;

fn bad_key(key: &str, why: &'static str) -> StoreError {
    let shown = key.chars().take(80).collect::<String>();
    StoreError::BadKey {
        key: shown.escape_debug().to_string(),
        why,
    }
}

fn is_segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@+~".contains(&b);
    !text.is_empty() && text.bytes().all(plain)
}

/// A key: `/` and a segment of `A-Za-z0-9-_.:@+~`, once or more.
pub(super) fn check_key(key: &str) -> Result<(), StoreError> {
    if key.len() > KEY_BYTES {
        return Err(bad_key(key, "it is longer than 512 bytes"));
    }
    let Some(segments) = key.strip_prefix('/') else {
        return Err(bad_key(key, "it does not begin with `/`"));
    };
    if segments.split('/').all(is_segment) {
        Ok(())
    } else {
        Err(bad_key(
            key,
            "a segment is empty or not of A-Za-z0-9-_.:@+~",
        ))
    }
}

/// A prefix: `/`, or a key followed by `/`. Gives the half-open range of the keys below it.
pub(super) fn check_prefix(prefix: &str) -> Result<(&str, String), StoreError> {
    let Some(key) = prefix.strip_suffix('/') else {
        return Err(bad_key(prefix, "a prefix ends with `/`"));
    };
    if !key.is_empty() {
        check_key(key)?;
    }
    // `0` is the byte that follows `/`.
    Ok((prefix, format!("{key}0")))
}

pub(super) fn check_txn(txn: &Txn) -> Result<(), StoreError> {
    let bad = |why: String| Err(StoreError::BadTxn { why });
    if txn.conditions.len() > TXN_PARTS || txn.writes.len() > TXN_PARTS {
        return bad(format!("it has more than {TXN_PARTS} conditions or writes"));
    }
    for condition in &txn.conditions {
        check_key(condition.key())?;
    }
    let mut written = BTreeSet::new();
    let mut bytes = 0;
    for write in &txn.writes {
        check_key(write.key())?;
        if !written.insert(write.key()) {
            return bad(format!("it writes {} twice", write.key()));
        }
        let Some(value) = write.value() else { continue };
        bytes += value.len();
        if let Err(why) = serde_json::from_str::<IgnoredAny>(value) {
            return bad(format!("the value of {} is no JSON: {why}", write.key()));
        }
    }
    if bytes > TXN_BYTES {
        return bad(format!(
            "its values have {bytes} bytes, more than {TXN_BYTES}"
        ));
    }
    Ok(())
}
