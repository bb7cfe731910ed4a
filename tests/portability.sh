#!/usr/bin/env bash
# The numerical tests on every kernel that the libraries below can be told to use, since each sums in an order of its own.
#
#   tests/portability.sh                  12 combinations in which every pair of values meets (see `combinations`)
#   tests/portability.sh --full           the product of all values, 432 combinations
#   tests/portability.sh [--full] ARGS    pytest's arguments instead of TESTS below: files, -x, -k ...
#   JOBS=8 tests/portability.sh ...       eight combinations at a time, on a machine with many cores
#
# One line a combination: PASS, FAIL, or LACKS where the machine cannot run it (SkylakeX without AVX-512); what was asked
# for; what is in use, as OpenBLAS, MKL and ATen themselves say, with a "!" where that is something else; pytest's last
# line. A failed run is printed whole. The exit status is 1 if one failed.
set -u
cd "$(dirname "$0")/.."

# values against oracles, laws, one sum in two orders, both rooms, the peers; no exact fractions, counts, files or jobs
TESTS=(tests/test_{kernels,laws,masks_and_extremes,family,encoder,train,init}.py
       tests/test_{fused,inject,twin,peers}.py)

CORES=(unset Prescott Haswell SkylakeX)   # OPENBLAS_CORETYPE
CBWR=(unset COMPATIBLE AVX2)              # MKL_CBWR
ATEN=(unset default avx2)                 # ATEN_CPU_CAPABILITY
THREADS=(1 2)                             # OMP_NUM_THREADS
HASHES=(0 1)                              # PYTHONHASHSEED
SEEDS=(1 2 3)                             # --hypothesis-seed

combinations() {
  local i j
  if [ "$1" = full ]; then
    for core in "${CORES[@]}"; do for cbwr in "${CBWR[@]}"; do for aten in "${ATEN[@]}"; do
      for threads in "${THREADS[@]}"; do for hash in "${HASHES[@]}"; do for seed in "${SEEDS[@]}"; do
        echo "$core $cbwr $aten $threads $hash $seed"
      done; done; done
    done; done; done
  else
    # core and cbwr in full; aten and seed two orthogonal Latin squares over them
    for i in 0 1 2 3; do for j in 0 1 2; do
      echo "${CORES[i]} ${CBWR[j]} ${ATEN[(i + j) % 3]} ${THREADS[(i + j) % 2]} ${HASHES[(i / 2 + j) % 2]}" \
           "${SEEDS[(i + 2 * j) % 3]}"
    done; done
  fi
}

# sets the environment to a combination: "unset" is unset, whatever the caller's was
choose() {
  unset OPENBLAS_L2_SIZE OPENBLAS_NUM_THREADS MKL_NUM_THREADS
  local name
  for name in OPENBLAS_CORETYPE MKL_CBWR ATEN_CPU_CAPABILITY OMP_NUM_THREADS PYTHONHASHSEED; do
    if [ "$1" = unset ]; then unset "$name"; else export "$name=$1"; fi
    shift
  done
}

# what is in use, or an exit status other than 0 where a product cannot be computed
read -r -d '' PROBE <<'PYTHON'
import os, re, subprocess, sys
import numpy, scipy.linalg, threadpoolctl, torch

if sys.argv[1:]:  # MKL says on its own output how it computed this
    torch.ones(70, 70) @ torch.ones(70, 70)
    sys.exit()
a = numpy.ones((130, 130))
assert (a @ a == 130).all() and scipy.linalg.svdvals(a).shape == (130,)
asked = {name: os.environ.get(name, "unset") for name in ("OPENBLAS_CORETYPE", "MKL_CBWR", "ATEN_CPU_CAPABILITY")}
found = {i["architecture"] for i in threadpoolctl.threadpool_info() if i["internal_api"] == "openblas"}
cores = {"Prescott": {"Prescott", "Katmai"}}  # a build without Katmai's kernels calls Prescott's by that name
said = subprocess.run([sys.executable, *sys.orig_argv[1:], "mkl"], env=os.environ | {"MKL_VERBOSE": "1"},
                      capture_output=True, text=True).stdout
cnr = re.search(r"CNR:(\w+)", said)
cnr = cnr.group(1) if cnr else "absent"
aten = torch.backends.cpu.get_cpu_capability()
core = asked["OPENBLAS_CORETYPE"]
wrong = {
    "OpenBLAS": core != "unset" and not found <= cores.get(core, {core}),
    "MKL": asked["MKL_CBWR"] not in ("unset", cnr),
    "ATen": asked["ATEN_CPU_CAPABILITY"] not in ("unset", aten.lower()),
}
parts = {"OpenBLAS": "/".join(sorted(found)) or "absent", "MKL": f"CNR {cnr}", "ATen": aten}
print(", ".join(f"{name} {part}{'!' if wrong[name] else ''}" for name, part in parts.items()), end=", ")
print(f"{torch.get_num_threads()} threads")
PYTHON

# one combination: its line, and the whole run where it failed
combination() {
  local core=$1 cbwr=$2 aten=$3 threads=$4 hash=$5 seed=$6 asked used code verdict log
  log=$(mktemp)
  choose "$core" "$cbwr" "$aten" "$threads" "$hash"
  asked="core $core, cbwr $cbwr, aten $aten, threads $threads, hash $hash, seed $seed"
  used=$({ python -c "$PROBE"; } 2>"$log" </dev/null)
  code=$?
  if [ $code -ne 0 ]; then
    [ $code -eq 132 ] && echo "illegal instruction" >"$log"
    echo "LACKS | $asked | $(tail -n 1 "$log")"
    rm -f "$log"
    return 0
  fi
  python -m pytest -q -p no:cacheprovider --hypothesis-profile drawn --hypothesis-seed "$seed" "${@:7}" \
    >"$log" 2>&1 </dev/null
  code=$?
  verdict=PASS
  if [ $code -ne 0 ]; then
    verdict=FAIL
    cat "$log"
  fi
  echo "$verdict | $asked | $used | $(tail -n 1 "$log")"
  rm -f "$log"
  [ $verdict = PASS ]
}
export -f choose combination
export PROBE

mode=short
if [ "${1:-}" = --full ]; then mode=full; shift; fi
[ $# -gt 0 ] && TESTS=("$@")
# xargs appends a combination's six words to the tests, and ends with another status than 0 if one fails
combinations "$mode" | xargs -P "${JOBS:-1}" -L 1 bash -c \
  'words=("$@"); n=$(($# - 6)); combination "${words[@]:n}" "${words[@]:0:n}"' _ "${TESTS[@]}" || exit 1
