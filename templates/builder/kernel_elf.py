#!/usr/bin/env python3
"""The ELF kernel inside a bzImage, for boot by PVH: kernel_elf.py VMLINUZ OUT.

A bzImage says where its compressed payload is (Documentation/arch/x86/boot.rst: payload_offset 0x248, payload_length 0x24c, counted from the
protected-mode part, which follows setup_sects + 1 sectors). The payload is the ELF with its program headers and notes; four bytes of size follow it."""
import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path


def unpack(payload: bytes) -> bytes:
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(payload)
    for magic, program in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x02\x21\x4c\x18", "lz4")):  # Debian 12 packs with lz4
        if payload[:4] == magic:
            return subprocess.run([program, "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    if payload[:4] == b"\x7fELF":
        return payload
    raise ValueError(f"a payload that begins with {payload[:6].hex()}: not lz4, xz, gzip, zstd or ELF")


def kernel_elf(image: bytes) -> bytes:
    if image[:4] == b"\x7fELF":
        return image
    if image[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", image, 0x206)[0] < 0x208:
        raise ValueError("not a bzImage of boot protocol 2.08 or later")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1f1] + 1) * 512 + offset
    if start + length > len(image):
        raise ValueError("the bzImage ends too early")
    elf = unpack(image[start:start + length])
    if elf[:5] != b"\x7fELF\2":
        raise ValueError("the payload is no 64-bit ELF")
    return elf


def has_pvh_note(elf: bytes) -> bool:
    at, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    for i in range(count):
        kind, _, offset, _, _, n = struct.unpack_from("<IIQQQQ", elf, at + i * size)
        if kind == 4 and struct.pack("<III4s", 4, 8, 18, b"Xen\0") in elf[offset:offset + n]:
            return True
        if kind == 4 and struct.pack("<III4s", 4, 4, 18, b"Xen\0") in elf[offset:offset + n]:
            return True
    return False


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        elf = kernel_elf(Path(sys.argv[1]).read_bytes())
    except (ValueError, OSError, subprocess.CalledProcessError, lzma.LZMAError, zlib.error) as problem:
        print(f"{sys.argv[1]}: {problem}", file=sys.stderr)
        return 1
    if not has_pvh_note(elf):
        print(f"{sys.argv[1]}: the kernel has no PVH entry (CONFIG_PVH)", file=sys.stderr)
        return 1
    Path(sys.argv[2]).write_bytes(elf)
    return 0


if __name__ == "__main__":
    sys.exit(main())
