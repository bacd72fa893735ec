"""The Go commands that this repository compiles for itself."""

import re
from pathlib import Path

from devcluster.build import build

MODULE_DIR = Path(__file__).resolve().parent


def devcluster_binary() -> Path:
    """Return the binary that is etcd, kube-apiserver, kube-controller-manager, kubectl and `up` in one.

    Raises:
        GoError: It could not be compiled.
    """
    return build(MODULE_DIR, ".", "devcluster", ldflags=_version_flags(), takes="8 minutes on two cores")


def grpcurl() -> Path:
    """Return grpcurl, at the version that `tools/go.mod` pins.

    Raises:
        GoError: It could not be compiled.
    """
    version = _required("github.com/fullstorydev/grpcurl", MODULE_DIR / "tools")
    return build(
        MODULE_DIR / "tools",
        "github.com/fullstorydev/grpcurl/cmd/grpcurl",
        "grpcurl",
        ldflags=f"-s -w -X main.version={version}",
    )


def _version_flags() -> str:
    """Return the linker flags that tell Kubernetes its version, as upstream's hack/lib/version.sh does."""
    version = _required("k8s.io/kubernetes", MODULE_DIR)
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitCommit": "unknown"}
    variables = [
        f"-X {package}.{name}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for name, value in values.items()
    ]
    return " ".join(["-s", "-w", *variables])


def _required(module: str, module_dir: Path) -> str:
    """Return the version, as in "v1.37.2", at which a go.mod requires a module."""
    match = re.search(rf"^\t{re.escape(module)} (v\S+)", (module_dir / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise LookupError(f"{module_dir / 'go.mod'} does not require {module}")
    return match[1]
