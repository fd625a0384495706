"""Runs the rows and prints what came out. Started by ops/bench, which explains the options."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from parts import Failed
from rows import Bench, Options, Result

ROWS = ("cold", "burst", "exec", "proxy", "daemon", "list", "idle")


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def line(result: Result) -> str:
    verdict = {True: "ok", False: "OVER", None: ""}[result.reached]
    if result.reached is False and result.target.startswith(">="):
        verdict = "UNDER"
    peer = f"{number(result.peer)} {result.unit} ({result.peer_name})" if result.peer is not None else ""
    ratio = f"{result.ratio:.2f} x" if result.ratio is not None else ""
    cells = f"{result.row:7} {result.what:44} {number(result.measured) + ' ' + result.unit:>18}  {peer:46} {ratio:>8}  {result.target:>14}  {verdict}"
    return cells.rstrip() + (f"\n{'':8}{result.note}" if result.note else "")


HEADER = f"{'row':7} {'what':44} {'measured':>18}  {'peer':46} {'ratio':>8}  {'target':>14}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ops/bench")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--burst", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rows-list", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strict", action="store_true")
    asked = parser.parse_args()
    asked.rows = asked.rows.split(",")
    if unknown := [each for each in asked.rows if each not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    return asked


def main() -> int:
    asked = arguments()
    bench = Bench(Options(asked.rounds, asked.burst, asked.at_once, asked.seconds, asked.rows_list))
    broken = missed = False
    if not asked.json:
        print(HEADER)
    try:
        for row in asked.rows:
            try:
                for result in getattr(bench, row)():
                    missed |= result.reached is False
                    print(json.dumps({**asdict(result), "ratio": result.ratio}) if asked.json else line(result), flush=True)
            except Failed as error:
                broken = True
                print(f"{row:7} could not be measured: {error}", file=sys.stderr, flush=True)
    finally:
        bench.close()
    return 2 if broken else int(missed and asked.strict)


if __name__ == "__main__":
    sys.exit(main())
