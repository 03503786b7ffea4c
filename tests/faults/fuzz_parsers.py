"""Coverage-guided fuzzing of the parsers of untrusted files: IDX, .npy, .npz, configurations, compressed files.

    pip install atheris
    python tests/faults/fuzz_parsers.py -max_total_time=3600

Each input must be read, or refused with a UserError. Any other exception, more than 2 GB of memory or more than five
seconds end the fuzzing, and the input is written to the current directory; `fuzz_parsers.py FILE` repeats it. The first
byte of an input selects the parser. Inputs that reach new code are stored in the temporary folder, and the next start
continues from them; another folder can be given. The flags are those of libFuzzer.

It is not collected as a test: it takes an hour and needs atheris. The faults that it found are tested in the files
beside it.
"""

import contextlib
import gzip
import io
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["flax_vae", "zipfile", "gzip", "json", "numpy.lib", "ast", "jaxtyping"]):
    import zipfile  # noqa: F401
    from dataclasses import asdict

    import numpy as np

    from flax_vae import Config, UserError
    from flax_vae.compression import Header, container, read_header
    from flax_vae.data.arrays import idx_header, open_npz, parse_idx, read_npy
    from flax_vae.runs.config_file import config_content, parse_config, read_config

FOLDER = Path(tempfile.gettempdir()) / "flax_vae_fuzz"
FILE = Path("/dev/shm" if Path("/dev/shm").is_dir() else FOLDER) / f"flax_vae_fuzz_{os.getpid()}"


def from_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Turn a reader of paths into a parser of contents."""

    def call(content: bytes) -> object:
        FILE.write_bytes(content)
        return read(FILE)

    return call


def read_npz(path: Path) -> list[np.ndarray]:
    with open_npz(path) as arrays:
        return [arrays[name] for name in arrays]


def read_container(content: bytes) -> object:
    """Read a container with a valid checksum, since a wrong one would end the parsing."""
    return container.read(content + sha256(content).digest()[:16])


def read_packed_header(about: bytes) -> object:
    """Read a header, which is compressed in the file."""
    packed = zlib.compress(about, 1)
    content = struct.pack("<8sBI", container.MAGIC, container.VERSION, len(packed)) + packed + bytes(range(1, 9))
    return read_header(content + sha256(content).digest()[:16])


def altered(entries: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Change entries by lines "name value", since most damage to raw JSON breaks only its syntax."""
    for line in content.decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        try:
            entries[name] = json.loads(value)
        except (ValueError, RecursionError):
            entries[name] = value
    return entries


def read_altered_config(content: bytes) -> object:
    return parse_config(altered(config_content(Config(), (28, 28, 1)) | {"image_shape": [28, 28, 1]}, content), FILE)


def read_altered_header(content: bytes) -> object:
    return read_packed_header(json.dumps(altered(asdict(HEADER), content)).encode())


HEADER = Header("0", "m", "0", (4, 3, 1), 2, 0, (1, 4), (9, 0), ("a.png",) * 5, "0")
PARSERS: list[Callable[[bytes], object]] = [
    lambda content: parse_idx(content, 3, "a file"),
    lambda content: parse_idx(content, 1, "a file"),
    lambda content: parse_idx(gzip.compress(content, 1), 3, "a file"),
    lambda content: read_npy(FILE, content),
    from_file(read_npy),
    from_file(read_npz),
    from_file(read_config),
    read_altered_config,
    read_container,
    read_packed_header,
    read_altered_header,
]


def seeds() -> list[list[bytes]]:
    """Return small files for each parser."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4), np.uint8)
    idx, labels = idx_header((2, 3, 4)) + images.tobytes(), idx_header((2,)) + bytes(2)
    arrays = [saved(np.save, images), saved(np.save, np.arange(3.0)), saved(np.save, np.array([b"a", b"bc"]))]
    archives = [
        saved(lambda file, array: np.savez(file, images=array, labels=np.arange(2)), images),
        saved(lambda file, array: np.savez_compressed(file, x_train=array, x_test=array), images),
    ]
    settings = [
        Config(),
        Config(preset="tutorial_dense(features=(8,))", objective="renyi(alpha=0.3)", prior="vamp(components=5)"),
        Config(likelihood="categorical", posterior="iaf(layers=2)", validation=0.1, early_stopping=2),
    ]
    *lines, line = (
        "\n".join(f"{name} {json.dumps(value)}" for name, value in asdict(each).items()).encode()
        for each in (*settings, HEADER)
    )
    configs = [json.dumps(config_content(each, (28, 28, 1))).encode() for each in settings]
    compressed = container.write(HEADER, np.arange(1, 9, dtype=np.uint32))[:-16]
    about = json.dumps(asdict(HEADER)).encode()
    return [[idx, gzip.compress(idx)], [labels, gzip.compress(labels)], [idx], arrays, arrays, archives, configs,
            lines, [compressed], [about], [line]]  # fmt: skip


def saved(save: Callable[..., object], array: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


def words() -> str:
    """Return pieces of these files, in the format of libFuzzer's dictionaries."""
    names = [*config_content(Config(), (28, 28, 1)), *asdict(HEADER)]
    pieces = [*(f'"{name}"' for name in names), "descr", "fortran_order", "shape", "|u1", "<f8", "|O", "null", "NaN",
             "1e999", "true", "PK\1\2", "PK\3\4", "PK\5\6", "my_module:f", "gated_mlp(", "**", "\x93NUMPY"]  # fmt: skip
    return "".join('"' + "".join(map("\\x{:02x}".format, word.encode("latin-1"))) + '"\n' for word in pieces)


def try_one(content: bytes) -> None:
    """Read an input, or refuse it."""
    if content:
        with contextlib.suppress(UserError):
            PARSERS[content[0] % len(PARSERS)](content[1:])


def main() -> None:
    """Write the first inputs, then fuzz."""
    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, contents in enumerate(seeds()):
        for content in contents:
            (corpus / sha256(bytes([number]) + content).hexdigest()).write_bytes(bytes([number]) + content)
    (FOLDER / "words").write_text(words())
    flags = ["-rss_limit_mb=2048", "-timeout=5", "-max_len=20000", f"-dict={FOLDER / 'words'}"]
    paths = [word for word in sys.argv[1:] if not word.startswith("-")]
    atheris.Setup([sys.argv[0], *flags, *sys.argv[1:], *([] if paths else [str(corpus)])], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
