"""The Java library: its own tests, and its jars."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from tests.support.java import LIBRARY, build_library, holding_library, maven

MODULES = {"kubevend": "dev.kubevend", "kubevend-kubernetes": "dev.kubevend.kubernetes"}


def test_its_own_tests_pass() -> None:
    """The tests that the library has in its own language, with no network beyond loopback."""
    build_library()

    with holding_library():
        said = maven("test", "--projects", "kubevend,kubevend-kubernetes")

    counts = re.findall(r"Tests run: (\d+), Failures: 0, Errors: 0, Skipped: 0\s*$", said, re.MULTILINE)
    assert len(counts) == 2
    assert sum(map(int, counts)) >= 69


def test_the_jars_have_what_users_need_and_nothing_else() -> None:
    """Classes and the licence; no tests, no driver, and what is generated in one of them alone."""
    build_library()
    jars = {name: names_in(LIBRARY / name / "target" / f"{name}-0.1.0.jar") for name in MODULES}

    for names in jars.values():
        assert "META-INF/LICENSE" in names
        assert not [
            name for name in names if "Test" in name or "conformance" in name or name.endswith((".proto", ".binpb"))
        ]
    assert "dev/kubevend/v1/IssueServiceGrpc.class" in jars["kubevend"]
    assert not [name for name in jars["kubevend"] if name.startswith(("buf/", "io/", "com/"))]
    assert not [name for name in jars["kubevend-kubernetes"] if name.endswith(".class") and name.count("/") != 3]
    assert "dev/kubevend/kubernetes/KubevendKubernetes.class" in jars["kubevend-kubernetes"]


def test_the_jars_are_modules_with_names() -> None:
    """The name of a module does not hang on the name of its file."""
    build_library()

    for name, module in MODULES.items():
        with zipfile.ZipFile(LIBRARY / name / "target" / f"{name}-0.1.0.jar") as jar:
            manifest = jar.read("META-INF/MANIFEST.MF").decode()
        assert f"Automatic-Module-Name: {module}" in manifest.splitlines()


def names_in(jar: Path) -> set[str]:
    """The files in a jar."""
    with zipfile.ZipFile(jar) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}
