//! Which image is chosen, and what is refused.

use serde_json::{Value, json};

use super::*;

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn item(ftype: &str, byte: u8) -> Value {
    json!({ "ftype": ftype, "path": format!("images/{ftype}"), "size": 1000 + u64::from(byte), "sha256": hex(byte) })
}

fn version(byte: u8) -> Value {
    let mut meta = item("incus.tar.xz", byte);
    meta["combined_squashfs_sha256"] = json!(hex(0xc0));
    meta["combined_rootxz_sha256"] = json!(hex(0xc1));
    json!({ "items": {
        "incus.tar.xz": meta,
        "root.squashfs": item("squashfs", byte + 1),
        "root.tar.xz": item("root.tar.xz", byte + 2),
        "disk.qcow2": { "ftype": "disk-kvm.img", "size": 5 },
    } })
}

fn product(aliases: &str, arch: &str, variant: &str, versions: Value) -> Value {
    json!({ "aliases": aliases, "arch": arch, "variant": variant, "os": "Debian", "versions": versions })
}

fn catalogue() -> Value {
    let both = json!({ "20251124_05:24": version(0x10), "20251125_05:24": version(0x20) });
    json!({ "content_id": "images", "products": {
        "debian:bookworm:amd64:default": product("debian/12/default, debian/12", "amd64", "default", both),
        "debian:bookworm:amd64:cloud": product("debian/12/cloud", "amd64", "cloud", json!({ "1": version(0x30) })),
        "debian:bookworm:arm64:default": product("debian/12", "arm64", "default", json!({ "1": version(0x40) })),
        "alpine:3:x86_64:default": product("alpine/3", "x86_64", "default", json!({ "1": version(0x50) })),
        "void:arm64:default": product("void", "arm64", "default", json!({ "1": version(0x60) })),
    } })
}

fn choose(catalogue: &Value, image: &str, squashfs: bool) -> Result<Choice, Refusal> {
    let wanted = Wanted {
        image,
        architecture: "amd64",
        squashfs,
    };
    choose_image(&[catalogue.to_string().into_bytes()], &wanted)
}

#[test]
fn the_newest_version_for_this_host_is_chosen() {
    let got = choose(&catalogue(), "debian/12", true).unwrap();
    assert_eq!(got.product, "debian:bookworm:amd64:default");
    assert_eq!(got.version, "20251125_05:24");
    assert_eq!(got.metadata.unwrap().sha256.as_str(), hex(0x20));
    assert_eq!(
        (got.archive.bytes, got.archive.path.as_str()),
        (1033, "images/squashfs")
    );
    assert_eq!(got.digest.unwrap().as_str(), hex(0xc0));
    // The kernel's word for the architecture, the name of a product, a name for a template.
    for (image, product) in [
        ("alpine/3", "alpine:3:x86_64:default"),
        ("debian:bookworm:amd64:cloud", "debian:bookworm:amd64:cloud"),
        ("debian-12-cloud", "debian:bookworm:amd64:cloud"),
    ] {
        assert_eq!(choose(&catalogue(), image, true).unwrap().product, product);
    }
}

#[test]
fn what_cannot_be_unpacked_or_is_not_whole_is_passed_over() {
    let got = choose(&catalogue(), "debian/12", false).unwrap();
    assert_eq!(got.archive.path, "images/root.tar.xz");
    assert_eq!(got.digest.unwrap().as_str(), hex(0xc1));
    let mut all = catalogue();
    let newest = &mut all["products"]["debian:bookworm:amd64:default"]["versions"]["20251125_05:24"]
        ["items"];
    newest["incus.tar.xz"]
        .as_object_mut()
        .unwrap()
        .remove("sha256");
    assert_eq!(
        choose(&all, "debian/12", true).unwrap().version,
        "20251124_05:24"
    );
    // A machine's disk alone is no container.
    let disk = json!({ "1": { "items": { "disk.qcow2": item("disk-kvm.img", 1), "lxd.tar.xz": item("lxd.tar.xz", 2) } } });
    all["products"]["alpine:3:x86_64:default"]["versions"] = disk;
    assert_eq!(
        choose(&all, "alpine/3", true).unwrap_err().code,
        Code::TemplateUnfit
    );
    let unified = json!({ "1": { "items": { "x": item("incus_combined.tar.gz", 1) } } });
    all["products"]["alpine:3:x86_64:default"]["versions"] = unified;
    assert_eq!(choose(&all, "alpine/3", false).unwrap().metadata, None);
}

#[test]
fn a_variant_gives_way_to_the_default() {
    let mut all = catalogue();
    all["products"]["debian:bookworm:amd64:cloud"]["aliases"] = json!("debian/12");
    let got = choose(&all, "debian/12", true).unwrap();
    assert_eq!(got.product, "debian:bookworm:amd64:default");
    all["products"]["debian:bookworm:amd64:cloud"]["variant"] = json!("default");
    let refusal = choose(&all, "debian/12", true).unwrap_err();
    assert!(refusal.message.contains("more than one"), "{refusal:?}");
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let refusal = choose(&catalogue(), "debian/11", true).unwrap_err();
    assert_eq!(refusal.code, Code::TemplateNotFound);
    assert!(
        refusal
            .hint
            .contains("it has 3 for amd64, such as alpine/3"),
        "{}",
        refusal.hint
    );
    let refusal = choose(&catalogue(), "void", true).unwrap_err();
    assert_eq!(refusal.code, Code::TemplateUnfit);
    assert!(refusal.message.contains("for arm64"), "{}", refusal.message);
}

#[test]
fn nonsense_is_refused() {
    for text in [
        "",
        "{",
        "[]",
        "{\"products\": 3}",
        "<html>",
        &"[".repeat(100_000),
    ] {
        let wanted = Wanted {
            image: "x",
            architecture: "amd64",
            squashfs: true,
        };
        let refusal = choose_image(&[text.as_bytes().to_vec()], &wanted).unwrap_err();
        assert_eq!(refusal.code, Code::TemplatePullFailed, "{text:.20}");
        assert_eq!(
            parse_index(text.as_bytes()).unwrap_err().code,
            Code::TemplatePullFailed
        );
    }
    let index = json!({ "format": "index:1.0", "index": {
        "images": { "datatype": "image-downloads", "path": "streams/v1/images.json", "products": ["a"] },
        "ids": { "datatype": "image-ids", "path": "streams/v1/ids.json", "products": ["a"] },
    } });
    assert_eq!(
        parse_index(index.to_string().as_bytes()).unwrap(),
        ["streams/v1/images.json"]
    );
    assert!(parse_index(b"{\"index\": {}}").is_err());
}

fn url(text: &str) -> RemoteUrl {
    text.parse().unwrap()
}

#[test]
fn an_address_is_a_server_and_a_path() {
    assert_eq!(
        url("https://images.example").to_string(),
        "https://images.example/"
    );
    assert_eq!(
        url("https://Images.Example:8443/lxc/")
            .below("streams/v1/index.json")
            .unwrap()
            .to_string(),
        "https://images.example:8443/lxc/streams/v1/index.json"
    );
    for bad in [
        "",
        "images:debian/12",
        "ftp://x/",
        "https://",
        "https:///x",
        "https://u:p@x/",
        "https://x/?q",
        "https://x/#f",
        "https://x:99999/",
        "https://x:/",
        "https://x y/",
        "https://[::1/",
        "https://x/\n",
        "file:///etc/passwd",
    ] {
        assert!(bad.parse::<RemoteUrl>().is_err(), "{bad}");
    }
    assert!(
        !"https://u:secret@x/"
            .parse::<RemoteUrl>()
            .unwrap_err()
            .contains("secret")
    );
    for bad in [
        "/etc/passwd",
        "a/../b",
        "a//b",
        "",
        "a?b",
        "http://x",
        "a b",
        "a%2e",
        ".",
    ] {
        assert!(url("https://x/").below(bad).is_err(), "{bad}");
    }
}

#[test]
fn plain_http_is_for_this_host_unless_it_was_asked_for() {
    let mut source = PullSource {
        remote: url("http://images.example/"),
        image: "debian/12".into(),
        plain_http: false,
    };
    assert_eq!(source.check().unwrap_err().code, Code::Invalid);
    source.plain_http = true;
    source.check().unwrap();
    source.plain_http = false;
    for local in [
        "http://127.0.0.1:8000/",
        "http://127.9.9.9/",
        "http://localhost/",
        "http://[::1]:80/",
    ] {
        source.remote = url(local);
        source.check().unwrap();
    }
    for other in [
        "http://localhost.example/",
        "http://127.0.0.1.example/",
        "http://[::2]/",
        "http://128.0.0.1/",
    ] {
        source.remote = url(other);
        assert!(source.check().is_err(), "{other}");
    }
    source.remote = url("https://x/");
    source.image = "../a b".into();
    assert!(source.check().is_err());
}

#[test]
fn a_redirect_may_not_lose_what_https_gives() {
    let source = PullSource {
        remote: url("https://x/a"),
        image: "i".into(),
        plain_http: true,
    };
    let to = |from: &str, location: &str| {
        source
            .redirect(&url(from), location)
            .map(|to| to.to_string())
    };
    assert_eq!(to("https://x/a/b", "c?d=e").unwrap(), "https://x/a/c?d=e");
    assert_eq!(to("https://x/a/b", "/c").unwrap(), "https://x/c");
    assert_eq!(to("https://x/a", "//y/c").unwrap(), "https://y/c");
    assert_eq!(to("http://x/a", "https://y/c").unwrap(), "https://y/c");
    assert_eq!(to("http://x/a", "http://x/c").unwrap(), "http://x/c");
    assert!(to("https://x/a", "http://x/a").is_err());
    assert!(to("http://x/a", "http://y/a").is_err());
    assert!(to("http://x/a", "http://x:81/a").is_err());
    assert!(to("http://x/a", "file:///etc/passwd").is_err());
}
