"""Images for tests: a tree with busybox and an init, packed in every way, and archives that nobody should take."""
import gzip
import io
import os
import pathlib
import shutil
import struct
import tarfile

from harness import TOP, sh

# cap_net_raw=ep, as `setcap` writes it.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
# user::rwx, user:1000:r--, group::r-x, mask::r-x, other::r-x
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
    (1, 7, 0xffffffff), (2, 4, 1000), (4, 5, 0xffffffff), (16, 5, 0xffffffff), (32, 5, 0xffffffff)))
SECRETS = {
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/ssh/ssh_host_ed25519_key": "secret\n",
    "var/lib/systemd/random-seed": "seed\n",
    "var/lib/dhcp/dhclient.eth0.leases": "lease\n",
}
METADATA = "architecture: x86_64\ncreation_date: 1764000000\nproperties:\n  os: Tiny\n  release: \"7\"\n"


def tree(top, release="1"):
    """A root file system at `top`: what a VPS needs to boot, what must be removed, and what must survive."""
    top = pathlib.Path(top)
    init = (TOP / "tests/fixtures/tiny/tiny.sh").read_text().split("<<'INIT'\n")[1].split("INIT\n")[0]
    for name in ("bin", "sbin", "usr/bin", "etc", "dev", "proc", "sys", "run", "root", "mnt", "var", "tmp", "persistent"):
        (top / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", top / "bin/busybox")
    for name in sh("/bin/busybox", "--list").stdout.split():
        if name not in ("busybox", "init"):
            (top / "bin" / name).symlink_to("busybox")
    (top / "sbin/init").write_text(init)
    (top / "sbin/init").chmod(0o755)
    (top / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (top / "etc/group").write_text("root:x:0:\n")
    (top / "etc/os-release").write_text(f'ID=tiny\nVERSION_ID="{release}"\n')
    (top / "etc/strange\nname").write_text("strange")
    for path, text in SECRETS.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    capped = top / "usr/bin/capped"
    capped.write_text("capped")
    capped.chmod(0o755)
    os.setxattr(capped, "security.capability", CAPABILITY)
    os.setxattr(capped, "user.kept", b"kept")
    os.setxattr(top / "usr/bin/capped", "system.posix_acl_access", ACL)
    os.mknod(top / "dev/null", 0o20666, os.makedev(1, 3))
    return top


def tar(top, archive, *options):
    sh("tar", "--create", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", *options, "--directory", str(top),
       "--file", str(archive), ".")
    return archive


def squashfs(top, archive):
    sh("mksquashfs", str(top), str(archive), "-noappend", "-quiet", "-no-progress")
    return archive


def written(archive, *members):
    """A tar of members as they are given: (name, fields, contents)."""
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as out:
        for name, fields, contents in members:
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            info.size = len(contents) if info.type == tarfile.REGTYPE else 0
            out.addfile(info, io.BytesIO(contents))
    return archive


def bad(scratch, good, squashed):
    """(what it is, the file, what the refusal speaks of) of everything that must be refused."""
    plain, link, hard = {}, {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
    cases = [
        ("traversal", [("../evil", plain, b"x")], "out of the tree"),
        ("traversal within", [("a/../../evil", plain, b"x")], "out of the tree"),
        ("absolute name", [("/evil", plain, b"x")], "absolute"),
        ("hard link out", [("x", {**hard, "linkname": "/etc/passwd"}, b"")], "absolute"),
        ("hard link up", [("x", {**hard, "linkname": "../../etc/passwd"}, b"")], "out of the tree"),
        ("symlinked parent", [("a", {**link, "linkname": "/tmp"}, b""), ("a/evil", plain, b"x")], "below the symbolic link"),
        ("hard link through a symlink", [("a", {**link, "linkname": "/etc"}, b""),
                                         ("x", {**hard, "linkname": "a/passwd"}, b"")], "symbolic link"),
        ("device node", [("etc/sda", {"type": tarfile.BLKTYPE, "devmajor": 8}, b"")], "not in /dev"),
        ("no system", [("etc/hello", plain, b"x")], "no init"),
    ]
    for what, members, why in cases:
        yield what, written(scratch / f"{what}.tar", *members), why
    # A hole of 100 TiB, and a gigabyte of zeros for each kilobyte, with a true header.
    with open(scratch / "hole", "wb") as hole:
        hole.truncate(15 << 40)
    sh("tar", "--create", "--sparse", "--directory", str(scratch), "--file", str(scratch / "sparse.tar"), "hole")
    (scratch / "hole").unlink()
    yield "sparse", scratch / "sparse.tar", "unpacked it would have more"
    header = tarfile.TarInfo("zeros")
    header.size = 65 << 30
    with gzip.open(scratch / "bomb.tar.gz", "wb", compresslevel=1) as bomb:
        bomb.write(header.tobuf(tarfile.GNU_FORMAT))
        bomb.write(bytes(1 << 20))
    yield "bomb", scratch / "bomb.tar.gz", "unpacked it would have more"
    whole = good.read_bytes()
    for what, cut in (("cut.tar", whole[:-20480]), ("cut in a header.tar", whole[:600]),
                      ("cut.tar.gz", gzip.compress(whole, 1)[:-5000]), ("cut.squashfs", squashed.read_bytes()[:-5000])):
        (scratch / what).write_bytes(cut)
        yield what, scratch / what, "refused"
    (scratch / "text").write_text("no archive")
    yield "text", scratch / "text", "neither tar"
