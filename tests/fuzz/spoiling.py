"""Bytes as they are, or altered in some places."""


def spoilt(generator, data, interesting, most=3):
    """interesting: bytes that mean something there."""
    raw = bytearray(data)
    for _ in range(generator.randrange(most + 1)):
        at = generator.randrange(len(raw) + 1)
        match generator.randrange(6):
            case 0 | 1 if at < len(raw):
                raw[at] = generator.randrange(256)
            case 2 | 3 if at < len(raw):
                raw[at] = generator.choice(interesting)
            case 4:
                del raw[at : at + generator.randrange(1, 6)]
            case 5:
                raw[at:at] = generator.randbytes(generator.randrange(1, 6))
    return bytes(raw)
