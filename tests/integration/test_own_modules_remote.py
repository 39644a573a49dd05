"""The author's own modules over tcp, with keys: they go to the tenant's own cache, and edits with them."""

from __future__ import annotations

from pathlib import Path

from tests.support.authors import Client, client
from tests.support.remote import User, host

FILES: dict[str, str | bytes] = {
    "mypkg/__init__.py": "from .rates import RATE",
    "mypkg/rates.py": "RATE = 2\n\n\ndef scaled(x):\n    return RATE * x",
    "mypkg/words.txt": "a few words",
}
SOURCE = """
    import mypkg
    from mypkg import rates

    @gpu_function
    def where(x):
        from importlib import resources
        return rates.scaled(x), mypkg.__file__, resources.files("mypkg").joinpath("words.txt").read_text()

    print(json.dumps(where(21)))
"""


def test_modules_go_to_a_remote_daemon_and_to_no_other_tenant(tmp_path: Path) -> None:
    with host() as gpu1, client(FILES, gpu1.tcp) as author:
        alice, bob = User(tmp_path / "alice"), User(tmp_path / "bob")
        alice.enrol(gpu1, "alice")
        bob.enrol(gpu1, "bob")
        value, file, words = _run(author, alice)
        assert (value, words) == (42, "a few words")
        assert _bundles(gpu1.state, "alice") == {Path(file).parent.parent.name}
        assert _bundles(gpu1.state, "bob") == set()

        author.put({"mypkg/rates.py": "RATE = 3\n\n\ndef scaled(x):\n    return RATE * x"})
        value, other, _ = _run(author, alice)
        assert value == 63
        assert other != file
        assert len(_bundles(gpu1.state, "alice")) == 2

        value, theirs, _ = _run(author, bob)  # the same bytes, sent and kept once more
        assert value == 63
        assert Path(theirs).is_relative_to(gpu1.state / "caches" / "tenant-bob")


def _run(author: Client, user: User) -> tuple[int, str, str]:
    value, file, words = author.run(SOURCE, XDG_CONFIG_HOME=str(user.configuration))
    return value, file, words


def _bundles(state: Path, tenant: str) -> set[str]:
    place = state / "caches" / f"tenant-{tenant}" / "bundles"
    return {each.name for each in place.iterdir() if each.name.startswith("mypkg-")} if place.exists() else set()
