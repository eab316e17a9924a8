"""What a VPS should be asked about before its next start."""
import pathlib
import tempfile

FLAKE = "/persistent/etc/nixos/flake.nix"
CONFIGURATION = "/persistent/etc/nixos/configuration.nix"


def found(node, vps):
    """What the doctor tells: topic, severity and object of each finding."""
    return {(f["topic"], f["severity"], f["object"]) for f in node.json("doctor", vps)["findings"]}


def test_a_scaffold_is_well_and_what_it_loses_is_told(node):
    """N1, N3: a scaffolded configuration, then with a line removed, then with an expression in its place."""
    with tempfile.TemporaryDirectory(prefix="mayfly-doctor-") as work, node.vps("nixos-shaped") as vps:
        into = pathlib.Path(work) / "nixos"
        node.run("nixos", "scaffold", "--release", "25.11", "--no-lock", into)
        text = (into / "configuration.nix").read_text()
        node.run("push", vps, into / "flake.nix", FLAKE)

        def told(changed):
            (into / "pushed.nix").write_text(changed)
            node.run("push", vps, into / "pushed.nix", CONFIGURATION)
            return found(node, vps)

        assert told(text) == set()
        answer = node.run("doctor", vps).stdout
        assert "/persistent/etc/nixos: flake.nix, configuration.nix" in answer and "nothing to be told" in answer, answer

        without = text.replace('      "/etc/machine-id"\n', "")
        assert without != text
        assert told(without) == {("machine_id_lost", "warning", "/etc/machine-id")}
        # The next step is said, and the exit status is that of an answer.
        answer = node.run("doctor", vps).stdout
        assert "warning: /etc/machine-id" in answer and "next: add" in answer, answer

        expression = text.replace("files = [", "files = import ./files.nix ++ [").replace('"/etc/machine-id"', "")
        line = next(n for n, line in enumerate(expression.splitlines(), 1) if "import ./files.nix" in line)
        assert told(expression) == {("machine_id_lost", "unknown", "/etc/machine-id"),
                                    ("needs_evaluation", "unknown", f"configuration.nix:{line}")}

        # What a guest plants leads nowhere, and stopped it is the same.
        node.exec(vps, "sh", "-c", f"rm {CONFIGURATION} && ln -s /etc/passwd {CONFIGURATION}")
        planted = found(node, vps)
        assert ("configuration_unreadable", "unknown", "configuration.nix") in planted, planted
        node.run("stop", vps, "--force")
        assert found(node, vps) == planted
        node.run("mount", "remove", vps, "/persistent")
        assert any(topic == "storage_not_mounted" and severity == "problem" for topic, severity, _ in found(node, vps))
