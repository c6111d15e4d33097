"""Builds every module anew and compares it with the committed one, byte for byte; `--update` commits to the new bytes.

Exit status: 0 all the same (or updated), 1 differences, 2 usage, 3 a compiler is missing or failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from scripts.guestbuild.recipes import Build, builds, make
from scripts.guestbuild.toolchains import BuildError, say
from tests.guests import MANIFEST, ROOT, built_on_demand, sha256_of

LARGEST_COMMITTED = 50_000


def main() -> int:
    """The command line of scripts/guests."""
    parser = argparse.ArgumentParser(
        prog="scripts/guests",
        description="Build the Wasm modules of tests/guests and examples/ and compare them with the committed ones.",
        epilog="Compilers are installed on first use: into $ATMO_FARM_CACHE (~/.cache/atmo-farm) and by apt-get.",
    )
    parser.add_argument("--update", action="store_true", help="write the modules and the manifest")
    parser.add_argument("only", nargs="*", metavar="PART", help="only modules whose source's path holds this")
    arguments = parser.parse_args()
    if arguments.update and arguments.only:
        parser.error("--update writes the whole manifest: it takes no PART")
    chosen = [one for one in builds() if not arguments.only or any(part in one.source for part in arguments.only)]
    if not chosen:
        parser.error(f"no source's path holds {' or '.join(arguments.only)}")
    try:
        with tempfile.TemporaryDirectory(prefix="atmo-farm-guests-") as scratch:
            return build_all(chosen, Path(scratch), arguments.update)
    except BuildError as error:
        sys.stderr.write(f"scripts/guests: {error}\n")
        return 3


def build_all(chosen: list[Build], scratch: Path, update: bool) -> int:
    """Make each module in `scratch`, then compare or keep it; 1 when something differs."""
    expected = {(entry["language"], entry["name"]): entry for entry in _manifest()}
    entries, different = [], 0
    for number, build in enumerate(chosen):
        started = time.monotonic()
        made = scratch / f"{number}.wasm"
        make(build, made)
        entry = _entry(build, made)
        if update:
            entries.append(entry)
            verdict = "new" if entry != expected.get((build.language, build.name)) else "same"
            _keep(build, made, entry["sha256"])
        else:
            verdict = _compare(build, entry, expected.get((build.language, build.name)))
            different += verdict != "same"
            if not build.module and verdict == "same":
                _keep(build, made, entry["sha256"])
        elapsed = time.monotonic() - started
        say(f"{verdict:<9} {build.language + '/' + build.name:<34} {entry['size']:>9,} bytes {elapsed:6.1f} s")
    if update:
        MANIFEST.write_text(json.dumps({"guests": entries}, indent=1, ensure_ascii=False) + "\n")
    say(f"{len(chosen)} modules, {different} different" if not update else f"{len(chosen)} modules written")
    return 1 if different else 0


def _manifest() -> list[dict[str, object]]:
    return json.loads(MANIFEST.read_text())["guests"] if MANIFEST.exists() else []


def _entry(build: Build, made: Path) -> dict[str, object]:
    size = made.stat().st_size
    if bool(build.module) != (size < LARGEST_COMMITTED):
        raise BuildError(
            f"{build.source}: {size:,} bytes; modules under {LARGEST_COMMITTED:,} are committed, no others"
        )
    return {
        "name": build.name,
        "language": build.language,
        "interface": build.recipe.interface,
        "module": build.module,
        "size": size,
        "sha256": sha256_of(made),
        "tool": build.recipe.tool,
        "command": build.command(build.module or f"{build.name}.wasm"),
        "sources": {path: sha256_of(ROOT / path) for path in build.sources},
    }


def _compare(build: Build, entry: dict[str, object], expected: dict[str, object] | None) -> str:
    if expected is None or entry["sha256"] != expected["sha256"]:
        return "different"
    if build.module and sha256_of(ROOT / build.module) != entry["sha256"]:
        return "different"
    return "same" if entry == expected else "outdated"


def _keep(build: Build, made: Path, sha256: object) -> None:
    target = ROOT / build.module if build.module else built_on_demand(str(sha256))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != made.read_bytes():
        shutil.copyfile(made, target)


if __name__ == "__main__":
    sys.exit(main())
