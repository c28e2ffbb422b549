"""`python -m third_party.oracles FAMILY DIR [--variant N] [--seed S]`, or `--list`."""

from __future__ import annotations

import argparse

from third_party.oracles import FAMILIES, make


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m third_party.oracles",
        description="Makes a parity folder: a small random model of a reference implementation, and what it computes.",
    )
    parser.add_argument("family", nargs="?", metavar="FAMILY")
    parser.add_argument("folder", nargs="?", metavar="DIR")
    parser.add_argument("--variant", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--list", action="store_true", help="list the families and how many variants each has")
    arguments = parser.parse_args()
    if arguments.list:
        for family, variants in sorted(FAMILIES.items()):
            print(f"{family:24} {len(variants)}  {', '.join(dict.fromkeys(v.class_name for v in variants))}")
        return
    if not arguments.folder:
        parser.error("FAMILY and DIR are needed")
    try:
        make(arguments.family, arguments.folder, arguments.variant, arguments.seed)
    except (ValueError, ImportError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
