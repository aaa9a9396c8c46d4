# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034
#
# Sourced by the other scripts: where things are, what they are pinned to, how to
# speak to the user, how to run a long step.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$ROOT/build
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/pvmemctl
ME=$(basename "$0")
JOBS=$(nproc)

# shellcheck source=scripts/pins.sh
. "$ROOT/scripts/pins.sh"

# No setting of the user may change what git makes of the series or the bases
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
export GIT_AUTHOR_NAME=$SERIES_NAME GIT_AUTHOR_EMAIL=$SERIES_EMAIL
export GIT_COMMITTER_NAME=$SERIES_NAME GIT_COMMITTER_EMAIL=$SERIES_EMAIL
export GIT_AUTHOR_DATE=$SERIES_DATE GIT_COMMITTER_DATE=$SERIES_DATE
export LC_ALL=C.UTF-8 TZ=UTC

CC=gcc CXX=g++
if command -v ccache >/dev/null; then
	CC="ccache gcc" CXX="ccache g++"
	# Hits from any checkout, not only from this folder
	export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1
fi

say() { printf '%s: %s\n' "$ME" "$*" >&2; }
die() { printf '%s: error: %s\n' "$ME" "$*" >&2; exit 1; }

# The help of a script is its leading comment
usage() {
	sed -n '3,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"
	exit "${1:-0}"
}

need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || die "'$tool' is missing: run scripts/setup"
	done
}

# step TEXT LOGNAME COMMAND...: run a long command with its output in a log, show
# that it is alive, and on failure show the end of the log.
step() {
	local text=$1 log=$BUILD/log/$2.log start=$SECONDS pid status=0 beat=0
	shift 2
	mkdir -p "$BUILD/log"
	("$@") >"$log" 2>&1 </dev/null &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [[ -t 2 ]]; then
			printf '\r\033[K%s: %s ... %d s' "$ME" "$text" $((SECONDS - start)) >&2
		elif ((SECONDS - start >= beat + 30)); then
			beat=$((SECONDS - start))
			say "$text ... $beat s: $(tail -n 1 "$log" | cut -c 1-80)"
		fi
	done
	wait "$pid" || status=$?
	if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
	if ((status)); then
		tail -n 30 "$log" >&2
		die "$text: failed with status $status; the whole log is $log"
	fi
	say "$text: done in $((SECONDS - start)) s"
}

# key FILE-OR-DIR...: a hash over contents, to tell whether a build is current
key() {
	find "$@" -type f -not -path '*/__pycache__/*' -print0 | sort -z |
		xargs -0 sha256sum | sha256sum | cut -c 1-64
}

# is_done STAMP KEY / mark_done STAMP KEY
is_done() { [[ -f $1 && $(<"$1") == "$2" ]]; }
mark_done() { mkdir -p "$(dirname "$1")"; printf '%s\n' "$2" >"$1"; }

# Where a source of this project lies in the kernel tree
kernel_path() {
	case $1 in
	selftests/*) echo "tools/testing/selftests/pvmemctl/${1#selftests/}" ;;
	samples/*) echo "samples/pvmemctl/${1#samples/}" ;;
	tools/*) echo "tools/virt/pvmemctl/${1#tools/}" ;;
	mm-hooks/*) echo "mm/pvmemctl/${1#mm-hooks/}" ;;
	*) echo "$1" ;;
	esac
}

# put_file PATH: stdin becomes the file PATH in git's index
put_file() {
	git update-index --add --cacheinfo "100644,$(git hash-object -w --stdin),$1"
}

# Apply patches/ by plain git am on the pinned Linux, in a worktree at DIR that has
# nothing but the files they touch. Prints what git says.
am_series() {
	local dir=$1
	git -C "$BUILD/linux" worktree remove --force "$dir" 2>/dev/null || rm -rf "$dir"
	git -C "$BUILD/linux" worktree prune
	git -C "$BUILD/linux" worktree add -q --no-checkout --detach "$dir" base
	sed -n 's|^diff --git a/\(.*\) b/.*|/\1|p' "$ROOT"/patches/*/*.patch |
		git -C "$dir" sparse-checkout set --no-cone --stdin
	git -C "$dir" checkout -q
	git -C "$dir" am --no-3way "$ROOT"/patches/*/*.patch
}

# TAP for scripts: tap_start; tap NAME COMMAND...; tap_end, which fails if one did
tap_start() { tap_count=0 tap_failed=0; echo "TAP version 13"; }
tap() {
	local name=$1 output status=0
	shift
	tap_count=$((tap_count + 1))
	output=$("$@" 2>&1 </dev/null) || status=$?
	if ((status)); then
		tap_failed=$((tap_failed + 1))
		[[ -z $output ]] || printf '%s\n' "# ${output//$'\n'/$'\n'# }"
		echo "not ok $tap_count - $name"
	else
		echo "ok $tap_count - $name"
	fi
}
tap_skip() { tap_count=$((tap_count + 1)) && echo "ok $tap_count - $1 # SKIP $2"; }
tap_end() { echo "1..$tap_count" && ((tap_failed == 0)); }

# with_swap COMMAND...: while this machine has swap. It belongs to the machine: gone
# when this shell ends in whatever way.
with_swap() {
	local swap=$BUILD/swap
	if ((EUID == 0)) && [[ -z $(swapon --noheadings --show 2>/dev/null) ]] &&
		fallocate -l 256M "$swap" && chmod 600 "$swap" && mkswap "$swap" >&2 &&
		swapon "$swap"; then
		# shellcheck disable=SC2064  # expanded now
		trap "swapoff '$swap'; rm -f '$swap'" EXIT
	else
		rm -f "$swap"
		echo "# runs without swap: there is some already, or this machine lets us have none"
	fi
	"$@"
}
