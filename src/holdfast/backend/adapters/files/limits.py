"""How much one file may cost."""

from dataclasses import asdict, dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one file may cost. Beyond a limit reading ends with a LimitError that names it.

    `memory_bytes` and `seconds` bound the child process that reads workbooks and Parquet (address space; wall clock
    per file). `file_bytes` bounds a file as delivered, `unzipped_bytes` what it unpacks to, and `zip_ratio` how many
    times its size that may be, once it is more than 64 MiB. `cells` bounds the used range of one worksheet, `columns`
    the columns of any table.
    """

    memory_bytes: int = 2 << 30
    seconds: float = 120.0
    file_bytes: int = 2 << 30
    unzipped_bytes: int = 2 << 30
    zip_ratio: float = 250.0
    cells: int = 20_000_000
    columns: int = 16_384

    def to_dict(self) -> dict[str, float]:
        """Plain data, for the child process."""
        return asdict(self)
