#!/usr/bin/env bash
# Every test and measurement that needs a GPU, in stages of less than ten minutes each; the JSON, tables and logs go to $OUT.
#
#   OUT=results bash benchmarks/gpu_suite.sh                 all stages
#   OUT=results bash benchmarks/gpu_suite.sh about transport some of them
#   bash benchmarks/gpu_suite.sh --list
#
# PYTHON (python3) is one with torch for the GPU. WHEELS may name a folder of wheels to install first, for a machine without
# a network. CIFAR may name the folder of CIFAR-10's published python batches; without it `training` uses digits.
# PACK=1 leaves only JSON and PNG files beside one archive with the rest. What was skipped or failed is said where it happens
# and again at the end; the exit code is 1 if anything was.

set -uo pipefail
OUT=$(realpath -m "${OUT:-gpu-results}") # as seen from where this was called
WHEELS=${WHEELS:+$(realpath -m "$WHEELS")}
CIFAR=${CIFAR:+$(realpath -m "$CIFAR")}
cd "$(dirname "$0")/.." || exit 1

STAGES=(about transport hosts methods memory exchange steps training profile)
if [[ ${1:-} == --list ]]; then
    printf '%s\n' "${STAGES[@]}"
    exit 0
fi
CHOSEN=("$@")
[[ ${#CHOSEN[@]} -gt 0 ]] || CHOSEN=("${STAGES[@]}")
for stage in "${CHOSEN[@]}"; do
    if [[ " ${STAGES[*]} " != *" $stage "* ]]; then
        echo "got stage $stage, expected one of: ${STAGES[*]}" >&2
        exit 2
    fi
done

PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [[ -n ${WHEELS:-} ]]; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$site:$PYTHONPATH"
fi

worst=0
notes=()
note() {
    notes+=("$1")
    echo "$1"
}
# run NAME SECONDS COMMAND...: its output goes to $OUT/NAME.log as well; nothing runs past its time.
run() {
    local name=$1 limit=$2 code began=$SECONDS
    shift 2
    echo "== $name: $*"
    timeout --signal=INT --kill-after=20 "$limit" "$@" 2>&1 | tee "$OUT/$name.log"
    code=${PIPESTATUS[0]}
    if ((code)); then
        note "FAILED: $name (exit $code after $((SECONDS - began)) s), see $name.log"
        worst=1
    else
        echo "== $name: done in $((SECONDS - began)) s"
    fi
}
tests() {
    local name=$1
    shift
    run "$name" "$LIMIT" "$PYTHON" -m pytest -q -p no:cacheprovider -o addopts="-ra --strict-markers" -W default "$@"
    for reason in "no GPU here" "nixl is not installed"; do
        if grep -q "$reason" "$OUT/$name.log"; then
            note "SKIPPED: $name, or some of it: $reason"
            worst=1
        fi
    done
}

for stage in "${CHOSEN[@]}"; do
    case $stage in
    about)
        run about 120 "$PYTHON" - <<'PYTHON_END'
import importlib.util, os, shutil, sysconfig, torch
print("torch", torch.__version__, "cuda", torch.version.cuda, "devices", torch.cuda.device_count())
for index in range(torch.cuda.device_count()):
    about = torch.cuda.get_device_properties(index)
    peers = [torch.cuda.can_device_access_peer(index, o) for o in range(torch.cuda.device_count()) if o != index]
    print(index, about.name, f"{about.total_memory / 1e9:.0f} GB", "peer access:", peers or "no other device")
missing = [n for n in ("pydantic", "shtab", "tqdm", "packaging", "safetensors", "yaml", "pytest", "pytest_timeout", "hypothesis", "sklearn")
           if not importlib.util.find_spec(n)]
print("missing packages:", missing or "none")
triton = importlib.import_module("triton").__version__ if importlib.util.find_spec("triton") else None
headers = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
print("to compile with: triton", triton, "C compiler", shutil.which("cc") or shutil.which("gcc"), "Python.h", headers)
from gossip.transports.ipc import ipc_of
print("memory can be shared through CUDA IPC:", ipc_of(torch.zeros(1, device="cuda")) is not None)
from gossip.devices import Streams
page = torch.zeros(1 << 20)
streams = Streams(torch.device("cuda", 0))
streams.copy(torch.zeros(1 << 20, device="cuda"), page)
print("pages of the host can be locked:", not streams.pages.complained)
raise SystemExit(bool(missing))
PYTHON_END
        ;;
    transport)
        # The contract table of every transport, over CUDA IPC, kills included; and what a mapping does after its owner's death.
        LIMIT=120
        tests mapping tests/gossip/test_device_memory.py tests/gossip/test_devices.py
        LIMIT=420
        tests transport tests/contracts/test_transports.py -k "cuda_ipc"
        ;;
    hosts)
        # Job directories of their own stand for hosts: between them the GPU's memory is registered with NIXL, and read.
        LIMIT=300
        tests hosts tests/contracts/test_hosts.py -k "gpu"
        ;;
    methods)
        LIMIT=540
        tests methods tests/contracts/test_on_devices.py tests/trainers/test_on_gpu.py -k "gpu or Gpu"
        ;;
    memory)
        run memory 300 "$PYTHON" -m benchmarks.gpu --parts memory --models 7m 25m --json "$OUT/gpu_memory.json"
        ;;
    exchange)
        for model in 7m 25m; do
            run "exchange_$model" 280 "$PYTHON" -m benchmarks.gpu --parts exchange --models "$model" --workers 2 --rounds 8 \
                --json "$OUT/gpu_exchange_$model.json"
        done
        ;;
    steps)
        run trainer 200 "$PYTHON" -m benchmarks.gpu --parts trainer --json "$OUT/gpu_trainer.json"
        run trainer_compiled 200 "$PYTHON" -m benchmarks.gpu --parts trainer --compile --json "$OUT/gpu_trainer_compiled.json"
        run regularizers 150 "$PYTHON" -m benchmarks.gpu --parts regularizers --json "$OUT/gpu_regularizers.json"
        ;;
    training)
        data=(data.name=digits data.batch_size=16)
        config=digits
        steps=400
        if [[ -n ${CIFAR:-} ]]; then
            config=cifar10
            data=("data.root=$CIFAR")
            steps=4000
        else
            note "SKIPPED: CIFAR-10 (set CIFAR to the folder of its python batches); digits instead"
        fi
        for method in "gosgd, rho: 0.1" "persyn, tau: 10" "easgd, tau: 10" "fully_sync"; do
            name=${method%%,*}
            rm -rf "$OUT/run_$name"
            run "train_$name" 130 "$PYTHON" -m launch.cli train "$config" --workers 4 "${data[@]}" "exchange={method: $method}" \
                "train={steps: $steps}" run.workers_per_device=4 run.eval_every=$((steps / 10)) run.checkpoint_every=0 \
                run.tensorboard=false "run.dir=$OUT/run_$name"
            cp "$OUT/run_$name/metrics.jsonl" "$OUT/metrics_$name.jsonl" 2>/dev/null || true
        done
        run curves 60 "$PYTHON" -m benchmarks.gpu_curves "$OUT"/metrics_*.jsonl --plot "$OUT/gpu_training.png"
        ;;
    profile)
        rm -rf "$OUT/run_profile"
        run profile 120 "$PYTHON" -m launch.cli train digits --workers 2 run.workers_per_device=2 run.tensorboard=false \
            "exchange={method: gosgd, rho: 1.0}" "train={steps: 60, precision: bf16, profile: {start: 30, steps: 5}}" \
            "run.dir=$OUT/run_profile"
        for range in data forward backward optimizer exchange; do
            grep -q "\"name\": \"$range\"" "$OUT/run_profile/profile/worker-0.pt.trace.json" 2>/dev/null || {
                note "FAILED: profile has no range $range"
                worst=1
            }
        done
        gzip -c "$OUT/run_profile/profile/worker-0.pt.trace.json" >"$OUT/trace.json.gz" 2>/dev/null || true
        ;;
    esac
done

if [[ ${PACK:-} == 1 ]]; then
    (
        cd "$OUT" || exit
        mkdir -p rest
        for file in *; do
            case $file in *.json | *.png | *.tar.gz | rest) ;; *) mv "$file" rest/ ;; esac
        done
        tar -czf "rest-${CHOSEN[0]}.tar.gz" rest && rm -r rest
    )
fi
echo
echo "== stages: ${CHOSEN[*]}"
if ((${#notes[@]})); then printf '%s\n' "${notes[@]}"; else echo "nothing was skipped, nothing failed"; fi
exit $worst
