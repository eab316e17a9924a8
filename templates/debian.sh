#!/bin/sh
# Makes a fresh Debian tree fit for a container: $1 is the tree, and this runs on the host as root, before the first
# boot of anything in it. Whatever is not installed there is passed over, so that recipes may leave packages out.
set -eu
umask 022
tree=$1
[ -d "$tree/etc" ] || { echo "$0: $tree is no tree of a system" >&2; exit 1; }

# The tree's own systemctl, of the version that will read what it writes; it wants to see /proc.
mount -t proc proc "$tree/proc"
trap 'umount "$tree/proc"' EXIT
unit() { SYSTEMD_OFFLINE=1 chroot "$tree" systemctl --quiet "$@"; }
has_unit() { [ -e "$tree/usr/lib/systemd/system/$1" ] || [ -e "$tree/lib/systemd/system/$1" ]; }

# --- what an unprivileged container may not do -----------------------------------------------------------------
# These reach for what belongs to the host's kernel, are refused, and leave the system `degraded`.
for name in sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount dev-hugepages.mount \
    proc-sys-fs-binfmt_misc.automount systemd-modules-load.service; do
    unit mask "$name"
done
# A prompt on the console at a first boot would hold up the system for ever.
unit mask systemd-firstboot.service
# It fails at every boot but the first where a persistent file is bound over /etc/machine-id.
mkdir -p "$tree/etc/systemd/system/systemd-machine-id-commit.service.d"
cat > "$tree/etc/systemd/system/systemd-machine-id-commit.service.d/container.conf" <<'END'
[Unit]
ConditionFirstBoot=yes
END

# --- what runs ---------------------------------------------------------------------------------------------------
# Nothing is installed or upgraded behind the owner's back. File systems are the host's to look after.
for name in apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service \
    e2scrub_reap.service e2scrub_all.timer fstrim.timer; do
    if has_unit "$name"; then unit disable "$name"; fi
done
# The one console is /dev/console; there are no virtual terminals.
unit enable console-getty.service
unit disable getty@tty1.service

# --- network -----------------------------------------------------------------------------------------------------
# The platform's own file sorts before this one and wins. The client id is the MAC, because the machine-id of a VPS
# may change, and an address must not change with it.
mkdir -p "$tree/etc/systemd/network"
cat > "$tree/etc/systemd/network/80-eth0.network" <<'END'
[Match]
Name=eth0

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
END
unit enable systemd-networkd.service
# Waits for eth0 alone, for a short while, and never fails a boot: a VPS may have no network at all.
mkdir -p "$tree/etc/systemd/system/systemd-networkd-wait-online.service.d"
cat > "$tree/etc/systemd/system/systemd-networkd-wait-online.service.d/container.conf" <<'END'
[Unit]
ConditionPathExists=/sys/class/net/eth0

[Service]
ExecStart=
ExecStart=-/lib/systemd/systemd-networkd-wait-online --interface=eth0 --timeout=15
END
# Name servers and the host name are the platform's to write.
rm -f "$tree/etc/hostname" "$tree/etc/resolv.conf"
: > "$tree/etc/resolv.conf"

# --- locale ------------------------------------------------------------------------------------------------------
# Debian 12's PAM reads the first, everything newer the second.
echo 'LANG=C.UTF-8' > "$tree/etc/locale.conf"
mkdir -p "$tree/etc/default"
rm -f "$tree/etc/default/locale"
echo 'LANG=C.UTF-8' > "$tree/etc/default/locale"

# --- SSH host keys: made at the first boot, never part of a template -----------------------------------------------
if has_unit ssh.service; then
    cat > "$tree/etc/systemd/system/ssh-host-keys.service" <<'END'
[Unit]
Description=Make the SSH host keys that are missing
Before=ssh.service ssh.socket
ConditionPathExists=|!/etc/ssh/ssh_host_ed25519_key
ConditionPathExists=|!/etc/ssh/ssh_host_ecdsa_key
ConditionPathExists=|!/etc/ssh/ssh_host_rsa_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=ssh.service ssh.socket
END
    unit enable ssh-host-keys.service
    rm -f "$tree"/etc/ssh/ssh_host_*
fi

# --- small: no documentation but licences, no translations of messages -----------------------------------------------
# Removed here rather than excluded from the installation: mmdebstrap then filters each package in Python, which took
# 7 s of 23. What is installed later comes whole.
for dir in man info locale lintian; do
    if [ -d "$tree/usr/share/$dir" ]; then
        find "$tree/usr/share/$dir" -xdev -mindepth 1 ! -name locale.alias -delete
    fi
done
if [ -d "$tree/usr/share/doc" ]; then
    find "$tree/usr/share/doc" -xdev -type f ! -name copyright -delete
    find "$tree/usr/share/doc" -xdev -mindepth 1 -type d -empty -delete
fi

# --- nothing of the build or of the machine that built it stays ------------------------------------------------------
# The machine-id is emptied, not set to `uninitialized`: systemd makes one and does not take it for a first boot, which
# would enable all that is installed.
: > "$tree/etc/machine-id"
[ -L "$tree/var/lib/dbus/machine-id" ] || rm -f "$tree/var/lib/dbus/machine-id"
rm -f "$tree/var/lib/systemd/random-seed" "$tree/var/lib/systemd/credential.secret"
find "$tree/var/log" -type f -delete
find "$tree/var/cache/apt" "$tree/var/lib/apt/lists" -type f -delete
rm -f "$tree"/var/cache/debconf/*-old "$tree"/var/lib/dpkg/*-old "$tree"/var/cache/ldconfig/aux-cache
# Caches are as new as /usr: without these stamps each start on a new root would build them again.
touch -r "$tree/usr" "$tree/etc/.updated" "$tree/var/.updated"
# /run, /tmp and /dev are made anew by each boot.
find "$tree/run" "$tree/tmp" "$tree/var/tmp" "$tree/dev" -xdev -mindepth 1 -delete
