"""Files that lie, and names that are no files: refused or counted, in little time and memory.

Each case runs in a process of its own, which may take so many seconds and so much memory, and no
more: a hang or a hunger fails the test.
"""

import gzip
import json
import os
import socket
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ct_files import make_small_torso, patch_bytes, to_nifti, write_ct

from drrgen.errors import InputError, VolumeError
from drrgen.io.volumes import find_ct, read_volume
from drrgen.volume import CTVolume

TIME_LIMIT_S = 60  # a loaded machine takes ten to import; a hang takes for ever
MEMORY_LIMIT = 2 * 2**30  # beyond what the interpreter with its packages reserves
BOMB_BYTES = 3 * 2**30

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipes, no limits")

# Reads a path, and says how it went: a word, and how much memory it took.
_READ = """
import json, resource, sys
from drrgen.errors import DataError, InputError
from drrgen.io.volumes import read_volume
base = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (base + int(sys.argv[2]),) * 2)
try:
    volume = read_volume(sys.argv[1])
    word = "read"
except DataError as error:
    word = error.code.value
except InputError:
    word = "input"
except OSError as error:
    word = type(error).__name__
print(json.dumps([word, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def read_apart(path: Path | str, memory: int = MEMORY_LIMIT) -> str:
    """Read in a process with limits; return how it went."""
    done = subprocess.run(
        [sys.executable, "-c", _READ, os.fspath(path), str(memory)],
        capture_output=True, timeout=TIME_LIMIT_S, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    word: str = json.loads(done.stdout)[0]
    return word


@pytest.fixture
def torso() -> CTVolume:
    return make_small_torso()


def make_header(torso: CTVolume, dim: tuple[int, int, int]) -> bytes:
    """Make the first 352 bytes of a NIfTI of a size."""
    data = bytearray(to_nifti(torso).to_bytes()[:352])
    data[42:48] = np.array(dim, "<i2").tobytes()
    return bytes(data)


def pack_zeros(head: bytes, count: int, wbits: int) -> bytes:
    """Pack a head and very many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    zeros = bytes(2**24)
    parts = [packer.compress(head)]
    parts += [packer.compress(zeros) for _ in range(count // len(zeros))]
    return b"".join([*parts, packer.flush()])


def write_lie(torso: CTVolume, folder: Path, kind: str) -> Path:
    """Write a file whose header asks for terabytes."""
    match kind:
        case "nifti" | "nifti.gz":
            data = make_header(torso, (32767, 32767, 32767)) + bytes(1000)
            path = folder / ("a.nii" if kind == "nifti" else "a.nii.gz")
            path.write_bytes(gzip.compress(data) if kind == "nifti.gz" else data)
        case "nrrd":
            path = folder / "a.nrrd"
            write_ct(torso, path)
            data = path.read_bytes().replace(b"sizes: 33 23 12", b"sizes: 90000 90000 900")
            path.write_bytes(data)
        case "mha":
            path = folder / "a.mha"
            write_ct(torso, path)
            path.write_bytes(path.read_bytes().replace(b"DimSize = 33 23 12",
                                                       b"DimSize = 90000 90000 900"))  # fmt: skip
        case _:
            path = folder / "a.npz"
            np.savez(path, ct=torso.hu)
            path.write_bytes(path.read_bytes().replace(b"(12, 23, 33)", b"(9999999999)"))
    return path


@pytest.mark.parametrize("kind", ["nifti", "nifti.gz", "nrrd", "mha", "npz"])
def test_a_header_that_asks_for_terabytes_gets_none(
    kind: str, torso: CTVolume, tmp_path: Path
) -> None:
    word = read_apart(write_lie(torso, tmp_path, kind), memory=2**29)
    assert word in ("no_image", "truncated_file", "not_ct")


def test_a_header_that_asks_for_gigabytes_touches_none(torso: CTVolume, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(make_header(torso, (1000, 1000, 500)) + bytes(10**6))
    assert read_apart(tmp_path / "a.nii") == "truncated_file"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "npz"])
def test_a_bomb_stays_packed(kind: str, torso: CTVolume, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "nii.gz":  # honest about its size
        path.write_bytes(pack_zeros(make_header(torso, (1024, 1024, 1536)), BOMB_BYTES, 31))
    elif kind == "nrrd":  # silent about it
        write_ct(torso, tmp_path / "b.nrrd")
        head = (tmp_path / "b.nrrd").read_bytes().split(b"\n\n")[0] + b"\n\n"
        assert b"encoding: raw" in head
        head = head.replace(b"encoding: raw", b"encoding: gzip")
        path.write_bytes(head + pack_zeros(b"", 2**30, 31))
    else:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("ct.npy", "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(
                member, {"shape": (1024, 1024, 1536), "fortran_order": False, "descr": "<i2"}
            )
            for _ in range(BOMB_BYTES // 2**24):
                member.write(bytes(2**24))
    assert path.stat().st_size < 2**23
    assert read_apart(path, memory=2**29) in ("no_image", "pixel_mismatch")


def test_a_sparse_file_of_a_terabyte_is_not_read_to_its_end(
    torso: CTVolume, tmp_path: Path
) -> None:
    for name in ("a.nii", "a.nrrd", "a.mha", "a.npz"):
        path = tmp_path / name
        write_ct(torso, path)
        with path.open("r+b") as file:
            file.truncate(2**40)
        assert read_apart(path, memory=2**29) in ("pixel_mismatch", "truncated_file")
        path.unlink()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name has a hundred letters
    try:
        server.bind(path.name)
    finally:
        os.chdir(here)
        server.close()


def make_circle(path: Path) -> None:
    path.symlink_to(path.name)


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def make_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD = {"fifo": make_fifo, "socket": make_socket, "circle": make_circle, "dangling": make_dangling,
       "device": make_zero}  # fmt: skip


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".npz", ".dcm", ".hdr", ""])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_counted_and_never_opened(
    kind: str, suffix: str, torso: CTVolume, tmp_path: Path
) -> None:
    ODD[kind](tmp_path / f"odd{suffix}")
    write_ct(torso, tmp_path / "ct.nrrd")
    word = "not_file" if kind in ("fifo", "socket", "device") else "unreadable"
    for path in (tmp_path, f"{tmp_path}/*"):
        listing = find_ct(path)
        assert [entry.name for entry in listing.found] == ["ct.nrrd"]
        assert listing.ignored == {word: 1}
    with pytest.raises(InputError, match="no CT"):
        find_ct(tmp_path / f"odd{suffix}")


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_header_cannot_make_us_open_a_pipe(kind: str, torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink(missing_ok=True)
    (tmp_path / "a.zraw").unlink(missing_ok=True)
    ODD[kind](tmp_path / "a.raw")
    assert read_apart(tmp_path / "a.mhd") in ("no_image", "truncated_file")


def test_a_folder_named_like_a_ct_is_searched(torso: CTVolume, tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x.dcm", "x.nrrd"):
        (tmp_path / name).mkdir()
    write_ct(torso, tmp_path / "x.dcm" / "ct.nrrd")
    assert [entry.name for entry in find_ct(tmp_path).found] == ["x.dcm/ct.nrrd"]
    with pytest.raises(InputError, match="no CT"):
        find_ct(tmp_path / "x.nii.gz")


def test_circles_of_folders_have_no_end_to_run_into(torso: CTVolume, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    write_ct(torso, deep / "ct.nrrd")
    for i in range(8):  # followed, this would be a tree of 8**40 folders
        (deep / f"up{i}").symlink_to(tmp_path)
    for path in (tmp_path, f"{tmp_path}/**/*.nrrd", f"{tmp_path}/**", f"{tmp_path}/**/*"):
        assert [entry.name for entry in find_ct(path).found] == ["a/b/ct.nrrd"]
    assert read_apart(f"{tmp_path}/**/*.nrrd") == "read"


@pytest.mark.parametrize("pattern", ["**x/a", "[", "***", "a\0b", "x" * 5000, "*/" * 500 + "*"])
def test_an_odd_glob_is_a_plain_error(pattern: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, OSError)):
        find_ct(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize(
    "name", [b"a\nb.nrrd", b"caf\xe9.nrrd", b"\xff\xfe.nrrd", b" .nrrd", b"-o.nrrd", b"[x].nrrd",
             "\u202egpj.nrrd".encode()]
)  # fmt: skip
def test_any_name_is_read_and_can_be_printed(name: bytes, torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / "plain.nrrd")
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))  # noqa: PTH118  bytes
    (tmp_path / "plain.nrrd").rename(path)
    for where in (tmp_path, path):
        (entry,) = find_ct(where).found
        assert entry.name.encode("utf-8")  # no surrogates: JSON, Parquet and terminals take it
        assert np.array_equal(read_volume(where).hu, torso.hu)


def without_rights(work: Callable[[], None]) -> None:
    """Do something as a user who may not read everything."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        work()
    finally:
        os.seteuid(mine)


def test_what_may_not_be_read_is_counted_or_an_error(torso: CTVolume, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if (
            stat.S_IMODE(folder.stat().st_mode) & 0o055 != 0o055
            and folder.stat().st_uid == os.geteuid()
        ):
            folder.chmod(0o755)
    write_ct(torso, tmp_path / "ct.nrrd")
    (tmp_path / "ct.nrrd").chmod(0o644)
    for name in ("closed.nii.gz", "closed.npz", "closed.bin", "closed.hdr"):
        (tmp_path / name).write_bytes(b"secret")
        (tmp_path / name).chmod(0)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)

    def look() -> None:
        listing = find_ct(tmp_path)
        assert {entry.name for entry in listing.found} == {"ct.nrrd", "closed.nii.gz", "closed.npz"}
        assert listing.ignored["unreadable"] == 1 and listing.ignored["not_ct"] == 2
        for name in ("closed.nii.gz", "closed.npz"):
            with pytest.raises(PermissionError):
                read_volume(tmp_path / name)

    try:
        without_rights(look)
    finally:
        (tmp_path / "closed").chmod(0o755)


@pytest.mark.parametrize("offset", [280, 296, 312])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 1e38, 1e-38])
def test_a_matrix_that_is_none_never_passes(
    value: float, offset: int, torso: CTVolume, tmp_path: Path
) -> None:
    write_ct(torso, tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", offset, np.full(4, value, "<f4").tobytes())
    with pytest.raises(VolumeError):
        read_volume(tmp_path / "a.nii")
