"""What client libraries are made from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[2]
FOR_JAVA = ROOT / "clients" / "java" / "kubevend" / "src" / "main" / "protobuf" / "kubevend.binpb"
GO_STUBS = ROOT / "clients" / "go" / "v1"


def test_java_is_made_from_the_protos_as_they_are(tmp_path: Path) -> None:
    """The descriptors that the Java library makes its stubs of are those of protos/ (`make proto` makes them)."""
    # In a process that does not know the rules, as `make` has it.
    subprocess.run([sys.executable, ROOT / "tools" / "plain_protos.py", tmp_path / "made"], check=True)
    assert (tmp_path / "made").read_bytes() == FOR_JAVA.read_bytes()


def test_go_stubs_are_made_from_the_protos_as_they_are() -> None:
    """Each Go stub has the descriptor in it that protos/ have now (`make proto` makes them)."""
    kept = FileDescriptorSet.FromString(FOR_JAVA.read_bytes())
    for file in kept.file:
        if file.package != "kubevend.v1":
            continue
        file.ClearField("source_code_info")
        assert _raw_descriptor(GO_STUBS / f"{Path(file.name).stem}.pb.go") == file


def test_no_client_needs_the_validation_rules() -> None:
    """What clients are made from neither imports protovalidate's rules nor has any."""
    kept = FileDescriptorSet.FromString(FOR_JAVA.read_bytes())
    assert not [name for file in kept.file for name in file.dependency if name.startswith("buf/")]
    assert b"buf.validate" not in FOR_JAVA.read_bytes()


def _raw_descriptor(stub: Path) -> FileDescriptorProto:
    """The descriptor that protoc-gen-go writes into its file, as the text of a Go string."""
    text = re.search(r'_rawDesc = "" \+\n((?:\s+"(?:[^"\\]|\\.)*"(?: \+)?\n)+)', stub.read_text())
    assert text is not None, stub
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"', text.group(1))
    raw = "".join(parts).encode().decode("unicode_escape").encode("latin-1")
    return FileDescriptorProto.FromString(raw)
