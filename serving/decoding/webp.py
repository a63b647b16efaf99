"""The canvas size of a WEBP file, read from its header alone.

Pillow's WEBP opener allocates the whole canvas before it can be asked for its size, so the bomb check needs this first.
"""


def read_webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as the first chunk says.

    Raises:
        ValueError: If the first chunk is none of VP8X, VP8L, VP8.

    Source: RFC 9649, sections 2.5 to 2.7 and 3.4.
    """
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise ValueError("the WEBP header is cut short")
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise ValueError(f"unknown WEBP chunk {kind!r}")
