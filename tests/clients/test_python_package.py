"""The Python library as others get it: a wheel and a source distribution."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackagePath, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "clients" / "python"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made of the files that git has and those that it would get."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=LIBRARY, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def python(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    own = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(own), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return own


def run(python: Path, script: str, *path: Path) -> str:
    """What a script prints, with some folders more to import from."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([python, "-c", script], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def names(built: Path) -> tuple[set[str], set[str]]:
    """What is in the wheel, and in the source distribution."""
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened, tarfile.open(source) as archive:
        return set(opened.namelist()), {name.partition("/")[2] for name in archive.getnames()}


def test_both_have_all_that_users_need(built: Path) -> None:
    """Code, types, stubs, descriptors, readme and licence are there; tests and the conformance driver are not."""
    wheel, source = names(built)
    code = {"kubevend/py.typed", "kubevend/aio/source.py", "kubevend/v1/issue_service_pb2_grpc.pyi"}
    code |= {"kubevend/v1/kubevend.protoset", "buf/validate/validate_pb2.py"}
    assert code | {"kubevend-0.1.0.dist-info/licenses/LICENSE"} <= wheel
    assert code | {"README.md", "LICENSE", "pyproject.toml"} <= source
    strange = re.compile(r"conformance|test|__pycache__|kubevend_server")
    assert [name for name in wheel | source if strange.search(name)] == []


def test_the_source_distribution_builds(built: Path, tmp_path: Path) -> None:
    """The source distribution alone makes the same wheel."""
    (source,) = built.glob("*.tar.gz")
    shutil.unpack_archive(source, tmp_path / "source", filter="data")
    (folder,) = (tmp_path / "source").iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(again) as opened:
        assert set(opened.namelist()) == names(built)[0]


def test_the_licence_is_the_houses() -> None:
    """The library's licence is a copy of the repository's."""
    assert (LIBRARY / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_it_imports_alone(python: Path) -> None:
    """In an empty environment the package imports, and its version is that of its metadata."""
    script = "import kubevend, importlib.metadata as m; print(kubevend.__version__, m.version('kubevend'))"
    assert run(python, script) == "0.1.0 0.1.0"
    assert run(python, "import importlib.util as u; print(u.find_spec('kubevend_server'))") == "None"


def test_what_it_depends_on_is_declared(python: Path, tmp_path: Path) -> None:
    """With what the metadata names, and what that names in turn, clients and sources work."""
    named = run(python, "import importlib.metadata as m; print(*m.requires('kubevend'), sep='\\n')")
    for name in _required(named.splitlines()):
        for file in distribution(name).files or ():
            _link(file, tmp_path)
    script = """
import asyncio, kubevend, kubevend.aio
settings = kubevend.Settings("127.0.0.1:9", insecure=True)
with kubevend.Client(settings) as client, kubevend.TokenSource("ci", client=client) as source:
    try:
        source.token(3)
    except kubevend.Unavailable as error:
        print(error.code)
async def main():
    async with kubevend.aio.Client(settings) as client, kubevend.aio.TokenSource("ci", client=client) as source:
        try:
            await source.token(3)
        except kubevend.Unavailable as error:
            print(error.code)
asyncio.run(main())
"""
    assert run(python, script, tmp_path).split() == ["UNAVAILABLE", "UNAVAILABLE"]


def _required(requirements: Sequence[str]) -> set[str]:
    """The names of the distributions that are required, and those that they require, without extras."""
    direct = [line for line in requirements if "extra ==" not in line]
    found = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in direct}
    return found.union(*(_required(distribution(name).requires or ()) for name in found))


def _link(file: PackagePath, folder: Path) -> None:
    """Have a file of an installed distribution in another folder as well."""
    if ".." in file.parts or "__pycache__" in file.parts:
        return
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(Path(str(file.locate())))


def test_a_checker_sees_types(built: Path, tmp_path: Path) -> None:
    """A program that uses the wheel passes mypy --strict, and one that misuses it does not."""
    (wheel,) = built.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    program = tmp_path / "program.py"
    program.write_text(
        "import kubevend\n"
        "from kubevend.v1 import role_service_pb2\n"
        "with kubevend.TokenSource('ci', on_revoked=lambda lease, message: print(lease, message)) as source:\n"
        "    text: str = source.token(timeout=1).token\n"
        "    wrong: int = source.token().lease\n"
        "role: str = kubevend.Client().roles.GetRole(role_service_pb2.GetRoleRequest(name='roles/ci')).role.name\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    found = subprocess.run(
        [*command, str(program)],
        env={**os.environ, "MYPYPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    lines = [line for line in found.stdout.splitlines() if line.startswith("program.py")]
    assert [re.sub(r"^(\S+?:\d+).*\[(.*)\]$", r"\1 \2", line) for line in lines] == ["program.py:5 assignment"]
