"""The protos as a descriptor set without validation rules, for client libraries: the server holds callers to those.

So no client needs protovalidate's types, and none has a copy of them that another package has, too.

Use: python tools/plain_protos.py FILE
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parents[1] / "protos"
_RULES = ("buf/validate/validate.proto", "kubevend/v1/rules.proto")


def main(target: Path) -> None:
    """Write the descriptor set, with what it imports of Google's and with all comments."""
    files = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "kubevend").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        google = Path(protoc.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{PROTOS}", f"-I{google}", "--include_imports", "--include_source_info"]
        if protoc.main([*arguments, f"--descriptor_set_out={whole}", *files]):
            raise SystemExit("protoc failed")
        # Parsed where nobody knows the rules, they are unknown fields of the options.
        found = FileDescriptorSet.FromString(whole.read_bytes())
    kept = [file for file in found.file if file.name not in _RULES]
    for file in kept:
        kept_imports = [name for name in file.dependency if name not in _RULES]
        del file.dependency[:]
        file.dependency.extend(kept_imports)
        for message in file.message_type:
            _strip(message)
    target.write_bytes(FileDescriptorSet(file=kept).SerializeToString())


def _strip(message: DescriptorProto) -> None:
    for field in message.field:
        field.options.DiscardUnknownFields()
    for nested in message.nested_type:
        _strip(nested)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
