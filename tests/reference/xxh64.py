"""xxHash64 in Python integers, written from the specification."""

from __future__ import annotations

P1, P2, P3, P4, P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)
WORD = 2**64


def rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) % WORD


def mix(accumulator: int, lane: int) -> int:
    return rotate((accumulator + lane * P2) % WORD, 31) * P1 % WORD


def xxh64(data: bytes, seed: int) -> int:
    """Return the signed hash."""
    position, length = 0, len(data)
    if length >= 32:
        state = [(seed + P1 + P2) % WORD, (seed + P2) % WORD, seed % WORD, (seed - P1) % WORD]
        while position + 32 <= length:
            for i in range(4):
                state[i] = mix(state[i], int.from_bytes(data[position : position + 8], "little"))
                position += 8
        digest = sum(rotate(one, bits) for one, bits in zip(state, (1, 7, 12, 18), strict=True)) % WORD
        for one in state:
            digest = ((digest ^ mix(0, one)) * P1 + P4) % WORD
    else:
        digest = (seed + P5) % WORD
    digest = (digest + length) % WORD
    while position + 8 <= length:
        digest ^= mix(0, int.from_bytes(data[position : position + 8], "little"))
        digest = (rotate(digest, 27) * P1 + P4) % WORD
        position += 8
    if position + 4 <= length:
        digest ^= int.from_bytes(data[position : position + 4], "little") * P1 % WORD
        digest = (rotate(digest, 23) * P2 + P3) % WORD
        position += 4
    for byte in data[position:]:
        digest ^= byte * P5 % WORD
        digest = rotate(digest, 11) * P1 % WORD
    for shift, factor in ((33, P2), (29, P3)):
        digest = (digest ^ (digest >> shift)) * factor % WORD
    digest ^= digest >> 32
    return digest - WORD if digest >= WORD // 2 else digest
