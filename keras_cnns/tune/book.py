"""The trials of a search, one file each, written whole or not at all: a kill loses none of them."""

import json
from pathlib import Path
from typing import Any

from keras_cnns import runs
from keras_cnns.errors import UsageError

Record = dict[str, Any]


def name_of(number: int) -> str:
    """Return the id of a trial, which is its place in the order of their making.

    >>> name_of(7)
    '0007'
    """
    return f"{number:04d}"


class Book:
    """The records of a folder, in the order of their making.

    A record is what is told of a trial in the end, and what the search must remember of it. Its
    "status" is running, completed, failed, or refused: measured, and too slow to be trained.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}
        folder.mkdir(exist_ok=True)
        for unfinished in folder.glob(".*"):
            unfinished.unlink(missing_ok=True)
        # The ten thousandth id has a digit more.
        for place in sorted(folder.glob("*.json"), key=lambda place: (len(place.stem), place.stem)):
            try:
                self.records[place.stem] = json.loads(place.read_text(encoding="utf-8"))
            except ValueError:
                raise UsageError(f"{place} is no record of a trial; remove it to go on") from None

    def write(self, record: Record) -> Record:
        """Keep a record, in place of an older one of its id."""
        text = json.dumps(record, indent=1) + "\n"
        runs.write_text(self.folder / f"{record['id']}.json", text)
        self.records[record["id"]] = record
        return record

    def trials(self) -> list[Record]:
        """Return the trials of the search itself."""
        return [record for record in self.records.values() if "of" not in record]
