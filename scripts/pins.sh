# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2034
#
# What this project builds on.  *_POOL is the path below a Debian mirror, *_TREE
# the git tree of the unpacked source, however it was packed.

LINUX_VERSION=7.2.6
LINUX_POOL=pool/main/l/linux/linux_7.2.6.orig.tar.xz
LINUX_SHA256=1819c494eeda2be08fdca1b4d4d8d669e5a4215395595503502aeb78d019882a
LINUX_TREE=2ad8993997ef9f72638fd10fd2a5b0986f200ddc

# Upstream's release without its firmware images
QEMU_VERSION=10.2.2
QEMU_POOL=pool/main/q/qemu/qemu_10.2.2+ds.orig.tar.xz
QEMU_SHA256=be05230fe47a6937cd29f28f562932c8125f9c93c2a82c625198f7a4aa601dfb
QEMU_TREE=310b229c8c550b04bc1d94abe0c3b2313764e06a

# QEMU's build tool and test helper, newer than in Debian 12; pure Python
MESON_POOL=pool/main/m/meson/meson_1.7.0-1~bpo12+1_all.deb
MESON_SHA256=4b86d2f2cb4431d03826fa4b2c3a89508edeb8140509e7e4b285285ec3175bbe
PYCOTAP_POOL=pool/main/p/python-pycotap/python3-pycotap_1.3.1-2~bpo12+1_all.deb
PYCOTAP_SHA256=3774be6e79318192059aa72e7b7a701e8b99bba2147befcc715650a0da65ca96

# The author line of generated patches.  Whoever submits them signs them off.
SERIES_NAME="pvmemctl developers"
SERIES_EMAIL=pvmemctl@example.invalid
SERIES_DATE="2026-01-01T00:00:00Z"
