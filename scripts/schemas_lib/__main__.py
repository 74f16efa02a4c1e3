"""What scripts/schemas runs."""

from __future__ import annotations

import argparse
import sys

from scripts.schemas_lib.documents import DIRECTORY, documents, stale


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/schemas", description="Writes schemas/ anew from the code's own types."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when a file is not current"
    )
    options = parser.parse_args()
    names = stale()
    if options.check:
        for name in names:
            print(f"schemas/{name} is not current: run scripts/schemas", file=sys.stderr)
        return 1 if names else 0
    DIRECTORY.mkdir(exist_ok=True)
    made = documents()
    for name in names:
        if name in made:
            (DIRECTORY / name).write_bytes(made[name])
        else:
            (DIRECTORY / name).unlink()
        print(f"schemas/{name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
