#!/usr/bin/env bash
# Measures Architex, and a Synapse from PyPI beside it, on this machine, in turn, in the same hour.
#
#   bench/run.sh [--quick] [--runs N] [SCENARIO…] [-- OPTION…]
#                                                        default: one run of send, sync and read;
#                                                        options go to hsbench.py (its sizes)
#   PEER=synapse bench/run.sh …                          the same for Synapse, and the ratios
#   INTO=docs/performance.md bench/run.sh …              the table goes into that page, too, and
#                                                        the plots into docs/figures
#
# The load generator is hsbench.py: in $HSBENCH, else in ../shared/bench; peers.py adds to it. Results go to $OUT
# (default: a new directory below /tmp). $PYTHON needs Architex and what hsbench.py needs:
#   pip install orjson psutil aiohttp pynacl cryptography uvloop
# Synapse is installed once into $SYNAPSE_DIR; one that is at $SYNAPSE_VENV already is taken.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
HSBENCH=${HSBENCH:-$HERE/../../shared/bench}
PYTHON=${PYTHON:-$( [ -x "$HERE/../.venv/bin/python" ] && echo "$HERE/../.venv/bin/python" || command -v python3 )}
SYNAPSE_DIR=${SYNAPSE_DIR:-/var/tmp/architex-bench-synapse}
SYNAPSE_VENV=${SYNAPSE_VENV:-/var/tmp/synapse-venv}
WORKERS=${WORKERS:-$(nproc)}
OUT=${OUT:-$(mktemp -d /tmp/architex-bench-XXXXXX)}
PORT=${PORT:-18098}
RUNS=1
QUICK=()
SCENARIOS=()
OPTIONS=()
while [ $# -gt 0 ]; do
    case $1 in
    --quick) QUICK=(--quick) ;;
    --runs) RUNS=$2; shift ;;
    --) shift; OPTIONS=("$@"); break ;;
    -h | --help) sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    *) SCENARIOS+=("$1") ;;
    esac
    shift
done
[ ${#SCENARIOS[@]} -gt 0 ] || SCENARIOS=(send sync read)
if [ ! -f "$HSBENCH/hsbench.py" ]; then
    echo "hsbench.py is not in $HSBENCH: say where it is with HSBENCH=DIR" >&2
    exit 2
fi
mkdir -p "$OUT"
HSBENCH=$HSBENCH "$PYTHON" "$HERE/peers.py" certificates "$OUT/certificates"
SERVE_PID=
DATA=

stop_ours() {
    if [ -n "$SERVE_PID" ]; then
        kill "$SERVE_PID" 2>/dev/null || true
        wait "$SERVE_PID" 2>/dev/null || true
        SERVE_PID=
    fi
    [ -z "$DATA" ] || rm -rf "$DATA"
    DATA=
}
stop_all() {
    stop_ours
    [ "${PEER:-}" != synapse ] || "$HSBENCH/synapse.sh" "$SYNAPSE_DIR" down >/dev/null 2>&1 || true
}
trap stop_all EXIT

hsbench() { # LABEL URL PID PG_PID
    HSBENCH=$HSBENCH "$PYTHON" "$HERE/peers.py" run "${SCENARIOS[@]}" --base-url "$2" \
        --server-name bench.local --shared-secret hsbench-shared-secret --pid "$3" --pg-pid "$4" \
        --label "$1" --fed-cert-dir "$OUT/certificates" --fed-port "$((PORT + 50))" \
        --out "$OUT/$1.jsonl" "${QUICK[@]}" "${OPTIONS[@]}" >/dev/null
}

run_ours() {
    DATA=$(mktemp -d /var/tmp/architex-bench-data-XXXXXX)
    chmod 711 "$DATA"
    cat >"$DATA/architex.toml" <<EOF
server_name = "bench.local"
data_dir = "$DATA/data"
signing_key_path = "$DATA/id_ed25519"
listeners = [{host = "127.0.0.1", port = $PORT}]
[registration]
enabled = true
shared_secret = "hsbench-shared-secret"
weak_password_hashing = true
[rate_limits]
enabled = false
[federation]
ip_blocklist = []
ca_file = "$OUT/certificates/ca.pem"
[processes]
web_workers = $WORKERS
EOF
    (cd "$HERE/.." && exec "$PYTHON" -m architex serve --config "$DATA/architex.toml") \
        >>"$OUT/architex.log" 2>&1 &
    SERVE_PID=$!
    for _ in $(seq 300); do
        curl -fs "http://127.0.0.1:$PORT/health" >/dev/null && break
        kill -0 "$SERVE_PID" 2>/dev/null || { tail -n 20 "$OUT/architex.log" >&2; exit 1; }
        sleep 0.2
    done
    local pg_pid
    pg_pid=$(head -n 1 "$(find "$DATA/data" -name postmaster.pid | head -n 1)")
    hsbench architex "http://127.0.0.1:$PORT" "$SERVE_PID" "$pg_pid"
    stop_ours
}

run_synapse() {
    mkdir -p "$SYNAPSE_DIR"
    if [ ! -e "$SYNAPSE_DIR/venv" ] && [ -x "$SYNAPSE_VENV/bin/python" ]; then
        ln -s "$SYNAPSE_VENV" "$SYNAPSE_DIR/venv"
    fi
    local told url pid pg_pid
    told=$("$HSBENCH/synapse.sh" "$SYNAPSE_DIR" up "$((PORT + 100))" | tail -n 1)
    read -r url _ pid _ pg_pid <<<"$told"
    hsbench synapse "$url" "$pid" "$pg_pid"
    "$HSBENCH/synapse.sh" "$SYNAPSE_DIR" down
    rm -rf "$SYNAPSE_DIR/pg" "$SYNAPSE_DIR/media"
}

for number in $(seq "$RUNS"); do
    echo "run $number of $RUNS: architex" >&2
    run_ours
    if [ "${PEER:-}" = synapse ]; then
        echo "run $number of $RUNS: synapse" >&2
        run_synapse
    fi
done
results=("$OUT/architex.jsonl")
[ "${PEER:-}" != synapse ] || results+=("$OUT/synapse.jsonl")
"$PYTHON" "$HERE/table.py" ${INTO:+--into "$INTO"} "${results[@]}" | tee "$OUT/table.md"
if [ -n "${INTO:-}" ]; then
    cd "$HERE/.."
    BENCH_JSON="$OUT/rooms.jsonl" "$PYTHON" -m bench.micro.room_size
    BENCH_JSON="$OUT/accounts.jsonl" "$PYTHON" -m bench.micro.first_sync
    "$PYTHON" "$HERE/plots.py" "$(dirname "$INTO")/figures" "${results[@]}"
fi
echo "(everything is in $OUT)" >&2
