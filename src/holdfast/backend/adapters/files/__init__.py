"""Files as they are delivered, read into Arrow: delimited text, workbooks, Parquet and JSON lines.

read_file / FileReader   reader.py      one file → RawTable; decides by content, then by extension
what kind is it          sniff.py       signatures, gzip with limits, what is refused by name
text                     encoding.py → delimited.py (dialect, fast path, exact path) · jsonlines.py
workbooks, Parquet       sandbox.py ⇄ _child.py: a child process with limits; in it prelook.py, workbook.py, parquet.py
shared                   names.py (header cells → unique names) · cells.py (Python cells → typed columns) · limits.py

Everything that can go wrong with a file is a FileError or a LimitError that names the file, the place and what to do.
"""

from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.adapters.files.reader import FileReader, read_file

__all__ = ["FileReader", "Limits", "read_file"]
