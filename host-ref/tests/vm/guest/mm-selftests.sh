#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Usage: mm-selftests.sh PROGRAM...
#
# Run programs of the kernel's selftests/mm in a guest. Of each: its name, its results,
# and its exit status.

for program; do
	echo "== $program"
	"/$program" </dev/null >/tmp/said 2>&1
	status=$?
	grep -E '^(not )?ok [0-9]' /tmp/said
	echo "exit status $status"
done
