"""`python -m bench NAME`: measurements, each with a table and, with --json FILE, its figures."""

from __future__ import annotations

import sys

from pipeline.errors import AustreamError, UsageError

BENCHES = {
    "diffmap": "the difference-map kernel beside NumPy and OpenCV",
    "demo": "check a run on --source demo against the expressions that the clip was made from",
}


def main(argv: list[str]) -> int:
    """Run one bench; the exit code."""
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print("usage: python -m bench NAME [--help]\n")
            for name, what in BENCHES.items():
                print(f"  {name:10} {what}")
            return 0 if argv else 2
        if argv[0] not in BENCHES:
            raise UsageError(f"{argv[0]}: no such bench; expected one of {', '.join(BENCHES)}")
        if argv[0] == "diffmap":
            from bench import diffmap

            return diffmap.main(argv[1:])
        from bench import demo

        return demo.main(argv[1:])
    except AustreamError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
