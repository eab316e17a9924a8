//! Words that are typed: durations, CPUs, datasets, settings.

use std::str::FromStr;
use std::time::Duration;

use mayfly_core::names::DatasetName;

/// A duration such as `60s`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!(
            "`{}` is not a duration: write a number and ms, s, m, h or d, such as 60s",
            text.escape_debug()
        )
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(ms)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

/// A number of CPUs such as `2` or `1.5`, in hundredths.
pub(super) fn parse_cpus(text: &str) -> Result<u32, String> {
    let bad = || {
        format!(
            "`{}` is not a number of CPUs: write 2, or 1.5",
            text.escape_debug()
        )
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 2 {
        return Err(bad());
    }
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let part: u32 = format!("{part:0<2}").parse().map_err(|_| bad())?;
    match whole.checked_mul(100).and_then(|w| w.checked_add(part)) {
        None | Some(0) => Err(bad()),
        Some(percent) => Ok(percent),
    }
}

/// A VPS as it is typed: whether there is such a one, the node knows.
pub(super) fn parse_vps(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it names no VPS: write its id or host name".to_owned()),
        named => Ok(named.to_owned()),
    }
}

/// A dataset as it is typed: `11327/nix`; `11327` alone is the root dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatasetRef {
    /// Id or host name.
    pub(super) vps: String,
    /// Its name below the VPS.
    pub(super) name: DatasetName,
}

impl FromStr for DatasetRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (vps, name) = match text.split_once('/') {
            None => (text, DatasetName::root()),
            Some((_, "")) => return Err(format!("`{}` ends with a slash", text.escape_debug())),
            Some((vps, name)) => (
                vps,
                name.parse()
                    .map_err(|e: mayfly_core::names::BadName| e.to_string())?,
            ),
        };
        if vps.is_empty() {
            return Err(format!(
                "`{}` names no VPS: write 11327/nix",
                text.escape_debug()
            ));
        }
        Ok(Self {
            vps: vps.to_owned(),
            name,
        })
    }
}

/// A subdataset as it is typed: `11327/nix`.
pub(super) fn parse_subdataset(text: &str) -> Result<DatasetRef, String> {
    let dataset: DatasetRef = text.parse()?;
    if dataset.name.is_root() {
        return Err(format!(
            "`{}` names no dataset of a VPS: write 11327/nix",
            text.escape_debug()
        ));
    }
    Ok(dataset)
}

/// A setting such as `quota=30G`.
pub(super) fn parse_setting<T: FromStr<Err: std::fmt::Display>>(
    text: &str,
    name: &str,
) -> Result<T, String> {
    match text.split_once('=') {
        Some((given, value)) if given == name => value.parse().map_err(|e: T::Err| e.to_string()),
        Some((other, _)) => Err(format!(
            "`{}` cannot be set here: write {name}=…",
            other.escape_debug()
        )),
        None => Err(format!("write {name}=…")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for bad in [
            "",
            "60",
            "s",
            "1.5s",
            "-1s",
            "60 s",
            "60S",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn cpus_are_hundredths() {
        assert_eq!(parse_cpus("2"), Ok(200));
        assert_eq!(parse_cpus("1.5"), Ok(150));
        assert_eq!(parse_cpus("0.05"), Ok(5));
        for bad in [
            "",
            "0",
            "0.0",
            "1.",
            ".5",
            "1.234",
            "-1",
            "1e3",
            "9999999999",
        ] {
            assert!(parse_cpus(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_dataset_is_a_vps_and_a_name() {
        let nix: DatasetRef = "11327/nix".parse().unwrap();
        assert_eq!((nix.vps.as_str(), nix.name.as_str()), ("11327", "nix"));
        let deep: DatasetRef = "web1/srv/data".parse().unwrap();
        assert_eq!(
            (deep.vps.as_str(), deep.name.as_str()),
            ("web1", "srv/data")
        );
        assert!("web1".parse::<DatasetRef>().unwrap().name.is_root());
        for bad in [
            "/nix",
            "web1/",
            "web1/private",
            "web1//x",
            "web1/../x",
            "",
            "web1/a b",
        ] {
            assert!(bad.parse::<DatasetRef>().is_err(), "{bad} was taken");
        }
        assert!(parse_subdataset("web1").is_err());
    }

    #[test]
    fn settings_have_the_right_name() {
        use mayfly_core::bytes::Bytes;
        assert_eq!(
            parse_setting::<Bytes>("quota=30G", "quota"),
            Ok(Bytes::gib(30))
        );
        assert!(parse_setting::<Bytes>("size=30G", "quota").is_err_and(|e| e.contains("quota=")));
        assert!(parse_setting::<Bytes>("quota", "quota").is_err());
        assert!(
            parse_setting::<Bytes>("quota=big", "quota").is_err_and(|e| e.contains("not a size"))
        );
    }
}
