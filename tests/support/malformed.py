"""Bad input for every method: requests that are nearly valid, requests that are wild, and bytes that are no message.

All of it is made from the descriptors of the API and the rules in them, so that a new method has its bad input with
its proto. `Malformed` learns from example messages which values exist, so that much of what it makes is refused by
what a service decides and not by the rules of its fields.
"""

from __future__ import annotations

import base64
import functools
import importlib
import pkgutil
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

import kubevend.v1
from buf.validate import validate_pb2

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
Spot = tuple[tuple[str, ...], FieldDescriptor, Descriptor]

SEED = 20260504
"""What is made is the same in every run."""

LARGEST = (1 << 18) - 1
"""The server takes no larger message; gRPC itself refuses it, before kubevend sees it."""

_MOST_BYTES = 200 << 10

_ODD_TEXTS = (
    *("", " ", "\n", "\r\n", "\t", "\x00", "a\x00b", "\x1b[31m", "\x7f", "\x85"),
    *("*", "**", "*a", ".", "..", "-", "/", "//", "a/../b", "/etc/../etc/shadow", "../../../../etc/passwd"),
    *(
        "é",
        "e\u0301",
        "ﬀ",
        "İ",
        "ß",
        "\u202eabc",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\u2028",
        "\U0010ffff",
        "😀" * 8,
        "\u0661",
    ),
    *("__entity", "__extn", "__expr", "null", "%s%n{0}", "'; DROP TABLE roles; --", "${jndi:x}", "<a>", '"', "\\"),
    *(
        "a" * 64,
        "a" * 254,
        "é" * 64,
        "a" * 513,
        "\x00" * 513,
        "😀" * 600,
        "a" * 2049,
        "😀" * 2048,
        "a" * 8000,
        "-" * 65537,
    ),
    *("configs/", "configs/A", "configs/-", "configs/a-", "configs/" + "a" * 64, "configs/a/b", "configs/a\n"),
    *("roles/", "roles/é", "roles/a\x00", "Roles/a", "leases/", "leases/" + "0" * 25, "leases/" + "Z" * 26),
    *(
        "leases/" + "z" * 26,
        "kubevend",
        "https://",
        "https://[",
        "https://[::",
        "https://[::1%25lo]:443",
        "https://a:0",
    ),
    *("https://a:99999", "https://user@a", "https://a/b", "https://a?b", "https://xn--", "https://" + "a." * 200 + "a"),
    *("https://127.0.0.1:1", "https://1.2.3", "https://0x7f.1", "http://a", "https://a b", "https://a\r\nHost: b"),
    *("eyJ", "e30.e30.", "a.b.c", "====", "AAAA", "_-_-", "MA==\n", "1e400", "-0", "NaN"),
    "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    "-----BEGIN CERTIFICATE-----\n" + "A" * 4096 + "\n-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
)
_ODD_INTEGERS = (0, 1, -1, 2, 599, 600, 1000, 1001, 10**9, -(10**9), 253402300800, -62135596801, 315576000001)
_ODD_PATHS = ("", "*", "name", "etag", "*.*", "a.b", "role.ttl", "Ttl", "ttl_", "_ttl", "ttl__x", "ttl,labels", "ünder")
_TEXT_CHANGES: tuple[Callable[[str], str], ...] = (
    lambda text: text + "\n",
    lambda text: text + "\x00",
    lambda text: text + "é",
    lambda text: text + "/",
    lambda text: "/" + text,
    lambda text: " " + text,
    lambda text: text + " ",
    lambda text: text[:-1],
    lambda text: text[1:],
    lambda text: text * 2,
    lambda text: text * 20,
    lambda text: text[::-1],
    str.upper,
    str.swapcase,
    lambda text: text.replace("/", "//"),
    lambda text: text.replace("/", "/../"),
    lambda text: text.replace("https", "http"),
    lambda text: text.replace("a", "а"),  # noqa: RUF001 - the Cyrillic one, on purpose
    lambda text: text + "a" * 300,
)
_ONE_WAY = {"kubevend.v1.Role": ("allowed_service_accounts", "kubernetes_role", "generated_role")}
"""Of which fields a message has exactly one, though they are no oneof."""
_ONE_WAY_ALONE = {
    "kubevend.v1.Role": (
        *("allowed_namespace_selector", "cluster_wide_allowed", "name_template", "revocation"),
        *("extra_labels", "extra_annotations"),
    )
}
"""What then only goes with some of them, and is left out of messages that are to be sound."""
_VALIDATION = validate_pb2.field  # the option that holds a field's rules


def methods() -> list[MethodDescriptor]:
    """Every method of every service of the API."""
    modules = (
        importlib.import_module(f"{kubevend.v1.__name__}.{found.name}")
        for found in pkgutil.iter_modules(kubevend.v1.__path__)
        if found.name.endswith("_pb2")
    )
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return [method for service in services for method in service.methods]


def made(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """What a strategy makes first, the same in every run."""
    found: list[T] = []
    explore(strategy, count, found.append, phases=(Phase.generate,))
    return found


def explore(
    strategy: st.SearchStrategy[T],
    count: int,
    check: Callable[[T], object],
    phases: Sequence[Phase] = (Phase.generate, Phase.shrink),
) -> None:
    """Check what `made` makes, one after the other; the first that fails is made as small as can be, and raised."""

    @seed(SEED)
    @settings(max_examples=count, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def each(example: T) -> None:
        check(example)

    with warnings.catch_warnings():
        # That an example is too large to print; `check` says what it is.
        warnings.simplefilter("ignore", HypothesisWarning)
        each()


def described(method: MethodDescriptor, payload: bytes) -> str:
    """A request for people: the method, the message if it is one, and the bytes."""
    request = message_factory.GetMessageClass(method.input_type)()
    try:
        request.ParseFromString(payload)
        text = text_format.MessageToString(request, as_one_line=True)
    except DecodeError:
        text = "no message"
    shown = payload.hex() if len(payload) <= _MOST_BYTES >> 4 else f"{payload[:2048].hex()}... ({len(payload)} bytes)"
    return f"{method.full_name}\n  {text[:4096]}\n  {shown}"


class Malformed:
    """Strategies for bad input.

    `examples` are sound messages with the names, tokens and etags of what exists, from which the values of fields are
    taken: first those of the same field, then whatever keeps the field's pattern.
    """

    def __init__(self, examples: Sequence[Message], variety: int = 60) -> None:
        """Learn from examples; `variety` is how many messages of each kind the requests are put together from."""
        # Made beforehand, since to draw a message field by field costs as much as the call that it is for.
        self._variety = variety
        self._seen: dict[str, list[Any]] = {}
        for example in examples:
            self._learn(example)
        # In the order in which they were learned: what is made must not depend on what is in a token.
        texts = (value for values in self._seen.values() for value in values if isinstance(value, str))
        self._texts = list(dict.fromkeys(texts))

    def requests(self, descriptor: Descriptor) -> st.SearchStrategy[bytes]:
        """Serialized messages: most are sound but for a field or two, some are wild, some have what is not theirs."""
        nearly = self._nearly(descriptor).map(_serialize)
        wild = st.sampled_from([_serialize(message) for message in made(self._wild(descriptor), self._variety)])
        merged = st.tuples(nearly, wild).map(b"".join)
        extended = st.tuples(nearly, _unknown_fields()).map(b"".join)
        kinds = [nearly] * 16 + [wild, merged, extended, extended]
        return st.sampled_from(kinds).flatmap(lambda kind: kind).filter(lambda payload: len(payload) <= LARGEST)

    def payloads(self, descriptor: Descriptor) -> st.SearchStrategy[bytes]:
        """Bytes of which most are no message."""
        sound = st.sampled_from([_serialize(message) for message in made(self._sound(descriptor), self._variety)])
        kinds = [
            st.binary(max_size=300),
            st.tuples(sound, st.integers(0, 100)).map(lambda cut: cut[0][: len(cut[0]) * cut[1] // 100]),
            st.tuples(sound, st.integers(0), st.integers(1, 255)).map(_with_a_byte_changed),
            st.tuples(sound, _fragments(descriptor)).map(b"".join),
            _fragments(descriptor),
            st.integers(1, 20_000).map(_nested_groups),
            st.tuples(st.sampled_from([f.number for f in descriptor.fields] or [1]), st.integers(1, 5_000)).map(
                _nested
            ),
            st.tuples(st.integers(0, 1000), st.sampled_from([1 << 10, _MOST_BYTES])).map(
                lambda of: random.Random(of[0]).randbytes(of[1])  # noqa: S311 - junk
            ),
            st.sampled_from([b"", b"\x00", b"\x0a", b"{}", b"null", b"GET / HTTP/1.1\r\n\r\n", b"a" * _MOST_BYTES]),
        ]
        return st.sampled_from(kinds).flatmap(lambda kind: kind)

    def _learn(self, example: Message) -> None:
        for field, value in example.ListFields():
            if _is_map(field):
                entry = _message(field).fields_by_name
                for key, item in value.items():
                    self._seen.setdefault(entry["key"].full_name, []).append(key)
                    self._seen.setdefault(entry["value"].full_name, []).append(item)
            elif _is_nested(field):
                for item in value if field.is_repeated else [value]:
                    self._learn(item)
            else:
                self._seen.setdefault(field.full_name, []).extend(value if field.is_repeated else [value])

    # Sound messages.

    @functools.cache  # noqa: B019 - it lives as long as one test
    def _sound(self, descriptor: Descriptor) -> st.SearchStrategy[Message]:
        """Messages that keep the rules of their fields, as far as they can be told from the descriptor."""
        values = {field.name: self._sound_field(field, descriptor) for field in descriptor.fields}

        def make(draw: Draw) -> Message:
            message = message_factory.GetMessageClass(descriptor)()
            chosen = {oneof.name: draw(st.sampled_from(list(oneof.fields))) for oneof in descriptor.oneofs}
            ways = _ONE_WAY.get(descriptor.full_name, ("",))
            others = {*ways, *_ONE_WAY_ALONE.get(descriptor.full_name, ())} - {draw(st.sampled_from(ways))}
            for field in descriptor.fields:
                oneof = field.containing_oneof
                if (oneof is not None and chosen[oneof.name] is not field) or field.name in others:
                    continue
                if _is_needed(field) or draw(st.booleans()):
                    _put(message, field, draw(values[field.name]))
            return message

        return st.composite(make)()

    def _sound_field(self, field: FieldDescriptor, parent: Descriptor) -> st.SearchStrategy[Any]:
        rules = _rules(field)
        if _is_map(field):
            entry = _message(field).fields_by_name
            return st.dictionaries(
                self._sound_scalar(entry["key"], rules.map.keys),
                self._sound_scalar(entry["value"], rules.map.values),
                max_size=3,
            )
        if field.is_repeated:
            items = self._sound_scalar(field, rules.repeated.items)
            least = rules.repeated.min_items
            return st.lists(items, min_size=least, max_size=max(2, least), unique_by=repr)
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask":
            siblings = [_message(f) for f in parent.fields if _is_nested(f)]
            paths = [f.name for sibling in siblings for f in sibling.fields]
            return st.lists(st.sampled_from(paths or ["*"]), max_size=3).map(lambda found: _mask(field, found))
        return self._sound_scalar(field, rules)

    def _sound_scalar(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> st.SearchStrategy[Any]:
        seen = self._seen.get(field.full_name)
        if field.message_type is not None:
            if _is_nested(field):
                return self._sound(field.message_type)
            whole = st.builds(_known_type(field), seconds=st.sampled_from([600, 1200, 3600, 86400, 1767225600]))
            return st.sampled_from(seen) | whole if seen else whole
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._sound_text(field, rules.string, seen or [])
        if seen:
            return st.sampled_from(seen)
        if field.enum_type is not None:
            numbers = [value.number for value in field.enum_type.values if value.number not in rules.enum.not_in]
            return st.sampled_from(numbers)
        return st.booleans() if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else st.integers(0, 100)

    def _sound_text(
        self, field: FieldDescriptor, rules: validate_pb2.StringRules, seen: Sequence[str]
    ) -> st.SearchStrategy[Any]:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=20)
        pattern, longest = _form(rules)
        if not pattern:
            texts = st.sampled_from(["x", "team", "y" * longest, *self._texts]).filter(
                lambda text: len(text) <= longest
            )
            return st.sampled_from(seen) if seen else texts
        fitting = list(seen) or [text for text in self._texts if re.fullmatch(pattern, text)]
        fresh = st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= longest)
        # What exists is worth more than what has only the form of a name, where there is such.
        return st.one_of(*[st.sampled_from(fitting)] * 3, fresh) if fitting else fresh

    # Odd ones.

    def _nearly(self, descriptor: Descriptor) -> st.SearchStrategy[Message]:
        """Sound messages in which nothing, a field or two have an odd value, or are missing."""
        spots = [(path, field, self._other(field, parent)) for path, field, parent in _spots(descriptor)]
        counts, places = (
            st.sampled_from([0, 1, 1, 1, 2] if spots else [0]),
            st.sampled_from(spots) if spots else st.nothing(),
        )
        bases = st.sampled_from([_serialize(message) for message in made(self._sound(descriptor), self._variety)])
        of_type = message_factory.GetMessageClass(descriptor)

        def make(draw: Draw) -> Message:
            message = of_type.FromString(draw(bases))
            for _ in range(draw(counts)):
                path, field, values = draw(places)
                target = functools.reduce(lambda found, name: cast("Message", getattr(found, name)), path, message)
                value = draw(values)
                if value is None:
                    target.ClearField(field.name)
                else:
                    _put(target, field, value)
            return message

        return st.composite(make)()

    @functools.cache  # noqa: B019 - it lives as long as one test
    def _other(self, field: FieldDescriptor, parent: Descriptor) -> st.SearchStrategy[Any]:
        """Another value for a field: most are odd, some sound, and None is for no value."""
        return st.sampled_from(
            [
                *made(self._odd(field), self._variety // 2),
                *made(self._sound_field(field, parent), self._variety // 6),
                None,
            ]
        )

    @functools.cache  # noqa: B019 - it lives as long as one test
    def _wild(self, descriptor: Descriptor) -> st.SearchStrategy[Message]:
        """Messages in which every field that is set is odd."""
        values = {field.name: self._odd(field) for field in descriptor.fields}

        def make(draw: Draw) -> Message:
            message = message_factory.GetMessageClass(descriptor)()
            for field in descriptor.fields:
                if draw(st.booleans()):
                    _put(message, field, draw(values[field.name]))
            return message

        return st.composite(make)()

    @functools.cache  # noqa: B019 - it lives as long as one test
    def _odd(self, field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if _is_map(field):
            entry = _message(field).fields_by_name
            keys, values = self._odd_scalar(entry["key"]), self._odd_scalar(entry["value"])
            many = st.integers(1, 300).map(lambda count: {str(key): "" for key in range(count)})
            return st.dictionaries(keys, values, min_size=1, max_size=3) | many
        if not field.is_repeated:
            return self._odd_scalar(field)
        items = self._odd_scalar(field)
        repeated = st.tuples(items, st.sampled_from([2, 21, 101, 2000])).map(_times)
        sound = self._sound_scalar(field, _rules(field).repeated.items)
        return st.lists(items | sound, min_size=1, max_size=4) | repeated

    def _odd_scalar(self, field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if field.message_type is not None:
            return self._odd_message(field)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return st.binary(max_size=300)
            return self._odd_text(field)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return st.floats(width=32)
        least, most = _bounds(field)
        odd = [number for number in (*_ODD_INTEGERS, least, most) if least <= number <= most]
        return st.sampled_from(odd) | st.integers(least, most)

    def _odd_text(self, field: FieldDescriptor) -> st.SearchStrategy[str]:
        near = self._seen.get(field.full_name) or self._texts or ["x"]
        changed = st.tuples(st.sampled_from(near), st.sampled_from(_TEXT_CHANGES)).map(lambda pair: pair[1](pair[0]))
        kinds = [st.sampled_from(_ODD_TEXTS), changed, st.text(max_size=10)]
        certificates = [text for text in near if text.startswith("-----BEGIN CERTIFICATE-----")]
        if certificates:
            damage = st.tuples(st.sampled_from(certificates), st.integers(0), st.integers(1, 255))
            kinds += [damage.map(_with_certificate_changed), st.just(_with_version_changed(certificates[0]))]
        return st.one_of(*kinds)

    def _odd_message(self, field: FieldDescriptor) -> st.SearchStrategy[Message]:
        if _is_nested(field):
            return self._wild(_message(field))
        if _message(field).full_name == "google.protobuf.FieldMask":
            paths = st.sampled_from(_ODD_PATHS) | st.sampled_from(_ODD_TEXTS)
            repeated = st.tuples(paths, st.sampled_from([1, 2, 1000])).map(_times)
            return (st.lists(paths, max_size=3) | repeated).map(lambda found: _mask(field, found))
        seconds = st.sampled_from([*_ODD_INTEGERS, 2**63 - 1, -(2**63), 2**32 - 1, 2**32, 2**53])
        nanos = st.sampled_from([0, 0, 1, -1, 999_999_999, 10**9, -(10**9), 2**31 - 1, -(2**31)])
        return st.builds(_known_type(field), seconds=seconds, nanos=nanos)


# What is known of fields.


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    return field.GetOptions().Extensions[_VALIDATION]


def _form(rules: validate_pb2.StringRules) -> tuple[str, int]:
    """The pattern that a text must fit, or empty, and how long it may be; predefined rules tell both in CEL."""
    pattern, longest = rules.pattern, rules.max_len or 100
    if rules.uuid:
        pattern = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    for rule, _ in rules.ListFields():
        for predefined in rule.GetOptions().Extensions[validate_pb2.predefined].cel if rule.is_extension else ():
            matches = re.search(r"this\.matches\('([^']*)'\)", predefined.expression)
            most = re.search(r"this\.size\(\) <= ([0-9]+)", predefined.expression)
            pattern = matches.group(1).replace("\\\\", "\\") if matches else pattern
            longest = int(most.group(1)) if most else longest
    return pattern, longest


def _message(field: FieldDescriptor) -> Descriptor:
    """The descriptor of a field that holds messages."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} is no message")
    return field.message_type


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_nested(field: FieldDescriptor) -> bool:
    """Whether a field is a message of the API's own."""
    return field.message_type is not None and not field.message_type.full_name.startswith("google.protobuf.")


def _is_needed(field: FieldDescriptor) -> bool:
    rules = _rules(field)
    is_pattern = bool(_form(rules.string)[0]) and rules.ignore != validate_pb2.IGNORE_IF_ZERO_VALUE
    is_part = _is_nested(field) and not field.is_repeated and not _is_map(field)
    return is_part or is_pattern or rules.required or bool(rules.repeated.min_items) or field.name == "name"


def _spots(descriptor: Descriptor, path: tuple[str, ...] = ()) -> Iterator[Spot]:
    """Every field of a message and of those in it, with the names that lead to it, and the message that it is in."""
    for field in descriptor.fields:
        yield path, field, descriptor
        if _is_nested(field) and not field.is_repeated and not _is_map(field):
            yield from _spots(_message(field), (*path, field.name))


def _bounds(field: FieldDescriptor) -> tuple[int, int]:
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return 0, (1 << (32 if kind == FieldDescriptor.CPPTYPE_UINT32 else 64)) - 1
    bits = 63 if kind == FieldDescriptor.CPPTYPE_INT64 else 31
    return -(1 << bits), (1 << bits) - 1


def _known_type(field: FieldDescriptor) -> Callable[..., Message]:
    """The class of a Duration or a Timestamp."""
    return message_factory.GetMessageClass(_message(field))


def _mask(field: FieldDescriptor, paths: Sequence[str]) -> Message:
    return _known_type(field)(paths=paths)


def _put(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set a field to a value of its own type."""
    message.ClearField(field.name)
    target = getattr(message, field.name)
    if _is_map(field):
        target.update(value)
    elif field.is_repeated:
        target.extend(value)
    elif field.message_type is not None:
        target.SetInParent()
        target.CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


# Bytes.


def _times(of: tuple[Any, int]) -> list[Any]:
    item, count = of
    size = len(item.encode()) if isinstance(item, str) else 1
    return [item] * max(1, min(count, _MOST_BYTES // max(1, size)))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _unknown_fields() -> st.SearchStrategy[bytes]:
    numbers = st.sampled_from([7, 99, 15000, 2**29 - 1])
    text = st.tuples(numbers, st.binary(max_size=50)).map(lambda f: _tag(f[0], 2) + _varint(len(f[1])) + f[1])
    number = st.tuples(numbers, st.integers(0, 2**64 - 1)).map(lambda f: _tag(f[0], 0) + _varint(f[1]))
    return st.lists(text | number, min_size=1, max_size=3).map(b"".join)


def _fragments(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """Fields of a message, with what does not belong there."""
    numbers = st.sampled_from([*(field.number for field in descriptor.fields), 0, 7, 2**29 - 1])
    junk = st.binary(max_size=20) | st.sampled_from(
        [
            b"\xff" * 10 + b"\x01",  # a varint that is too long
            b"\x80" * 9 + b"\x02",
            b"\x02\xff\xfe",  # text that is no UTF-8
            b"\x03\xed\xa0\x80",
            b"\x02\xc0\x80",
            b"\x04\xf4\x90\x80\x80",
            b"\xff\xff\xff\xff\x07a",  # a length beyond the end
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00",
        ]
    )
    fragment = st.tuples(numbers, st.integers(0, 7), junk).map(lambda f: _tag(f[0], f[1]) + f[2])
    return st.lists(fragment, min_size=1, max_size=4).map(b"".join)


def _nested(of: tuple[int, int]) -> bytes:
    """A field in itself, again and again."""
    number, depth = of
    found = b""
    for _ in range(depth):
        found = _tag(number, 2) + _varint(len(found)) + found
    return found[-_MOST_BYTES:]


def _nested_groups(depth: int) -> bytes:
    """Groups in groups, all of them ended where the depth is even."""
    return _tag(7, 3) * depth + (_tag(7, 4) * depth if depth % 2 == 0 else b"")


def _with_a_byte_changed(of: tuple[bytes, int, int]) -> bytes:
    payload, place, change = of
    if not payload:
        return b"\xff"
    changed = bytearray(payload)
    changed[place % len(changed)] ^= change
    return bytes(changed)


def _with_certificate_changed(of: tuple[str, int, int]) -> str:
    """A certificate in PEM with one byte changed."""
    pem, place, change = of
    return _to_pem(_with_a_byte_changed((_from_pem(pem), place, change)))


def _with_version_changed(pem: str) -> str:
    """A certificate in PEM of a version that there is not."""
    return _to_pem(_from_pem(pem).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1))


def _from_pem(pem: str) -> bytes:
    return base64.b64decode(pem.split("-----")[2])


def _to_pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"
