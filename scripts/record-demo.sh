#!/usr/bin/env bash
# Records a failover in `make demo` for the README: starts scripts/demo.sh on a terminal of 80 columns and 24 lines, kills the
# primary and its agent with the command that the demo prints, waits until the former primary is a replica, and stops the demo.
#   record-demo.sh [--cast FILE] [--svg FILE]     default: docs/demo.cast (asciicast 2, for `asciinema play`) and docs/demo.svg
# TAMADA_DEMO_PROGRAM is the program to show (default: target/release/tamada). Takes about a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python3 scripts/record-demo.py scripts/demo.sh "$@"
