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
        said = maven("test", "--projects", "kubevend")

    (whole,) = re.findall(r"Tests run: (\d+), Failures: 0, Errors: 0, Skipped: 0\s*$", said, re.MULTILINE)
    assert int(whole) >= 35


def test_the_jars_have_what_users_need_and_nothing_else() -> None:
    """Classes, the licence, the names of their modules; no tests, no driver, and in one of them alone what is generated."""
    build_library()
    jars = {name: names_in(LIBRARY / name / "target" / f"{name}-0.1.0.jar") for name in MODULES}

    for names in jars.values():
        assert "META-INF/LICENSE" in names
        assert not [
            name for name in names if "Test" in name or "conformance" in name or name.endswith((".proto", ".binpb"))
        ]
    assert "dev/kubevend/v1/IssueServiceGrpc.class" in jars["kubevend"]
    assert not [name for name in jars["kubevend"] if name.startswith(("buf/", "io/", "com/"))]
    assert {name for name in jars["kubevend-kubernetes"] if name.endswith(".class")} == {
        "dev/kubevend/kubernetes/KubevendKubernetes.class",
        "dev/kubevend/kubernetes/TokenInterceptor.class",
    }


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
