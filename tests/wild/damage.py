"""Random damage to the bytes of a file: what disks, editors, other tools and hostile hands do to it."""

from __future__ import annotations

from random import Random

# Where parsers and sizes break: empty, negative, beyond 32, 53 and 64 bits, beyond a double, no number at all.
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    0.0,
    -0.5,
    1e-30,
    1e308,
)
PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b'"',
        b'""',
        b",",
        b";",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"\\",
        b"\\ud800",
    ),
    *(b"{", b"}", b"[", b"]", b"[" * 2000, b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"99999999999999999999"),
    *(b"PAR1", b"\x1f\x8b", b"version https://git-lfs.github.com/spec/v1\n", b"\xe2\x80\xae", b"text", b"a" * 5000),
)


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """One to a few changes of a file's bytes; now and then it is cut, emptied or written twice."""
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((0, 1, 1, 4, 16, 256)))
        kind = random.randrange(8)
        if kind == 0:
            middle = bytes(random.randrange(256) for _ in range(max(1, min(end - start, 16))))
        elif kind == 1:
            middle = random.choice(PIECES)
        elif kind == 2:
            middle = data[start:end] * random.choice((0, 2, 50))
        elif kind == 3:
            other = random.randrange(len(data) + 1)
            middle = data[other : other + end - start]
        elif kind == 4:
            middle = str(random.choice(NUMBERS)).encode()
        elif kind == 5 and start < len(data):
            middle = bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 : end]
        elif kind == 6 and random.random() < 0.2:
            start, end, middle = random.choice(((start, len(data), b""), (0, start, b""), (end, end, data)))
        else:
            middle = data[start:end][::-1]
        data = data[:start] + middle + data[end:]
    return data
