use super::*;

/// An archive with one file, packed with `option` of tar.
fn packed(dir: &Path, option: &str) -> String {
    std::fs::write(dir.join("hello"), "hello").unwrap();
    let archive = dir.join("a.tar");
    let command = Command::new(&Tool::find("tar").unwrap())
        .args(["--create", option, "--directory"])
        .arg(dir)
        .arg("--file")
        .arg(&archive)
        .arg("hello");
    Runner::default().run(&command).unwrap();
    archive.to_str().unwrap().to_owned()
}

#[test]
fn files_are_told_by_how_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    for (option, kind) in [
        ("--format=gnu", Kind::Tar(None)),
        ("--format=posix", Kind::Tar(None)),
        ("--gzip", Kind::Tar(Some(("gzip", "--gzip")))),
    ] {
        assert_eq!(Held::open(&packed(dir.path(), option)).unwrap().kind, kind);
    }
    let text = dir.path().join("text");
    std::fs::write(&text, "[manifest]\n").unwrap();
    let mut held = Held::open(text.to_str().unwrap()).unwrap();
    assert_eq!(held.kind, Kind::Other);
    assert_eq!(held.manifest().unwrap_err().code, Code::Invalid);
    for none in ["/no/such/file", "/tmp", "/dev/null"] {
        let refusal = Held::open(none).err().unwrap();
        assert_eq!(refusal.code, Code::Invalid, "{refusal:?}");
    }
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(dir.path(), "--format=gnu");
    let held = Held::open(&path).unwrap();
    held.unchanged().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(held.unchanged().unwrap_err().code, Code::TemplateBadArchive);
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let refusal = missing(ToolMissing("unsquashfs".to_owned()));
    assert_eq!(refusal.code, Code::HostUnsuitable);
    assert!(refusal.message.contains("unsquashfs") && refusal.hint.contains("squashfs-tools"));
}

/// Checks, unpacks and looks at an archive, as an import does. It needs root for the confinement.
fn imported(
    archive: &str,
    metadata: Option<&str>,
) -> Result<(tempfile::TempDir, Manifest), Refusal> {
    let source = ImportSource {
        archive: archive.to_owned(),
        metadata: metadata.map(str::to_owned),
        digest: None,
    };
    let mut checked = check(&Runner::default(), &source, Bytes::gib(1), &mut |_| {})?;
    let tree = tempfile::tempdir().unwrap();
    checked.unpack(&Runner::default(), tree.path())?;
    let manifest = checked.manifest(tree.path())?;
    Ok((tree, manifest))
}

#[test]
fn a_tree_comes_out_of_every_kind_of_archive_as_it_went_in() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: the confinement needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("image/rootfs");
    std::fs::create_dir_all(tree.join("sbin")).unwrap();
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::copy("/bin/true", tree.join("sbin/init")).unwrap();
    std::fs::hard_link(tree.join("sbin/init"), tree.join("sbin/again")).unwrap();
    std::fs::write(tree.join("etc/os-release"), "ID=mine\nVERSION_ID=3\n").unwrap();
    std::fs::write(tree.join("etc/two\nlines"), "x").unwrap();
    std::fs::write(
        dir.path().join("image/metadata.yaml"),
        "architecture: x86_64\n",
    )
    .unwrap();
    let pack = |name: &str, option: &str, from: &Path| {
        let archive = dir.path().join(name);
        let command = Command::new(&Tool::find("tar").unwrap())
            .args(["--create", option, "--directory"])
            .arg(from)
            .arg("--file")
            .arg(&archive)
            .arg(".");
        Runner::default().run(&command).unwrap();
        archive.to_str().unwrap().to_owned()
    };
    let mut archives = vec![
        pack("a.tar", "--format=posix", &tree),
        pack("a.tar.gz", "--gzip", &tree),
        pack("unified.tar", "--format=gnu", &dir.path().join("image")),
    ];
    for (tool, option) in [("xz", "--xz"), ("zstd", "--zstd")] {
        if Tool::find(tool).is_ok() {
            archives.push(pack(tool, option, &tree));
        }
    }
    if let Ok(mksquashfs) = Tool::find("mksquashfs") {
        let image = dir.path().join("a.squashfs");
        let command = Command::new(&mksquashfs)
            .args([&tree, &image])
            .args(["-quiet", "-no-progress"]);
        Runner::default().run(&command).unwrap();
        archives.push(image.to_str().unwrap().to_owned());
    }
    for archive in &archives {
        let (out, manifest) = imported(archive, None).unwrap();
        assert_eq!(
            (manifest.distribution.as_str(), manifest.version.as_str()),
            ("mine", "3")
        );
        assert_eq!(
            std::fs::read(out.path().join("etc/two\nlines")).unwrap(),
            b"x"
        );
        let links = std::fs::metadata(out.path().join("sbin/init"))
            .unwrap()
            .nlink();
        assert_eq!(links, 2, "{archive}");
        // Cut off, none of them is taken.
        let bytes = std::fs::read(archive).unwrap();
        let cut = dir.path().join("cut");
        std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        let refusal = imported(cut.to_str().unwrap(), None).err().unwrap();
        assert_eq!(
            refusal.code,
            Code::TemplateBadArchive,
            "{archive}: {refusal:?}"
        );
    }
}
