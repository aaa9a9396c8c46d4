// SPDX-License-Identifier: GPL-2.0-only
/*
 * pvmemctl core: the protocol between guest and host, whatever carries it.
 *
 * A device has a command register and one 32-byte buffer for each possible CPU.
 * To ask the host for something a CPU fills its buffer and writes the number of
 * that buffer's connection to the command register, the doorbell.  The host acts
 * inside that write: when it returns, the answer has replaced the request.  So
 * the fast path is a few stores with interrupts off, and takes no lock.
 *
 * A device that lost its connections, after the VM was restored from a snapshot
 * for one, does not answer at all.  Then one task connects again while all others
 * wait, and everybody asks once more.
 *
 * Neither side trusts the other.  Whatever the host writes, the core bounds how
 * often it asks, and callers never see a positive error.
 */

#define pr_fmt(fmt) "pvmemctl: " fmt

#include <linux/cc_platform.h>
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/gfp.h>
#include <linux/hardirq.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/irqflags.h>
#include <linux/kref.h>
#include <linux/log2.h>
#include <linux/memory.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/panic_notifier.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/sched/clock.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <xen/xen.h>

#ifdef CONFIG_S390
#include <asm/uv.h>
#endif
#ifdef CONFIG_ARM64
#include <linux/arm-smccc.h>
#include <asm/hypervisor.h>
#endif

#include "pvmemctl.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pvmemctl.h>

#define PVMEMCTL_NAME(code, name)	name,

/* By function code; the codes have no gaps */
static const char * const pvmemctl_names[] = {
	PVMEMCTL_FUNCTIONS(PVMEMCTL_NAME)
};

static_assert(ARRAY_SIZE(pvmemctl_names) == MEMCTL_UNMERGEABLE + 1);

/* What one doorbell carries at most; bounds how long the host keeps a CPU */
#define PVMEMCTL_STEP		SZ_1G

/* The same for undoing: what a hole in memory shares its step with is not undone */
#define PVMEMCTL_UNDO_STEP	SZ_128M

/* How many refused pieces of one range to halve */
#define PVMEMCTL_HALVINGS	128

/* How often to try before a device counts as broken */
#define PVMEMCTL_ATTEMPTS	3

/* How to ask */
#define PVMEMCTL_MAY_SLEEP	BIT(0)	/* wait for a new connection if need be */
#define PVMEMCTL_KILLABLE	BIT(1)	/* stop at a fatal signal, between steps */
#define PVMEMCTL_SPLIT		BIT(2)	/* all is RAM: halve what the host refuses */
#define PVMEMCTL_UNDO		BIT(3)	/* all others are shut out already */

/* A request as the host sees it, overlaid by its answer */
union pvmemctl_wire {
	struct {
		__le64 func_code;
		__le64 addr;
		__le64 length;
		__le64 arg;
	} call;
	struct {
		__le32 ret_errno;
		__le32 ret_code;
		__le64 ret_value;
		__le64 arg0;
		__le64 arg1;
	} ret;
} __aligned(64);	/* the ABI asks for 32; do not share cache lines */

static_assert(sizeof_field(union pvmemctl_wire, call) == 32);
static_assert(sizeof_field(union pvmemctl_wire, ret) == sizeof(struct memctl_buf));
/* In an answered buffer arg0 has replaced length: that tells an answer */
static_assert(offsetof(union pvmemctl_wire, call.length) ==
	      offsetof(union pvmemctl_wire, ret.arg0));

struct pvmemctl_stats {
	unsigned long calls;		/* doorbells */
	unsigned long failed;		/* the host answered with an error */
	unsigned long unanswered;	/* the host did not answer */
	unsigned long kib;		/* KiB in ranges that succeeded */
};

/* Only touched by its own CPU with interrupts off, but for reading */
struct pvmemctl_cpu {
	u32 connection;			/* changes only while no CPU is busy */
	bool busy;			/* between a look at the state and the answer */
	struct pvmemctl_stats stats[ARRAY_SIZE(pvmemctl_names)];
};

/**
 * enum pvmemctl_state - what a call may expect of the device
 * @PVMEMCTL_CONNECTING: wait, a handshake is under way
 * @PVMEMCTL_READY: ring
 * @PVMEMCTL_OFF: suspended, or the guest is going down
 * @PVMEMCTL_BROKEN: it does not answer, given up until resume or rebind
 * @PVMEMCTL_GONE: it has left
 */
enum pvmemctl_state {
	PVMEMCTL_CONNECTING,
	PVMEMCTL_READY,
	PVMEMCTL_OFF,
	PVMEMCTL_BROKEN,
	PVMEMCTL_GONE,
};

/* What callers left behind in the host, to be undone before the guest leaves */
enum { PVMEMCTL_LEFT_PROTECTED, PVMEMCTL_LEFT_LOCKED };

struct pvmemctl {
	struct device *dev;
	const struct pvmemctl_ops *ops;
	void *transport;
	struct kref kref;		/* open files, kernel calls under way */
	struct list_head list;		/* pvmemctl_devices */
	union pvmemctl_wire *wire;	/* nr_cpu_ids of them, in whole pages */
	struct pvmemctl_cpu __percpu *cpus;

	/*
	 * Serialises handshakes and changes of state.  Calls read the state
	 * without it, see pvmemctl_quiesce(), but may wait for it in reclaim:
	 * nothing is allocated under it, and it is the innermost lock.
	 */
	struct mutex connect_lock;
	enum pvmemctl_state state;
	unsigned int generation;	/* handshakes that succeeded */
	unsigned int failed;		/* generation that no longer answers */
	unsigned int reconnects;	/* since a call was last answered */
	u64 page_size;			/* of the host, bytes */

	unsigned long left;		/* PVMEMCTL_LEFT_* */
	unsigned long events;		/* enum pvmemctl_event, not yet delivered */
	struct work_struct work;
	struct dentry *debugfs;
};

/*
 * Protects the list of devices and the provider slot as writer, and orders what
 * consumers are told.  Held while they are, so they may not call back into
 * registration.
 */
static DEFINE_MUTEX(pvmemctl_lock);
static LIST_HEAD(pvmemctl_devices);
static struct pvmemctl __rcu *pvmemctl_provider;
static BLOCKING_NOTIFIER_HEAD(pvmemctl_chain);
static struct dentry *pvmemctl_debugfs;

/* All RAM of the guest, ascending; at hand because panic() may take no lock */
struct pvmemctl_ram {
	struct rcu_head rcu;
	unsigned int nr;
	struct {
		u64 addr;
		u64 end;
	} range[] __counted_by(nr);
};

/* Protects pvmemctl_ram as writer.  Memory hotplug takes it, never pvmemctl_lock */
static DEFINE_MUTEX(pvmemctl_ram_lock);
static struct pvmemctl_ram __rcu *pvmemctl_ram;

/* One question to the host, by this CPU, with interrupts off */
static int pvmemctl_ring(struct pvmemctl *pm, struct memctl_buf *buf)
{
	struct pvmemctl_cpu *cpu = this_cpu_ptr(pm->cpus);
	union pvmemctl_wire *wire = &pm->wire[smp_processor_id()];
	struct memctl_vmm_call call = buf->call;

	WRITE_ONCE(wire->call.func_code, cpu_to_le64(call.func_code));
	WRITE_ONCE(wire->call.addr, cpu_to_le64(call.addr));
	WRITE_ONCE(wire->call.length, cpu_to_le64(call.length));
	WRITE_ONCE(wire->call.arg, cpu_to_le64(call.arg));

	mb(); /* the request is in memory before the host is told */
	pm->ops->write_command(pm->transport, cpu->connection);
	mb(); /* the answer is read after the host has acted */

	if (READ_ONCE(wire->ret.arg0) == cpu_to_le64(call.length))
		return -EAGAIN;

	buf->ret = (struct memctl_vmm_ret) {
		.ret_errno	= le32_to_cpu(READ_ONCE(wire->ret.ret_errno)),
		.ret_code	= le32_to_cpu(READ_ONCE(wire->ret.ret_code)),
		.ret_value	= le64_to_cpu(READ_ONCE(wire->ret.ret_value)),
		.arg0		= le64_to_cpu(READ_ONCE(wire->ret.arg0)),
		.arg1		= le64_to_cpu(READ_ONCE(wire->ret.arg1)),
	};
	return 0;
}

/*
 * Something may stay behind, also of a call that fails half way.  Noted before the
 * host is asked: this CPU may be stopped for a panic before it has the answer.
 */
static void pvmemctl_note_left(struct pvmemctl *pm, u64 func_code)
{
	switch (func_code) {
	case MEMCTL_MLOCK:
		set_bit(PVMEMCTL_LEFT_LOCKED, &pm->left);
		break;
	case MEMCTL_MPROTECT_NONE:
	case MEMCTL_MPROTECT_R:
	case MEMCTL_MPROTECT_W:
		set_bit(PVMEMCTL_LEFT_PROTECTED, &pm->left);
		/* A crash kernel could not read this: let pvmemctl_panic() run first */
		WRITE_ONCE(crash_kexec_post_notifiers, true);
		break;
	}
}

static void pvmemctl_account(struct pvmemctl *pm, const struct memctl_vmm_call *call,
			     int err, const struct memctl_buf *buf)
{
	struct pvmemctl_stats *stats = &this_cpu_ptr(pm->cpus)->stats[call->func_code];

	stats->calls++;
	if (err)
		stats->unanswered++;
	else if (memctl_ret_errno(buf))
		stats->failed++;
	else if (call->func_code != MEMCTL_INFO)
		stats->kib += call->length / SZ_1K;

	if (!err && READ_ONCE(pm->reconnects))
		WRITE_ONCE(pm->reconnects, 0);
}

/*
 * Ask once, on whatever CPU this is.  -EAGAIN: connect again, the connection to
 * blame is of generation @gen, or of none that ever was ready when @gen is 0.
 */
static int pvmemctl_exchange(struct pvmemctl *pm, struct memctl_buf *buf,
			     unsigned int flags, unsigned int *gen)
{
	struct memctl_vmm_call call = buf->call;
	enum pvmemctl_state state;
	struct pvmemctl_cpu *cpu;
	u64 start = 0;
	int ret;

	/* Interrupts off: nobody else on this CPU may use its buffer */
	guard(irqsave)();
	cpu = this_cpu_ptr(pm->cpus);
	/* In a panic it does not matter whom we interrupted */
	if ((in_nmi() || cpu->busy) && !(flags & PVMEMCTL_UNDO))
		return -EBUSY;

	WRITE_ONCE(cpu->busy, true);
	smp_mb(); /* pairs with pvmemctl_quiesce() */
	/* Ready only with the connections that were made before */
	state = flags & PVMEMCTL_UNDO ? PVMEMCTL_READY : smp_load_acquire(&pm->state);
	switch (state) {
	case PVMEMCTL_READY:
		*gen = READ_ONCE(pm->generation);
		pvmemctl_note_left(pm, call.func_code);
		if (trace_pvmemctl_call_enabled())
			start = local_clock();
		ret = pvmemctl_ring(pm, buf);
		if (start)
			trace_pvmemctl_call(&call, ret, &buf->ret, local_clock() - start);
		pvmemctl_account(pm, &call, ret, buf);
		break;
	case PVMEMCTL_CONNECTING:
		*gen = 0;
		ret = -EAGAIN;
		break;
	case PVMEMCTL_GONE:
		ret = -ENODEV;
		break;
	default:
		ret = -EIO;
	}
	smp_store_release(&cpu->busy, false); /* pvmemctl_quiesce() goes on */
	return ret;
}

/*
 * Leave the ready state, and wait for the CPUs that saw it last.  They have
 * interrupts off and wait for nothing but the host.
 */
static void pvmemctl_quiesce(struct pvmemctl *pm, enum pvmemctl_state state)
{
	int cpu;

	lockdep_assert_held(&pm->connect_lock);
	WRITE_ONCE(pm->state, state);
	smp_mb(); /* a CPU sees the new state, or we see it busy */
	for_each_possible_cpu(cpu)
		smp_cond_load_acquire(&per_cpu_ptr(pm->cpus, cpu)->busy, !VAL);
}

static int pvmemctl_command(struct pvmemctl *pm, u32 command)
{
	pm->ops->write_command(pm->transport, command);
	if (pm->ops->read_answer(pm->transport) != MEMCTL_ANSWER_ACK)
		return -EIO;
	return 0;
}

/* It answers ERROR when it worked, and nothing can be done when it did not */
static void pvmemctl_disconnect(struct pvmemctl *pm)
{
	pm->ops->write_command(pm->transport, MEMCTL_CMD_DISCONNECT);
}

static int pvmemctl_handshake(struct pvmemctl *pm)
{
	u32 connection;
	int cpu, ret;

	ret = pvmemctl_command(pm, MEMCTL_CMD_RESET);
	if (ret)
		return ret;

	for_each_possible_cpu(cpu) {
		pm->ops->write_payload(pm->transport, virt_to_phys(&pm->wire[cpu]));
		ret = pvmemctl_command(pm, MEMCTL_CMD_REGISTER);
		if (ret)
			return ret;
		connection = pm->ops->read_payload(pm->transport);
		/* To ring it must not be a command */
		if (!(connection & MEMCTL_CONNECTION_BASE))
			return -EIO;
		per_cpu_ptr(pm->cpus, cpu)->connection = connection;
	}

	return pvmemctl_command(pm, MEMCTL_CMD_READY);
}

/* Learn who is there.  -EPROTO for a host that asking again does not change. */
static int pvmemctl_greet(struct pvmemctl *pm)
{
	struct memctl_buf buf = {
		.call = { .func_code = MEMCTL_INFO, .length = ~0ULL },
	};
	int ret;

	scoped_guard(irqsave)
		ret = pvmemctl_ring(pm, &buf);
	if (ret)
		return ret;
	if (memctl_ret_errno(&buf)) {
		dev_err(pm->dev, "host does not say who it is (errno %d); check the VMM's settings\n",
			-memctl_ret_errno(&buf));
		return -EPROTO;
	}
	if (buf.ret.arg0 != MEMCTL_PROTOCOL_MAJOR) {
		dev_err(pm->dev, "host speaks protocol %llu.%llu, this driver %u.x; update the older one\n",
			buf.ret.arg0, buf.ret.arg1, MEMCTL_PROTOCOL_MAJOR);
		return -EPROTO;
	}
	if (!is_power_of_2(buf.ret.ret_value) || buf.ret.ret_value < SZ_4K ||
	    buf.ret.ret_value > PVMEMCTL_STEP) {
		dev_err(pm->dev, "host claims a page size of %llu bytes; the VMM is broken\n",
			buf.ret.ret_value);
		return -EPROTO;
	}
	WRITE_ONCE(pm->page_size, buf.ret.ret_value);
	return 0;
}

/* Shake hands, a bounded number of times */
static int pvmemctl_connect(struct pvmemctl *pm)
{
	int attempt, ret;

	pvmemctl_quiesce(pm, PVMEMCTL_CONNECTING);
	for (attempt = 0; attempt < PVMEMCTL_ATTEMPTS; attempt++) {
		ret = pvmemctl_handshake(pm);
		if (!ret)
			ret = pvmemctl_greet(pm);
		if (!ret || ret == -EPROTO)
			break;
	}
	if (ret) {
		/* The host must not write to buffers that nobody waits for */
		pvmemctl_disconnect(pm);
		WRITE_ONCE(pm->state, PVMEMCTL_BROKEN);
		return ret == -EPROTO ? ret : -EIO;
	}

	WRITE_ONCE(pm->generation, pm->generation + 1);
	smp_store_release(&pm->state, PVMEMCTL_READY); /* with new connections */
	dev_dbg(pm->dev, "connected, host pages of %llu bytes\n", pm->page_size);
	return 0;
}

static void pvmemctl_queue_event(struct pvmemctl *pm, enum pvmemctl_event event)
{
	set_bit(event, &pm->events);
	schedule_work(&pm->work);
}

/*
 * The connection of generation @gen does not answer.  Whoever comes first makes
 * a new one, the others wait for it.
 */
static int pvmemctl_reconnect(struct pvmemctl *pm, unsigned int gen)
{
	int ret;

	guard(mutex)(&pm->connect_lock);
	if (pm->state != PVMEMCTL_READY || pm->generation != gen)
		return 0;	/* somebody did, or there is no point: ask again */

	/* One that always connects and never answers must not keep us busy */
	if (++pm->reconnects > PVMEMCTL_ATTEMPTS) {
		pvmemctl_quiesce(pm, PVMEMCTL_BROKEN);
		pvmemctl_disconnect(pm);
		ret = -EIO;
	} else {
		ret = pvmemctl_connect(pm);
	}

	/* In either case the host may have dropped what was set before */
	pvmemctl_queue_event(pm, PVMEMCTL_RESET);
	if (ret)
		dev_err(pm->dev, "device stopped answering; unbind and bind this driver to try again\n");
	else
		dev_warn_ratelimited(pm->dev, "device had forgotten its connections; protections, locks and names may be gone\n");
	return ret;
}

static void pvmemctl_notify(struct pvmemctl *pm, enum pvmemctl_event event)
{
	lockdep_assert_held(&pvmemctl_lock);
	if (rcu_access_pointer(pvmemctl_provider) == pm)
		blocking_notifier_call_chain(&pvmemctl_chain, event, NULL);
}

/*
 * For callers that cannot wait, and so that consumers are told from where they
 * can call again, whatever the device does then.
 */
static void pvmemctl_work(struct work_struct *work)
{
	struct pvmemctl *pm = container_of(work, struct pvmemctl, work);
	unsigned int failed = READ_ONCE(pm->failed);

	if (failed)
		pvmemctl_reconnect(pm, failed);

	guard(mutex)(&pvmemctl_lock);
	if (test_and_clear_bit(PVMEMCTL_RESUMED, &pm->events))
		pvmemctl_notify(pm, PVMEMCTL_RESUMED);
	if (test_and_clear_bit(PVMEMCTL_RESET, &pm->events))
		pvmemctl_notify(pm, PVMEMCTL_RESET);
}

/* One doorbell, and what it takes to have it answered */
static int pvmemctl_ask(struct pvmemctl *pm, struct memctl_buf *buf, unsigned int flags)
{
	unsigned int gen;
	int attempt, ret;

	for (attempt = 0; attempt < PVMEMCTL_ATTEMPTS; attempt++) {
		ret = pvmemctl_exchange(pm, buf, flags, &gen);
		if (ret != -EAGAIN)
			return ret;
		if (flags & PVMEMCTL_UNDO)
			return -EIO;
		if (!(flags & PVMEMCTL_MAY_SLEEP)) {
			if (gen) {
				WRITE_ONCE(pm->failed, gen);
				schedule_work(&pm->work);
			}
			return -EIO;
		}
		ret = pvmemctl_reconnect(pm, gen);
		if (ret)
			return -EIO;
	}
	return -EIO;
}

/* Is every byte RAM of this kernel? */
static bool pvmemctl_is_ram(u64 addr, u64 length)
{
	struct pvmemctl_ram *ram;
	unsigned int i;

	guard(rcu)();
	ram = rcu_dereference(pvmemctl_ram);
	for (i = 0; i < ram->nr; i++) {
		if (addr < ram->range[i].addr)
			return false;
		if (addr >= ram->range[i].end)
			continue;
		if (length <= ram->range[i].end - addr)
			return true;
		length -= ram->range[i].end - addr;
		addr = ram->range[i].end;
	}
	return false;
}

/* The host refused the range before it tried anything */
static bool pvmemctl_refused(const struct memctl_buf *buf, u64 func_code)
{
	return buf->ret.ret_errno == EINVAL && buf->ret.ret_code == func_code;
}

/*
 * Ask for a range, in as many steps as it takes.
 *
 * A host may want each request to lie in one of its memory regions, and the guest
 * cannot see where those end.  So when the host refuses a range that is all RAM,
 * look for the border by halving: @border is the lowest end that was refused.
 * Each step makes progress or halves the next one; a page refused alone is final.
 */
static int pvmemctl_call_range(struct pvmemctl *pm, struct memctl_buf *buf,
			       unsigned int flags)
{
	const struct memctl_vmm_call whole = buf->call;
	const u64 end = whole.addr + whole.length;
	const u64 page = READ_ONCE(pm->page_size);
	u64 addr = whole.addr, border = 0;
	int halvings = 0, ret;

	if (whole.func_code == MEMCTL_INFO) {
		/* Without a range; a length that no answer has in its place */
		buf->call.length = ~0ULL;
		return pvmemctl_ask(pm, buf, flags);
	}

	while (addr < end) {
		u64 length = min(end - addr, PVMEMCTL_STEP);

		if (border)
			length = min(length, max(page, round_down((border - addr) / 2, page)));

		buf->call = whole;
		buf->call.addr = addr;
		buf->call.length = length;
		ret = pvmemctl_ask(pm, buf, flags);
		if (ret)
			return ret;

		if (!memctl_ret_errno(buf)) {
			addr += length;
			if (border && border - addr <= page)
				border = 0;	/* found: it is here */
		} else if (flags & PVMEMCTL_SPLIT && pvmemctl_refused(buf, whole.func_code) &&
			   length > page && ++halvings <= PVMEMCTL_HALVINGS) {
			border = addr + length;
		} else {
			return 0;
		}

		if (flags & PVMEMCTL_MAY_SLEEP)
			cond_resched();
		if (flags & PVMEMCTL_KILLABLE && addr < end && fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

static int pvmemctl_check(struct pvmemctl *pm, const struct memctl_vmm_call *call)
{
	const u64 page = READ_ONCE(pm->page_size);
	u64 end;

	if (call->func_code >= ARRAY_SIZE(pvmemctl_names))
		return -EINVAL;
	if (call->func_code == MEMCTL_INFO)
		return 0;
	if (!call->length || !IS_ALIGNED(call->addr | call->length, page) ||
	    check_add_overflow(call->addr, call->length, &end))
		return -EINVAL;
	return 0;
}

/* What needs several steps, or is to be undone, is only for RAM that we know */
static bool pvmemctl_only_ram(const struct memctl_vmm_call *call)
{
	switch (call->func_code) {
	case MEMCTL_INFO:
		return false;
	case MEMCTL_MLOCK:
	case MEMCTL_MPROTECT_NONE:
	case MEMCTL_MPROTECT_R:
	case MEMCTL_MPROTECT_W:
		return true;
	default:
		return call->length > PVMEMCTL_STEP;
	}
}

/**
 * pvmemctl_call - ask the host of one device
 * @pm: device
 * @buf: the request, native-endian; the answer when 0 is returned
 *
 * A range of which some is not RAM of this kernel is asked for in one piece or
 * not at all, so that a wrong request has no half effect.  Locks and protections
 * are refused there: the driver could not undo them.
 *
 * Context: Process context, may sleep.
 * Return: 0 when the host answered; -EINVAL for a request that makes no sense,
 *	   -EIO when the device does not answer, -ENODEV when it is gone, -EINTR
 *	   when a fatal signal came between two steps.
 */
int pvmemctl_call(struct pvmemctl *pm, struct memctl_buf *buf)
{
	unsigned int flags = PVMEMCTL_MAY_SLEEP | PVMEMCTL_KILLABLE;
	int ret;

	might_sleep();
	ret = pvmemctl_check(pm, &buf->call);
	if (ret)
		return ret;
	if (pvmemctl_is_ram(buf->call.addr, buf->call.length))
		flags |= PVMEMCTL_SPLIT;
	else if (pvmemctl_only_ram(&buf->call))
		return -EINVAL;
	return pvmemctl_call_range(pm, buf, flags);
}
EXPORT_SYMBOL_GPL(pvmemctl_call);

/**
 * memctl_vmm_call - ask the host to change how it backs guest memory
 * @func_code: one of the MEMCTL_* function codes
 * @addr: guest-physical address, aligned to the host's page size
 * @length: number of bytes, a multiple of the host's page size
 * @arg: depends on @func_code
 * @buf: receives the answer; need not be initialised
 *
 * The range must be RAM that the caller owns.  A long range takes several steps:
 * after an error, any first part of it may have been changed already.  Where the
 * kernel cannot tell whether a context is atomic (no CONFIG_PREEMPT_COUNT), it
 * counts as atomic.
 *
 * Context: Any but NMI.  In atomic context a range is limited to 1 GiB, and
 *	    a lost connection is restored later rather than waited for.
 * Return: 0 when the host answered, see memctl_ret_errno(); -ENODEV when there
 *	   is no device, -EINVAL for an unknown code or an empty, misaligned or
 *	   wrapping range, -EIO when the device does not answer, -E2BIG for
 *	   a range that is too long here, -EBUSY in NMI context, -EINTR when
 *	   a fatal signal came between two steps.
 */
long memctl_vmm_call(__u64 func_code, __u64 addr, __u64 length, __u64 arg,
		     struct memctl_buf *buf)
{
	unsigned int flags = PVMEMCTL_SPLIT;
	struct pvmemctl *pm;
	long ret;

	if (preemptible() && !rcu_preempt_depth())
		flags |= PVMEMCTL_MAY_SLEEP | PVMEMCTL_KILLABLE;

	if (in_nmi())
		return -EBUSY;

	scoped_guard(rcu) {
		pm = rcu_dereference(pvmemctl_provider);
		if (!pm || !kref_get_unless_zero(&pm->kref))
			return -ENODEV;
	}

	buf->call = (struct memctl_vmm_call) {
		.func_code = func_code, .addr = addr, .length = length, .arg = arg,
	};
	ret = pvmemctl_check(pm, &buf->call);
	if (!ret && !(flags & PVMEMCTL_MAY_SLEEP) && func_code != MEMCTL_INFO &&
	    length > PVMEMCTL_STEP)
		ret = -E2BIG;
	if (!ret)
		ret = pvmemctl_call_range(pm, buf, flags);
	pvmemctl_put(pm);
	return ret;
}

static int pvmemctl_add_ram(unsigned long pfn, unsigned long nr_pages, void *data)
{
	struct pvmemctl_ram **ram = data, *bigger;

	bigger = krealloc(*ram, struct_size(bigger, range, (*ram)->nr + 1), GFP_KERNEL);
	if (!bigger)
		return -ENOMEM;
	*ram = bigger;
	bigger->nr++;
	bigger->range[bigger->nr - 1].addr = (u64)pfn << PAGE_SHIFT;
	bigger->range[bigger->nr - 1].end = (u64)(pfn + nr_pages) << PAGE_SHIFT;
	return 0;
}

static int pvmemctl_map_ram(void)
{
	struct pvmemctl_ram *ram, *old;
	int ret;

	lockdep_assert_held(&pvmemctl_ram_lock);
	ram = kzalloc(struct_size(ram, range, 0), GFP_KERNEL);
	if (!ram)
		return -ENOMEM;
	/* It also fails where there is no such range */
	ret = walk_system_ram_range(0, ULONG_MAX, &ram, pvmemctl_add_ram);
	if (ret == -ENOMEM) {
		kfree(ram);
		return ret;
	}
	old = rcu_replace_pointer(pvmemctl_ram, ram, lockdep_is_held(&pvmemctl_ram_lock));
	kfree_rcu(old, rcu);
	return 0;
}

/*
 * What a caller protected or locked must not outlive this kernel: the next one,
 * or its crash kernel, would fault on it.  A 1.0 host undoes nothing by itself.
 */
static int pvmemctl_undo(struct pvmemctl *pm, const struct pvmemctl_ram *ram,
			 unsigned int flags)
{
	static const struct {
		int left;
		u64 func_code;
	} undo[] = {
		{ PVMEMCTL_LEFT_PROTECTED,	MEMCTL_MPROTECT_RW },
		{ PVMEMCTL_LEFT_LOCKED,		MEMCTL_MUNLOCK },
	};
	const u64 page = READ_ONCE(pm->page_size);
	struct memctl_buf buf;
	unsigned int i, r;
	u64 addr, end, length;
	int ret;

	for (i = 0; i < ARRAY_SIZE(undo); i++) {
		if (!test_bit(undo[i].left, &pm->left))
			continue;
		for (r = 0; r < ram->nr; r++) {
			/* A host page with any RAM in it may have been protected */
			addr = round_down(ram->range[r].addr, page);
			end = round_up(ram->range[r].end, page);
			/* In steps, so that an error does not keep the others */
			for (; addr < end; addr += length) {
				length = min(end - addr, max(page, PVMEMCTL_UNDO_STEP));
				buf.call = (struct memctl_vmm_call) {
					.func_code = undo[i].func_code,
					.addr = addr,
					.length = length,
				};
				ret = pvmemctl_call_range(pm, &buf, flags);
				if (ret)
					return ret;
				if (memctl_ret_errno(&buf))
					dev_warn_ratelimited(pm->dev, "host did not undo %s at 0x%llx (errno %d); start the VM anew instead of another kernel in it\n",
							     pvmemctl_names[undo[i].func_code],
							     addr, -memctl_ret_errno(&buf));
			}
		}
		clear_bit(undo[i].left, &pm->left);
	}
	return 0;
}

/* Shut everybody out, then leave the host's memory as it was found */
static void pvmemctl_leave(struct pvmemctl *pm, enum pvmemctl_state state)
{
	struct memctl_buf buf = { .call = { .func_code = MEMCTL_INFO } };
	const struct pvmemctl_ram *ram;
	bool connected;

	/* Find out now if the device has forgotten us: it is too late afterwards */
	if (READ_ONCE(pm->left))
		pvmemctl_call(pm, &buf);

	guard(mutex)(&pvmemctl_ram_lock);
	/* Memory may have left since; without memory for a new map use the old */
	pvmemctl_map_ram();
	ram = rcu_dereference_protected(pvmemctl_ram, lockdep_is_held(&pvmemctl_ram_lock));

	guard(mutex)(&pm->connect_lock);
	connected = pm->state == PVMEMCTL_READY;
	pvmemctl_quiesce(pm, state);
	if (connected) {
		if (pvmemctl_undo(pm, ram, PVMEMCTL_UNDO | PVMEMCTL_SPLIT | PVMEMCTL_MAY_SLEEP))
			dev_err(pm->dev, "device stopped answering, protections and locks stay; start the VM anew instead of another kernel in it\n");
		pvmemctl_disconnect(pm);
	}
}

/*
 * No other CPU runs, whatever it was doing.  If that was a handshake, or the device
 * had forgotten its connections, shake hands once more.
 */
static int pvmemctl_panic(struct notifier_block *nb, unsigned long action, void *data)
{
	const unsigned int flags = PVMEMCTL_UNDO | PVMEMCTL_SPLIT;
	struct pvmemctl_ram *ram;
	struct pvmemctl *pm;

	guard(rcu)();
	ram = rcu_dereference(pvmemctl_ram);
	list_for_each_entry_rcu(pm, &pvmemctl_devices, list) {
		if (!READ_ONCE(pm->left))
			continue;
		if (READ_ONCE(pm->state) == PVMEMCTL_READY && !pvmemctl_undo(pm, ram, flags))
			continue;
		if (!pvmemctl_handshake(pm))
			pvmemctl_undo(pm, ram, flags);
	}
	return NOTIFY_DONE;
}

static struct notifier_block pvmemctl_panic_nb = {
	.notifier_call = pvmemctl_panic,
};

static int pvmemctl_memory_changed(struct notifier_block *nb, unsigned long action,
				   void *data)
{
	if (action == MEM_ONLINE || action == MEM_OFFLINE) {
		guard(mutex)(&pvmemctl_ram_lock);
		if (rcu_access_pointer(pvmemctl_ram) && pvmemctl_map_ram())
			pr_warn("no memory to note a change of memory: do not protect or lock what was added\n");
	}
	return NOTIFY_OK;
}

static int pvmemctl_calls_show(struct seq_file *m, void *unused)
{
	struct pvmemctl *pm = m->private;
	unsigned int func;
	int cpu;

	seq_printf(m, "# generation %u, host page size %llu bytes\n",
		   READ_ONCE(pm->generation), READ_ONCE(pm->page_size));
	seq_puts(m, "# function           doorbells     failed unanswered        KiB\n");
	for (func = 0; func < ARRAY_SIZE(pvmemctl_names); func++) {
		struct pvmemctl_stats sum = {};

		for_each_possible_cpu(cpu) {
			struct pvmemctl_stats *s = &per_cpu_ptr(pm->cpus, cpu)->stats[func];

			sum.calls += READ_ONCE(s->calls);
			sum.failed += READ_ONCE(s->failed);
			sum.unanswered += READ_ONCE(s->unanswered);
			sum.kib += READ_ONCE(s->kib);
		}
		seq_printf(m, "%-18s %11lu %10lu %10lu %10lu\n", pvmemctl_names[func],
			   sum.calls, sum.failed, sum.unanswered, sum.kib);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pvmemctl_calls);

/* Why this guest must not use the device at all, or NULL */
VISIBLE_IF_KUNIT const char *pvmemctl_refusal(void)
{
	KUNIT_STATIC_STUB_REDIRECT(pvmemctl_refusal);

	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT) ||
	    cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return "memory of this guest is encrypted";
#ifdef CONFIG_S390
	if (is_prot_virt_guest())
		return "this is a protected guest";
#endif
#if defined(CONFIG_ARM64) && defined(CONFIG_HAVE_ARM_SMCCC_DISCOVERY)
	if (kvm_arm_hyp_service_available(ARM_SMCCC_KVM_FUNC_HYP_MEMINFO))
		return "this is a protected guest";
#endif
	if (xen_pv_domain())
		return "guest-physical addresses mean nothing to a Xen PV host";
	return NULL;
}

static void pvmemctl_free(struct kref *kref)
{
	struct pvmemctl *pm = container_of(kref, struct pvmemctl, kref);

	free_percpu(pm->cpus);
	if (pm->wire)
		free_pages_exact(pm->wire, array_size(nr_cpu_ids, sizeof(*pm->wire)));
	kfree(pm);
}

/**
 * pvmemctl_get - keep a device's memory
 * @pm: device
 *
 * Context: Any; the caller holds a reference or knows the device is registered.
 */
void pvmemctl_get(struct pvmemctl *pm)
{
	kref_get(&pm->kref);
}
EXPORT_SYMBOL_GPL(pvmemctl_get);

/**
 * pvmemctl_put - give back a reference
 * @pm: device, not to be used any more
 *
 * Context: Any but NMI.
 */
void pvmemctl_put(struct pvmemctl *pm)
{
	kref_put(&pm->kref, pvmemctl_free);
}
EXPORT_SYMBOL_GPL(pvmemctl_put);

/**
 * pvmemctl_register - connect to a device and offer it to the kernel
 * @dev: its device, for messages; must live until pvmemctl_unregister()
 * @ops: how to reach its registers
 * @transport: handed to @ops
 *
 * The first device serves kernel callers; others only serve their own users.
 *
 * Context: Process context, may sleep.
 * Return: the device with one reference held, or an ERR_PTR: -ENODEV where the
 *	   guest must not use it, -EIO where it does not answer, -EPROTO where it
 *	   answers nonsense, -ENOMEM.
 */
struct pvmemctl *pvmemctl_register(struct device *dev, const struct pvmemctl_ops *ops,
				   void *transport)
{
	const char *refusal = pvmemctl_refusal();
	struct pvmemctl *pm;
	int ret;

	if (refusal) {
		dev_info(dev, "not used: %s\n", refusal);
		return ERR_PTR(-ENODEV);
	}

	pm = kzalloc_obj(*pm, GFP_KERNEL);
	if (!pm)
		return ERR_PTR(-ENOMEM);
	pm->dev = dev;
	pm->ops = ops;
	pm->transport = transport;
	kref_init(&pm->kref);
	mutex_init(&pm->connect_lock);
	INIT_WORK(&pm->work, pvmemctl_work);
	pm->cpus = alloc_percpu(struct pvmemctl_cpu);
	pm->wire = alloc_pages_exact(array_size(nr_cpu_ids, sizeof(*pm->wire)),
				     GFP_KERNEL | __GFP_ZERO);
	if (!pm->cpus || !pm->wire) {
		ret = -ENOMEM;
		goto err_put;
	}

	mutex_lock(&pm->connect_lock);
	ret = pvmemctl_connect(pm);
	mutex_unlock(&pm->connect_lock);
	if (ret) {
		if (ret == -EIO)
			dev_err(dev, "device does not answer; is it the host's pvmemctl?\n");
		goto err_put;
	}

	mutex_lock(&pvmemctl_ram_lock);
	ret = pvmemctl_map_ram();
	mutex_unlock(&pvmemctl_ram_lock);
	if (ret) {
		pvmemctl_disconnect(pm);
		goto err_put;
	}

	mutex_lock(&pvmemctl_lock);
	list_add_tail_rcu(&pm->list, &pvmemctl_devices);
	if (!rcu_access_pointer(pvmemctl_provider)) {
		rcu_assign_pointer(pvmemctl_provider, pm);
		pvmemctl_notify(pm, PVMEMCTL_ADDED);
	}
	mutex_unlock(&pvmemctl_lock);

	pm->debugfs = debugfs_create_dir(dev_name(dev), pvmemctl_debugfs);
	debugfs_create_file("calls", 0400, pm->debugfs, pm, &pvmemctl_calls_fops);
	return pm;

err_put:
	pvmemctl_put(pm);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_GPL(pvmemctl_register);

/**
 * pvmemctl_unregister - the device leaves
 * @pm: device; this drops the reference of pvmemctl_register()
 *
 * Undoes what callers left behind in the host.  Calls fail with -ENODEV from now
 * on, also those of open files, and @ops are not used any more.
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_unregister(struct pvmemctl *pm)
{
	debugfs_remove_recursive(pm->debugfs);

	pvmemctl_leave(pm, PVMEMCTL_GONE);
	scoped_guard(mutex, &pvmemctl_lock) {
		list_del_rcu(&pm->list);
		if (rcu_access_pointer(pvmemctl_provider) == pm) {
			rcu_assign_pointer(pvmemctl_provider, NULL);
			blocking_notifier_call_chain(&pvmemctl_chain, PVMEMCTL_LOST, NULL);
		}
	}
	synchronize_rcu();	/* readers of the list and the provider slot */
	cancel_work_sync(&pm->work);
	pvmemctl_put(pm);
}
EXPORT_SYMBOL_GPL(pvmemctl_unregister);

/**
 * pvmemctl_suspend - leave the host in its default state and hold calls off
 * @pm: device
 *
 * For sleep, hibernation, kexec, reboot and power-off.  Calls fail with -EIO
 * until pvmemctl_resume().
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_suspend(struct pvmemctl *pm)
{
	pvmemctl_leave(pm, PVMEMCTL_OFF);
}
EXPORT_SYMBOL_GPL(pvmemctl_suspend);

/**
 * pvmemctl_resume - connect again after pvmemctl_suspend()
 * @pm: device
 *
 * Context: Process context, may sleep.
 * Return: 0, -EIO when the device does not answer, -EPROTO when it is another.
 */
int pvmemctl_resume(struct pvmemctl *pm)
{
	int ret;

	scoped_guard(mutex, &pm->connect_lock) {
		pm->reconnects = 0;
		ret = pvmemctl_connect(pm);
	}
	if (ret)
		dev_err(pm->dev, "device is not usable after resume (%d); unbind and bind this driver to try again\n",
			ret);
	/* Whatever comes of it: what was set before is gone */
	pvmemctl_queue_event(pm, PVMEMCTL_RESUMED);
	return ret;
}
EXPORT_SYMBOL_GPL(pvmemctl_resume);

/**
 * pvmemctl_register_notifier - be told about the provider
 * @nb: called with an enum pvmemctl_event; at once with PVMEMCTL_ADDED when
 *	there is a provider already
 *
 * @nb runs in process context and may call memctl_vmm_call(), but must not
 * register or unregister notifiers.
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EEXIST when @nb is registered.
 */
int pvmemctl_register_notifier(struct notifier_block *nb)
{
	int ret;

	guard(mutex)(&pvmemctl_lock);
	ret = blocking_notifier_chain_register(&pvmemctl_chain, nb);
	if (!ret && rcu_access_pointer(pvmemctl_provider))
		nb->notifier_call(nb, PVMEMCTL_ADDED, NULL);
	return ret;
}

/**
 * pvmemctl_unregister_notifier - no longer be told
 * @nb: notifier; not running when this returns
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_unregister_notifier(struct notifier_block *nb)
{
	blocking_notifier_chain_unregister(&pvmemctl_chain, nb);
}

static int __init pvmemctl_init(void)
{
	pvmemctl_debugfs = debugfs_create_dir("pvmemctl", NULL);
	atomic_notifier_chain_register(&panic_notifier_list, &pvmemctl_panic_nb);
	hotplug_memory_notifier(pvmemctl_memory_changed, DEFAULT_CALLBACK_PRI);
	return 0;
}
subsys_initcall(pvmemctl_init);
