"""The Debian package brings what a user of Debian looks for."""
import gzip
import pathlib
import shutil
import tempfile

from harness import MAYFLY, sh

TOP = pathlib.Path(__file__).resolve().parent.parent.parent


def test_the_package_has_manual_pages_and_completions(_node):
    """A page for each verb, which the host's own tools take; completions where the shells look."""
    package = sh(TOP / "packaging/deb/build", pathlib.Path(MAYFLY).parent).stdout.strip()
    with tempfile.TemporaryDirectory() as tree:
        sh("dpkg-deb", "-x", package, tree)
        share = pathlib.Path(tree) / "usr/share"
        pages = sorted((share / "man/man1").iterdir())
        names = {page.name for page in pages}
        assert {"mayfly.1.gz", "mayfly-create.1.gz", "mayfly-dataset-create.1.gz"} <= names, names
        assert "mayfly-supervise.1.gz" not in names, names
        for page in pages:
            assert gzip.decompress(page.read_bytes()).startswith(b".ie"), page
            if shutil.which("lexgrog"):
                said = sh("lexgrog", page).stdout
                name = page.name.removesuffix(".1.gz")
                assert f'"{name} - ' in said, said
            if shutil.which("mandoc"):
                sh("mandoc", "-T", "lint", "-W", "error", page)
        bash = share / "bash-completion/completions/mayfly"
        asked = f"source {bash}; COMP_WORDS=(mayfly rest); COMP_CWORD=1; _mayfly mayfly rest mayfly; echo $COMPREPLY"
        assert sh("bash", "--norc", "-c", asked).stdout.strip() == "restart"
        assert "#compdef mayfly" in (share / "zsh/vendor-completions/_mayfly").read_text()
        assert "complete -c mayfly" in (share / "fish/vendor_completions.d/mayfly.fish").read_text()
