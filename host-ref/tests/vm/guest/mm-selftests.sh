#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Usage: mm-selftests.sh PROGRAM...
#
# Run programs of the kernel's selftests/mm in a guest. Of each: its name, its results,
# and its exit status.

echo 268435456 >/proc/sys/kernel/shmmax
for program; do
	# As their own script has it; some of them leave another number behind
	echo 192 >/proc/sys/vm/nr_hugepages
	echo "== $program"
	# It goes on for ever unless told for how many seconds
	case $program in
	transhuge-stress) seconds="-d 20" ;;
	*) seconds= ;;
	esac
	# shellcheck disable=SC2086  # none, or two words
	"/$program" $seconds </dev/null >/tmp/said 2>&1
	status=$?
	# Or by colour, as khugepaged does
	grep -E '^(not )?ok [0-9]|\[(OK|PASS|FAIL|SKIP)\]|: (PASS|FAIL|SKIP|done)|\[3[1-3]m' /tmp/said |
		tr -d '\033'
	echo "exit status $status"
done
