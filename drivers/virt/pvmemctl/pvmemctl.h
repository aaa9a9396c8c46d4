/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside of the pvmemctl driver: what the core offers to transports and to the
 * character device.
 */
#ifndef _PVMEMCTL_H
#define _PVMEMCTL_H

#include <linux/pvmemctl.h>

struct device;
struct pvmemctl;

/**
 * struct pvmemctl_ops - the two registers of a device
 * @write_payload: write the payload register
 * @read_payload: read the low half of the payload register
 * @write_command: write the command register; the device has acted on the
 *		   command or doorbell when this returns
 * @read_answer: read the command register
 *
 * @transport is what was given to pvmemctl_register().  All are called with
 * interrupts off or with the device's connect mutex held, and must not sleep.
 */
struct pvmemctl_ops {
	void (*write_payload)(void *transport, u64 payload);
	u32 (*read_payload)(void *transport);
	void (*write_command)(void *transport, u32 command);
	u32 (*read_answer)(void *transport);
};

struct pvmemctl *pvmemctl_register(struct device *dev,
				   const struct pvmemctl_ops *ops,
				   void *transport);
void pvmemctl_unregister(struct pvmemctl *pm);
void pvmemctl_suspend(struct pvmemctl *pm);
int pvmemctl_resume(struct pvmemctl *pm);

void pvmemctl_get(struct pvmemctl *pm);
void pvmemctl_put(struct pvmemctl *pm);
int pvmemctl_call(struct pvmemctl *pm, struct memctl_buf *buf);

struct pvmemctl_chardev;

struct pvmemctl_chardev *pvmemctl_chardev_add(struct device *dev,
					      struct pvmemctl *pm);
void pvmemctl_chardev_remove(struct pvmemctl_chardev *cd);

#if IS_ENABLED(CONFIG_KUNIT)
struct notifier_block;

const char *pvmemctl_refusal(void);
int pvmemctl_panic(struct notifier_block *nb, unsigned long action, void *data);
#endif

#endif /* _PVMEMCTL_H */
