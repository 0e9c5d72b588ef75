"""GGUF files made byte by byte, so that the tests can write what no sound writer would."""

import struct


class Bytes:
    """The pieces of a GGUF file in one byte order: `Bytes()` little endian, `Bytes(">")` big."""

    def __init__(self, byte_order="<"):
        self.byte_order = byte_order

    def pack(self, codes, *values):
        return struct.pack(self.byte_order + codes, *values)

    def string(self, text, length=None):
        """A string; `length` is a lie about its length."""
        raw = text.encode() if isinstance(text, str) else text
        return self.pack("Q", len(raw) if length is None else length) + raw

    def key(self, name, type_id, value):
        """A key with the bytes of its value."""
        return self.string(name) + self.pack("I", type_id) + value

    def u32(self, name, number):
        return self.key(name, 4, self.pack("I", number))

    def array(self, item_type, count, items=b""):
        return self.pack("IQ", item_type, count) + items

    def tensor(self, name, dims, type_id=0, offset=0):
        """A line of the list of tensors; `dims` fastest first, as GGUF has them."""
        return self.string(name) + self.pack(f"I{len(dims)}QIQ", len(dims), *dims, type_id, offset)

    def file(self, keys=(), tensors=(), body=b"", *, version=3, n_tensors=None, n_keys=None, alignment=32):
        """A whole file; `n_tensors` and `n_keys` are lies about the counts, `alignment` pads HEAD and says
        nothing.
        """
        n_tensors = len(tensors) if n_tensors is None else n_tensors
        n_keys = len(keys) if n_keys is None else n_keys
        head = b"GGUF" + self.pack("IQQ", version, n_tensors, n_keys) + b"".join(keys) + b"".join(tensors)
        return head + bytes(-len(head) % alignment if tensors else 0) + body
