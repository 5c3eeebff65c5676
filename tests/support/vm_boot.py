"""The first files that a virtual machine has: an archive for the kernel, made without any tools.

In it are busybox, the kernel's modules that are needed, in their order, and a script that puts the
root file system together: this host's, which it sees and can't write, under a layer in memory.
"""

from __future__ import annotations

import lzma
import pathlib
import re
import shlex
import stat
import zlib
from collections.abc import Iterable, Mapping, Sequence

# `./dev test --vm` puts it there: what Debian's package of the kernel has, as far as it is needed.
CACHE = pathlib.Path(__file__).resolve().parents[2] / ".venv/vm"
# The name by which the machine finds the host's files, and that of its line to the tests.
HOST_FILES, LINE = "host", "buswork.test"

# The hardware that QEMU has, the host's files, and the controller that Python plugs devices into.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "vhci-hcd")

SCRIPT = """\
#!/bin/busybox sh
busybox=/bin/busybox
for applet in mount mkdir insmod cp cat chmod rm touch dirname; do
    alias $applet="$busybox $applet"
done
set -e
mkdir -p /proc /sys /dev /host /layer /root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /modules/$module; done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose {name} /host
mount -t tmpfs -o mode=755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root

# Nothing that this host's administrator has set up counts, nor that it is a container itself.
rm -rf /root/etc/systemd/system /root/etc/udev/rules.d /root/etc/fstab /root/etc/polkit-1/rules.d \
    /root/.dockerenv
mkdir -p /root/etc/systemd/system /root/etc/udev/rules.d /root/lib/modules
mount -t tmpfs -o mode=1777 tmp /root/tmp
cp -a /files/. /root/
{commands}
mount -o move /dev /root/dev
$busybox umount /sys /proc
exec $busybox switch_root /root /lib/systemd/systemd
"""


def kernel() -> pathlib.Path | None:
    """The newest there is."""
    found = sorted(CACHE.glob("boot/vmlinuz-*"), key=lambda path: _version(path.name))
    return found[-1] if found else None


def initramfs(
    image: pathlib.Path,
    busybox: pathlib.Path,
    binds: Iterable[tuple[str, str]],
    files: Iterable[tuple[str, str, int]],
    append: Iterable[tuple[str, str]],
) -> bytes:
    """binds: folders of the host and where the machine has them; files: path, text and mode."""
    folder = f"**/modules/{image.name.removeprefix('vmlinuz-')}/**"
    modules = load_order(MODULES, {_name(path): path for path in CACHE.glob(f"{folder}/*.ko*")})
    commands = []
    for source, target in binds:
        host, target = shlex.quote(f"/host{source}"), shlex.quote(f"/root{target}")
        commands.append(f"mkdir -p {target}; mount -o bind {host} {target}")
    for path, text in append:
        commands.append(f"printf %s {shlex.quote(text)} >>/root{path}")

    archive = Archive()
    archive.add("bin/busybox", busybox.read_bytes(), 0o755)
    for name, data in modules.items():
        archive.add(f"modules/{name}", data)
    names = " ".join(modules)
    script = SCRIPT.format(modules=names, name=HOST_FILES, commands="\n".join(commands))
    archive.add("init", script.encode(), 0o755)
    archive.add_folder("files")
    for path, text, mode in files:
        archive.add(f"files/{path.removeprefix('/')}", text.encode(), mode)
    return archive.end()


def load_order(wanted: Sequence[str], files: Mapping[str, pathlib.Path]) -> dict[str, bytes]:
    """These modules and what they need, each after all that it needs itself.

    What is not among the files is part of the kernel, or the kernel says so when it boots.
    """
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name not in files:
            return
        data = _unpacked(files[name])
        for needed in _needs(data):
            add(needed)
        order[name] = data

    for name in wanted:
        add(name)
    return order


def _needs(module: bytes) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return found[1].decode().split(",") if found and found[1] else []


def _name(path: pathlib.Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _unpacked(path: pathlib.Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


class Archive:
    """A cpio archive in the "new ASCII" form, as the kernel unpacks it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders: set[str] = set()

    def add(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.add_folder(path.rpartition("/")[0])
        self._entry(path, data, stat.S_IFREG | mode)

    def add_folder(self, path: str) -> None:
        if not path or path in self._folders:
            return
        self.add_folder(path.rpartition("/")[0])
        self._folders.add(path)
        self._entry(path, b"", stat.S_IFDIR | 0o755)

    def _entry(self, path: str, data: bytes, mode: int) -> None:
        name = path.encode() + b"\0"
        # Number, mode, uid, gid, links, time, size, four of devices, length of the name, checksum.
        fields = (len(self._parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._parts.append(_padded(head) + _padded(data))

    def end(self) -> bytes:
        self._entry("TRAILER!!!", b"", 0)
        return zlib.compress(b"".join(self._parts), 1, wbits=31)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
