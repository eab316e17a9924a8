"""The network of a node (SPEC F5), in a network namespace of its own, with a peer outside of it.

Forged frames are tried twice: with the rules, and with the rules taken away by hand while the daemon is stopped. What does
not pass the first time and passes the second was stopped by the rules.
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from harness import MAYFLY, Node, archived, find_processes, sh, wait_for

# In the virtual machine there is neither nft nor dnsmasq.
BACKENDS = ["btrfs"]
INSIDE, OUTSIDE = "mayfly-e2e-node", "mayfly-e2e-out"
PEER, HOST = "198.51.100.2", "198.51.100.1"
# LXC looks for the bridge in /sys, which belongs to the network namespace that it was mounted in.
SHELL = """
mount --make-rprivate / && mount --rbind /sys/fs/cgroup "$0" && mount -t sysfs sysfs /sys &&
mount --rbind "$0" /sys/fs/cgroup && umount -l "$0" && exec "$@"
"""
# Says to whoever connects where they come from.
LISTEN = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    c, a = s.accept(); c.sendall(f"from {a[0]}\\n".encode()); c.close()
"""
CONNECT = """
import socket, sys
try: socket.create_connection((sys.argv[1], 7), 1)
except ConnectionRefusedError: pass
"""


def inside(*argv, check=True, **more):
    return sh("nsenter", f"--net=/run/netns/{INSIDE}", *map(str, argv), check=check, **more)


def outside(*argv, check=True, **more):
    return sh("nsenter", f"--net=/run/netns/{OUTSIDE}", *map(str, argv), check=check, **more)


class Plugged(Node):
    """A node in a network namespace of its own."""

    def __init__(self):
        super().__init__("net")
        (self.dir / "cgroups").mkdir()
        self.within = ["nsenter", f"--net=/run/netns/{INSIDE}", "unshare", "-m", "sh", "-c", SHELL, str(self.dir / "cgroups")]

    def recipe(self, name):
        # No mirror answers in there.
        return archived(name)

    def network(self):
        return json.loads((self.state / "node.json").read_text())["network"]

    def servers(self):
        return find_processes(lambda argv: any(str(self.state / "network") in word for word in argv))


@contextlib.contextmanager
def two_namespaces():
    listeners = []
    for name in (INSIDE, OUTSIDE):
        sh("ip", "netns", "delete", name, check=False)
        sh("ip", "netns", "add", name)
    try:
        sh("ip", "-n", INSIDE, "link", "add", "out0", "type", "veth", "peer", "name", "out0", "netns", OUTSIDE)
        for name, address in ((INSIDE, HOST), (OUTSIDE, PEER)):
            sh("ip", "-n", name, "address", "add", f"{address}/24", "dev", "out0")
            for link in ("lo", "out0"):
                sh("ip", "-n", name, "link", "set", link, "up")
        for name in (INSIDE, OUTSIDE):
            listeners.append(subprocess.Popen(["nsenter", f"--net=/run/netns/{name}", "python3", "-c", LISTEN, "9999"]))
        yield
    finally:
        for listener in listeners:
            listener.kill()
            listener.wait()
        for name in (INSIDE, OUTSIDE):
            sh("ip", "netns", "delete", name, check=False)


@contextlib.contextmanager
def plugged_node(*network):
    with two_namespaces():
        node = Plugged()
        try:
            node.init(network=network)
            node.serve()
            yield node
        finally:
            servers = node.servers()
            for pid in servers:
                os.kill(pid, signal.SIGKILL)
            node.remove()


def answers(address):
    """Whether anybody is at an address, as the host sees it: it takes a connection, or refuses one."""
    return inside("python3", "-c", CONNECT, address, check=False).returncode == 0


def table(family, node):
    return inside("nft", "list", "table", family, f"mayfly_{node.id}", check=False).returncode == 0


def hears(node, vps, address, port):
    """What a connection from within a VPS is told; empty where there is none."""
    command = f"timeout 2 bash -c 'read -r line < /dev/tcp/{address}/{port}; echo \"$line\"'"
    return node.exec(vps, "bash", "-c", command, check=False).stdout.strip()


def pings(node, vps, address, *how):
    return node.exec(vps, "ping", "-c", "1", "-W", "1", *how, address, check=False).returncode == 0


def forged(node, one, two):
    """Which forgeries of the first VPS arrive: {what: whether}."""
    gateway = node.network()["subnet"].replace(".0.0/16", ".0.1")
    gateway6 = node.network()["prefix"].replace("::/64", "::1")
    own, other = node.show(one)["network"], node.show(two)["network"]
    got = {}
    node.exec(one, "ip", "address", "add", "10.77.99.99/32", "dev", "eth0")
    got["IPv4"] = pings(node, one, gateway, "-I", "10.77.99.99")
    node.exec(one, "ip", "address", "del", "10.77.99.99/32", "dev", "eth0")
    bad6 = gateway6 + "bad"
    node.exec(one, "ip", "address", "add", f"{bad6}/64", "dev", "eth0", "nodad")
    got["IPv6"] = pings(node, one, gateway6, "-I", bad6)
    node.exec(one, "ip", "address", "del", f"{bad6}/64", "dev", "eth0")
    # An answer nobody asked for: the gateway is where this card is.
    pings(node, two, gateway)
    # For a second the kernel takes no other answer for one that it has just had.
    time.sleep(1.2)
    bridge = json.loads(inside("ip", "-j", "link", "show", "mayfly0").stdout)[0]["address"]
    node.exec(one, "perl", "-e", """
        my ($if, $mac, $to, $gw, $ip) = @ARGV; my $hex = sub { pack "H12", shift =~ s/://gr };
        my $quad = sub { pack "C4", split /\\./, shift };
        socket(my $s, 17, 3, 0x0300) or die "$!";
        my $frame = $hex->($to) . $hex->($mac) . pack("n", 0x0806) . pack("nnCCn", 1, 0x0800, 6, 4, 2)
            . $hex->($mac) . $quad->($gw) . $hex->($to) . $quad->($ip);
        my $at = pack("SnlSCCa8", 17, 0x0806, $if, 1, 0, 6, $hex->($to));
        for (1 .. 3) { send($s, $frame, 0, $at) or die "$!"; select undef, undef, undef, 0.1 }
        """, node.exec(one, "cat", "/sys/class/net/eth0/ifindex"), own["mac"], other["mac"], gateway, other["ipv4"])
    neighbour = node.exec(two, "ip", "neigh", "show", gateway)
    assert own["mac"] in neighbour or bridge in neighbour, neighbour
    got["ARP"] = own["mac"] in neighbour
    node.exec(two, "ip", "neigh", "flush", "all")
    node.exec(one, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:66")
    # The host asks anew where the card is, before and after.
    inside("ip", "neigh", "flush", "dev", "mayfly0")
    got["MAC"] = pings(node, one, gateway)
    node.exec(one, "ip", "link", "set", "eth0", "address", own["mac"])
    node.exec(one, "ip", "neigh", "flush", "all")
    inside("ip", "neigh", "flush", "dev", "mayfly0")
    return got


def passes_around_the_bridge(node, one):
    """Whether what is sent to a group of the link itself, which a bridge does not pass on, gets to a server of the host."""
    listen = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9998)); s.settimeout(2); print(s.recv(9))"
    listener = subprocess.Popen(["nsenter", f"--net=/run/netns/{INSIDE}", "python3", "-c", listen], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True)
    time.sleep(0.5)
    own = node.show(one)["network"]
    node.exec(one, "perl", "-e", """
        my ($if, $mac, $from, $to) = @ARGV; my $quad = sub { pack "C4", split /\\./, shift };
        socket(my $s, 17, 3, 0x0800) or die "$!";
        my $udp = pack("nnnn", 1234, 9998, 12, 0) . "here";
        my $ip = pack("CCnnnCCna4a4", 0x45, 0, 20 + length $udp, 0, 0, 64, 17, 0, $quad->($from), $quad->($to));
        my $sum = 0; $sum += $_ for unpack "n*", $ip; $sum = ($sum & 0xffff) + ($sum >> 16) for 1, 2;
        substr($ip, 10, 2) = pack "n", ~$sum & 0xffff;
        for my $last (2, 14) {
            my $group = pack "H12", sprintf "0180c20000%02x", $last;
            my $at = pack("SnlSCCa8", 17, 0x0800, $if, 1, 0, 6, $group);
            send($s, $group . pack("H12", $mac =~ s/://gr) . pack("n", 0x0800) . $ip . $udp, 0, $at) or die "$!";
        }
        """, node.exec(one, "cat", "/sys/class/net/eth0/ifindex"), own["mac"], own["ipv4"], HOST)
    return "here" in listener.communicate()[0]


def everything_but_the_network_goes_on(node, vpses):
    return {vps: (node.show(vps)["run"]["id"], node.show(vps)["network"]) for vps in vpses}


def test_a_network_from_init_to_its_removal(_):
    """F5: addresses, names, the way out and in, no spoofing, what comes back by itself, and nothing left."""
    with plugged_node() as node:
        key = node.dir / "key"
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        node.ensure_template("debian-12-impermanence")
        began = time.monotonic()
        one = node.create("debian-12-impermanence", "one", "--ssh-key", f"{key}.pub", wait=False)
        address = node.show(one)["network"]
        assert address["ipv4"] == "10.77.0.2" and node.network()["subnet"] == "10.77.0.0/16", address
        wait_for("the first address answers", lambda: answers(address["ipv4"]), 5)
        print(f"  addressed {time.monotonic() - began:.2f} s after create --start began", flush=True)
        two = node.create("debian-12", "two", wait=False)
        other = node.show(two)["network"]
        for vps in (one, two):
            node.wait_running(vps)
        addresses_and_names(node, one, two)
        # The guest's own software leaves the card as it was, also when it starts again.
        node.exec(one, "systemctl", "restart", "systemd-networkd")
        wait_for("the card is set up", lambda: "configured" in node.exec(one, "networkctl", "--no-legend", "list", "eth0"), 10)
        time.sleep(0.5)
        addresses_and_names(node, one, two)
        in_and_out(node, one, two)
        by_ssh(node, one, key)
        before = everything_but_the_network_goes_on(node, (one, two))
        comes_back(node, one, two)
        assert everything_but_the_network_goes_on(node, (one, two)) == before
        # The address is the VPS's, not the run's.
        node.run("restart", two, "--force")
        wait_for("it has its address again", lambda: answers(other["ipv4"]), 5)
        removal(node, one, two)


def addresses_and_names(node, one, two):
    other = node.show(two)["network"]
    shown = node.exec(one, "ip", "-o", "address", "show", "dev", "eth0")
    own = node.show(one)["network"]
    assert own["ipv4"] + "/16 brd 10.77.255.255" in shown and own["ipv6"] + "/64" in shown, shown
    assert other["ipv4"] in node.exec(one, "getent", "ahostsv4", "two")
    assert other["ipv6"] in node.exec(one, "getent", "ahostsv6", "two.mayfly.internal")
    how = node.exec(two, "ping", "-c1", "-W2", own["ipv4"], check=False)
    assert how.returncode == 0, how
    # A fresh IPv6 address is looked for by others first.
    wait_for("the other answers by IPv6", lambda: pings(node, one, other["ipv6"]), 5)
    wait_for("the other answers by its name", lambda: pings(node, one, "two"), 5)


def in_and_out(node, one, two):
    own = node.show(one)["network"]
    wait_for("the way out is through the host's address", lambda: hears(node, one, PEER, 9999) == f"from ::ffff:{HOST}", 10)
    # The very listener answers the host itself, and no guest.
    assert inside("bash", "-c", "read -r l < /dev/tcp/10.77.0.1/9999; echo $l").stdout.startswith("from")
    assert hears(node, one, "10.77.0.1", 9999) == "" and hears(node, one, HOST, 9999) == ""
    node.run("port", "add", one, "2222:22")
    node.refused("port.taken", "port", "add", two, "2222:80")
    assert node.json("port", "list", one) == [{"host_port": 2222, "guest_port": 22, "protocol": "tcp"}]
    ask = f"read -r -t 2 l < /dev/tcp/{HOST}/2222; echo $l"
    wait_for("the port leads in", lambda: outside("bash", "-c", ask, check=False).stdout.startswith("SSH-2.0"), 5)
    wait_for("from the host itself too", lambda: inside("bash", "-c", ask, check=False).stdout.startswith("SSH-2.0"), 10)
    wait_for("from another VPS too", lambda: hears(node, two, HOST, 2222).startswith("SSH-2.0"), 10)
    # Whoever is outside and has a route reaches nothing but that port.
    outside("ip", "route", "add", "10.77.0.0/16", "via", HOST)
    direct = f"read -r -t 2 l < /dev/tcp/{own['ipv4']}/22; echo $l"
    assert "SSH" not in outside("timeout", "3", "bash", "-c", direct, check=False).stdout
    outside("ip", "route", "del", "10.77.0.0/16", "via", HOST)
    node.run("port", "remove", one, "2222")
    assert "SSH" not in outside("timeout", "3", "bash", "-c", ask, check=False).stdout
    node.refused("port.not_found", "port", "remove", one, "2222")


def by_ssh(node, one, key):
    """T4: the key is in every new root; the host's key is taken once and stays the machine's."""
    home = node.dir / "home"
    def ask():
        argv = ["nsenter", f"--net=/run/netns/{INSIDE}", MAYFLY, "--socket", node.state / "api.sock", "ssh", one, "--", "hostname"]
        return sh(*map(str, argv), check=False, env=dict(os.environ, HOME=str(home)), stdin=subprocess.DEVNULL)
    agent = dict(line.split(";")[0].split("=") for line in sh("ssh-agent", "-s").stdout.splitlines() if "=" in line)
    os.environ.update(agent)
    try:
        sh("ssh-add", "-q", key)
        for _ in range(2):
            done = ask()
            assert (done.returncode, done.stdout) == (0, "one\n"), done
            node.run("restart", one, "--force")
            node.wait_running(one)
    finally:
        os.kill(int(agent["SSH_AGENT_PID"]), signal.SIGTERM)
        for name in agent:
            del os.environ[name]
    kept = pathlib.Path(node.state, "ssh", node.show(one)["incarnation"]).read_text()
    assert len(kept.splitlines()) == 1, kept


def comes_back(node, one, two):
    assert forged(node, one, two) == {"MAC": False, "IPv4": False, "ARP": False, "IPv6": False}
    assert not passes_around_the_bridge(node, one)
    assert "no_linklocal_learn 1" in inside("ip", "-d", "link", "show", "mayfly0").stdout
    os.kill(node.daemon.pid, signal.SIGSTOP)
    try:
        inside("nft", "delete", "table", "bridge", f"mayfly_{node.id}")
    finally:
        os.kill(node.daemon.pid, signal.SIGCONT)
    wait_for("rules that somebody deleted are back", lambda: table("bridge", node), 10)
    inside("nft", "add", "rule", "inet", f"mayfly_{node.id}", "to_host", "accept")
    changed = lambda: "drop\n\t\taccept" in inside("nft", "list", "table", "inet", f"mayfly_{node.id}").stdout
    assert changed()
    wait_for("a rule that somebody added is gone", lambda: not changed(), 10)
    inside("ip", "address", "del", "10.77.0.1/16", "dev", "mayfly0")
    wait_for("the host's address is back", lambda: pings(node, one, "10.77.0.1"), 10)
    for pid in node.servers():
        os.kill(pid, signal.SIGKILL)
    wait_for("the server is back", lambda: "two" in node.exec(one, "getent", "hosts", "two", check=False).stdout, 15)
    # It is not the daemon's child, and no second one comes with the next daemon.
    servers = node.servers()
    assert len(servers) == 1
    node.restart_daemon()
    assert pings(node, one, "two")
    time.sleep(4)
    assert node.servers() == servers and not node.json("status")["trouble"]


def removal(node, one, two):
    refused = node.refused("network.in_use", "network", "remove")
    assert "mayfly stop" in refused.hint
    address = node.show(one)["network"]
    for vps in (one, two):
        node.run("stop", vps, "--force")
    assert node.json("network", "remove") == {"removed": True}
    assert node.servers() == [] and not table("inet", node) and not table("bridge", node)
    links = {link["ifname"] for link in json.loads(inside("ip", "-j", "link").stdout)}
    assert links == {"lo", "out0"}, links
    assert not (node.state / "network").exists() and node.network() is None
    assert node.json("network", "remove") == {"removed": False}
    # It starts without one, and its address waits for it.
    node.run("start", two)
    assert node.exec(two, "ls", "/sys/class/net") == "lo"
    node.refused("network.absent", "port", "add", two, "80:80")
    node.run("stop", two, "--force")
    node.end_daemon()
    node.init(network=("--bridge", "mayfly0"))
    node.serve()
    assert node.show(one)["network"]["ipv4"] == address["ipv4"]
    for vps in (one, two):
        node.run("destroy", vps, "--yes")
    assert node.json("network", "remove") == {"removed": True}


def test_forged_frames_pass_without_the_rules(_):
    """The forgeries of this file are real ones: without the rules they arrive."""
    with plugged_node() as node:
        one, two = (node.create("debian-12-impermanence", name) for name in ("one", "two"))
        assert forged(node, one, two) == {"MAC": False, "IPv4": False, "ARP": False, "IPv6": False}
        # Each look of the daemon puts the rules back, so it has none while this goes on.
        stop = subprocess.Popen(["nsenter", f"--net=/run/netns/{INSIDE}", "sh", "-c",
                                 "while :; do for family in bridge inet; do "
                                 f"nft delete table $family mayfly_{node.id} 2>/dev/null; done; sleep 0.02; done"])
        try:
            arrived = set()
            for _ in range(5):
                arrived |= {what for what, there in forged(node, one, two).items() if there}
            around = [passes_around_the_bridge(node, one) for _ in range(3)]
        finally:
            stop.kill()
            stop.wait()
        assert arrived == {"MAC", "IPv4", "ARP", "IPv6"} and any(around), (arrived, around)
        for vps in (one, two):
            node.run("destroy", vps, "--yes")
        node.run("network", "remove")


def test_what_cannot_be_is_said_before_anything_is_made(_):
    """E2, F5: a bridge that is there, a subnet that the host uses, and a program that is missing."""
    with two_namespaces():
        node = Plugged()
        try:
            def init(*network):
                argv = ["init", "--pool", node.backend.spec(), "--state-dir", str(node.state), *network, "--json"]
                done = sh("nsenter", f"--net=/run/netns/{INSIDE}", MAYFLY, *argv, check=False)
                assert done.returncode == 1, done
                assert not (node.state / "node.json").exists()
                return json.loads(done.stdout.splitlines()[-1])["error"]
            assert "out0" in init("--bridge", "out0")["message"]
            assert "198.51.100" not in init("--bridge", "out0")["message"]
            sh("ip", "-n", INSIDE, "address", "add", "10.9.8.7/24", "dev", "out0")
            error = init("--subnet", "10.9.0.0/16")
            assert error["code"] == "host.unsuitable" and "10.9.8" in error["message"], error
        finally:
            node.remove()



# A DHCPv6 message of a type to all servers of the link, in the name of another client: its lease and the server as they are known.
SAY_AS = """
use Socket qw(:all);
my ($type, $server, $client, $iaid, $address, $card) = @ARGV;
socket(my $s, AF_INET6, SOCK_DGRAM, 17) or die "$!";
my $option = sub { pack("nn", $_[0], length $_[1]) . $_[1] };
my $of = $option->(5, inet_pton(AF_INET6, $address) . pack("NN", 300, 300));
my $options = $option->(1, pack "H*", $client) . $option->(2, pack "H*", $server) . $option->(3, pack("NNN", $iaid, 0, 0) . $of);
my $all = pack_sockaddr_in6(547, inet_pton(AF_INET6, "ff02::1:2"), $card);
send($s, pack("CCn", $type, 1, 2) . $options, 0, $all) or die "$!";
"""
DECLINE = 9


def test_a_guest_without_files_of_ours_gets_its_addresses_by_asking(_):
    """F5, T4: a NixOS-shaped guest has nothing of the platform's in /etc; its own software sets the card up anew."""
    with plugged_node() as node:
        one, two = (node.create("nixos-shaped", name) for name in ("one", "two"))
        for vps in (one, two):
            assert node.exec(vps, "ls", "/etc/systemd/network") == "80-eth0.network"
        asks_anew(node, one)
        asks_anew(node, two)
        # What the server tells beside the address: names are found where it says, for both kinds of addresses.
        index = node.exec(one, "cat", "/sys/class/net/eth0/ifindex")
        lease = node.exec(one, "cat", f"/run/systemd/netif/leases/{index}").splitlines()
        assert {"DNS=10.77.0.1", "ROUTER=10.77.0.1", "DOMAINNAME=mayfly.internal"} <= set(lease), lease
        prefix = node.network()["prefix"].replace("::/64", "::1")
        link = dict(line.split("=", 1) for line in node.exec(one, "cat", f"/run/systemd/netif/links/{index}").splitlines()
                    if "=" in line)
        assert {"10.77.0.1", prefix} <= set(link["DNS"].split()), link
        for server in ("10.77.0.1", prefix):
            node.exec(one, "sh", "-c", f"echo nameserver {server} > /etc/resolv.conf")
            assert node.show(two)["network"]["ipv4"] in node.exec(one, "getent", "ahostsv4", "two.mayfly.internal")
            assert node.show(two)["network"]["ipv6"] in node.exec(one, "getent", "ahostsv6", "two")
        # Nobody gives up the address of another, although it knows all that its client says.
        address = node.show(two)["network"]["ipv6"]
        leases = [line.split(" ") for line in (node.state / "network/leases").read_text().splitlines()]
        server = next(line[1] for line in leases if line[0] == "duid").replace(":", "")
        iaid, client = next((line[1], line[4].replace(":", "")) for line in leases if line[2:3] == [address])
        for _ in range(3):
            node.exec(one, "perl", "-e", SAY_AS, str(DECLINE), server, client, iaid, address, index)
        # The server does one thing after the other: with this answer it is done with what came before.
        node.exec(one, "getent", "ahostsv6", "two")
        assert address in (node.state / "network/leases").read_text(), "the lease of another was given up"
        asks_anew(node, two)
        for vps in (one, two):
            node.run("destroy", vps, "--yes")
        node.run("network", "remove")


def asks_anew(node, vps):
    """Takes all off the card, and has the guest's own software set it up: it has its own addresses, and no other."""
    own = node.show(vps)["network"]
    node.exec(vps, "sh", "-c", "systemctl stop systemd-networkd.socket systemd-networkd && ip address flush dev eth0 "
                               "&& ip route flush dev eth0 && ip -6 route flush dev eth0; ip link set eth0 down")
    assert "inet" not in node.exec(vps, "ip", "-o", "address", "show", "dev", "eth0")
    node.exec(vps, "systemctl", "start", "systemd-networkd.socket", "systemd-networkd")

    def found():
        shown = json.loads(node.exec(vps, "ip", "-j", "address", "show", "dev", "eth0"))[0]["addr_info"]
        return {(one["local"], one.get("dynamic", False)) for one in shown if one["scope"] == "global"}
    wanted = {(own["ipv4"], True), (own["ipv6"], True)}
    wait_for(f"VPS {vps} has {wanted}, not {found()}", lambda: found() == wanted, 30, 0.3)
    ways = lambda: [node.exec(vps, "ip", version, "route", "show", "default") for version in ("-4", "-6")]
    wait_for("both ways out are known", lambda: all(ways()), 10)
