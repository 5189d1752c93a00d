"""What a file is by its first bytes: compressed, or nothing that slant reads, with the way out.

A signature must not occur at the beginning of a text: a CSV file may have a first column "ORC" or "PARENT".
"""

from __future__ import annotations

import re
from typing import IO
from zipfile import BadZipFile, ZipFile

from slant.errors import TableError

SIZE = 512  # bytes that are looked at
COMPRESSED = {  # names as pyarrow has them
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
}
PARQUET = re.compile(rb"PAR1\x15")
ARROW = re.compile(rb"ARROW1\0\0|\xff\xff\xff\xff[\x10-\xff][\0-\xff]{2}\0")  # a file, a stream
SHEET = "save it as CSV UTF-8 in a spreadsheet program"
_SIGNATURES = {
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Excel workbook or another Office document", SHEET),
    rb"SQLite format 3\0": ("an SQLite database", "export a table: sqlite3 -header -csv FILE 'select * from TABLE'"),
    rb"\x80[\x02-\x05][\x00-\xff]": ("a Python pickle", "load it where it was made, and write it with to_parquet"),
    rb"\x89HDF\r\n": ("an HDF5 file", "write the table with pandas' to_parquet"),
    rb"Obj\x01": ("an Avro file", "convert it to JSON Lines, for example with fastavro"),
    rb"ORC([\0-\x1f][\0-\x08\x0e-\x1f]|[\x7f-\xff])": (
        "an ORC file",
        "read it with pyarrow.orc and write it with pyarrow.parquet",
    ),
    rb"FEA1[^\t\n\r -~]": ("a Feather file of version 1", "write it again with pyarrow.feather.write_feather"),
    rb"\x93NUMPY": ("a NumPy array", "write its texts as a table"),
    rb"RDX[23]\n|RDA[23]\n": ("an R data file", "write the table with R's write.csv"),
    rb"\xfd7zXZ\0": ("compressed with xz", "unpack it with unxz; gzip, zstd, bz2 and lz4 are read as they are"),
    rb"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    rb"Rar!\x1a\x07": ("a RAR archive", "unpack it"),
    rb"[\0-\xff]{257}ustar": ("a tar archive", "unpack it"),
    rb"%PDF-": ("a PDF document", "extract its text first"),
    rb"version https://git-lfs\.github\.com/": ("a Git LFS pointer, not the file itself", "get it with git lfs pull"),
}
_MARKUP = {  # texts as well, which one a line may be
    rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html)": (
        "a web page",
        "the download may have been a log-in or an error page: get the file again",
    ),
    rb"(\xef\xbb\xbf)?\s*<\?xml": ("XML", SHEET),
    rb"\{\\rtf": ("an RTF document", "save it as plain text"),
}


def refuse_others(start: bytes, stream: IO[bytes], name: str, *, texts: bool) -> None:
    """Raise TableError for a file that is no table slant reads, by its ``start``. texts: it may hold any text."""
    if re.match(rb"PK(\x03\x04|\x05\x06)", start):
        what, advice = _archive(stream)
        raise TableError(f"{name} is {what}; {advice}.")
    for signatures in (_SIGNATURES, {} if texts else _MARKUP):
        for pattern, (what, advice) in signatures.items():
            if re.match(pattern, start, re.IGNORECASE):
                raise TableError(f"{name} is {what}; {advice}.")


def _archive(stream: IO[bytes]) -> tuple[str, str]:
    """What a ZIP archive holds, and what to do with it."""
    names: list[str] = []
    if stream.seekable():
        try:
            with ZipFile(stream) as archive:
                names = archive.namelist()
        except (BadZipFile, OSError, ValueError, NotImplementedError):
            return "a damaged ZIP archive", "get it again"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook", SHEET
    if "mimetype" in names and "content.xml" in names:
        return "an OpenDocument file", SHEET
    if any(name.startswith("word/") for name in names):
        return "a Word document", "save it as plain text"
    if any(name.endswith(".npy") for name in names):
        return "a file of NumPy arrays", "write its texts as a table"
    if any(name.endswith("data.pkl") for name in names):
        return "a file of torch.save", "write its texts as a table"
    held = f" of {names[0]}" if len(names) == 1 else f" of {len(names)} files" if names else ""
    return f"a ZIP archive{held}", "unpack it"
